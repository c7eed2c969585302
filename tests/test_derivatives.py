"""First and second derivatives of layers and variants: those of finite differences and those in float64."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from alexnet.networks import fast, layers
from alexnet.networks.model import AlexNet
from tooled import close, every_variant, needs_compiler, net, pictures

# With a picture (channels, side) of few numbers, each of which is a row and a column of what finite differences make.
OWN = {
    "LRN": (lambda: layers.LocalResponseNorm(6, 2, 3, 0.2, 0.75, 1.0), 6, 2),
    "LRN of another power": (lambda: layers.LocalResponseNorm(6, 1, 5, 0.2, 0.6, 2.0), 6, 2),
    "norm within maps": (lambda: layers.WithinMapNorm(3, 0.3, 0.75), 2, 4),
    "pooling by all ties": (lambda: layers.AllTiesMaxPool2d(3, 2), 2, 4),
    "pooling by all ties, of whole windows": (lambda: layers.AllTiesMaxPool2d(3, 2, ceil=False), 2, 4),
    "local": (lambda: layers.LocalConv2d(2, 2, 3, 1, 1, (4, 4)), 2, 4),
    "the last window": (lambda: layers.LastWindow(3, 2, 0), 2, 4),
}


def own(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, channels, side = OWN[name]
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, torch.randn(1, channels, side, side, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", OWN)
def test_derivatives_of_every_own_layer_are_those_of_finite_differences(name):
    layer, x = own(name)
    assert gradcheck(layer, (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(layer, (x,), check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("name", OWN)
def test_every_own_layer_maps_over_a_batch_and_compiles_whole(name):
    layer, x = own(name)
    several = torch.cat([x, x.flip(1)])
    close(torch.vmap(lambda one: layer(one[None])[0])(several), layer(several))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    (got,), (wanted,) = (torch.autograd.grad((form(x) ** 2).sum(), x) for form in (compiled, layer))
    close(got, wanted)


def second(model: AlexNet, x: Tensor) -> list[Tensor]:
    """Products with second derivatives of the logits' squares, by the pictures and by the first layer's weights."""
    x = x.detach().requires_grad_()
    given = (x, model.conv1.weight)
    first = torch.autograd.grad((model(x) ** 2).sum(), given, create_graph=True)
    return list(torch.autograd.grad(sum((one**2).sum() for one in first), given))


@every_variant
def test_second_derivatives_of_every_variant_are_those_in_float64(name):
    model = net(name)
    with fast.plain():
        wanted = second(copy.deepcopy(model).double(), pictures(model).double())
    for form in (nullcontext, fast.plain):
        with form():
            for one, other in zip(second(model, pictures(model)), wanted, strict=True):
                close(one.double(), other, 5e-3)


@every_variant
def test_transforms_of_every_variant_give_its_derivatives(name):
    model = net(name)
    x, labels = pictures(model), torch.tensor([0, 1])
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters: dict, one: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, (parameters, buffers), (one[None],))
        return F.cross_entropy(logits, label[None])

    each = torch.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, labels)
    F.cross_entropy(model(x), labels, reduction="sum").backward()
    greatest = max(float(p.grad.abs().max()) for p in model.parameters())
    for one, parameter in parameters.items():
        torch.testing.assert_close(each[one].sum(0), parameter.grad, rtol=1e-3, atol=1e-4 * greatest)
    # Forward mode, in both of torch's ways, is the transpose of reverse mode.
    t, g = torch.randn_like(x), torch.randn(2, 7)
    x.requires_grad_()
    _, tangent = torch.func.jvp(model, (x.detach(),), (t,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(model(forward_ad.make_dual(x.detach(), t))).tangent
    (gradient,) = torch.autograd.grad(model(x), x, g)
    close(dual, tangent)
    torch.testing.assert_close((tangent * g).sum(), (gradient * t).sum(), rtol=1e-2, atol=1e-5)


@needs_compiler
def test_batches_of_gradients_are_those_one_by_one():
    model = net("alexnet2012")
    x = pictures(model, 1).requires_grad_()
    assert fast.passes(model.named_layers, x, model.logits)
    y = model(x)
    batch = torch.autograd.grad(y, x, torch.eye(7)[:, None], is_grads_batched=True, retain_graph=True)[0]
    for one, unit in zip(batch, torch.eye(7), strict=True):
        close(one, torch.autograd.grad(y, x, unit[None], retain_graph=True)[0])
