"""Whatever a user can watch or change in a network does what it should, by the plain layers and by the fast forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from alexnet.inference import features
from alexnet.networks import fast
from alexnet.networks.layers import GroupedLinear, LocalConv2d
from alexnet.networks.model import AlexNet
from tooled import KINDS, close, every_variant, in_plain, needs_compiler, net, pictures, shared_relu


class Halving(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Adapter(nn.Module):
    """As low-rank adapters wrap a layer."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Checkpointed(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, *more) -> Tensor:
        return checkpoint(self.base, x, *more, use_reentrant=False)


def wrapped(model: AlexNet) -> None:
    for name, layer in list(model.named_children()):
        setattr(model, name, Checkpointed(layer))


def adapted(model: AlexNet) -> None:
    for name in ("fc6", "fc8"):
        layer = getattr(model, name)
        setattr(model, name, Adapter(layer, layer.in_features, layer.out_features))
        nn.init.zeros_(getattr(model, name).up.weight)


def parametrized(model: AlexNet) -> None:
    for name in ("conv1", "fc6"):
        parametrize.register_parametrization(getattr(model, name), "weight", nn.Identity())
    parametrizations.weight_norm(model.fc7)


def pruned(model: AlexNet) -> None:
    for name in ("conv1", "fc6"):
        prune.identity(getattr(model, name), "weight")


CHANGES = {
    "one ReLU in every place": shared_relu, "a checkpoint around each layer": wrapped, "adapters": adapted,
    "parametrized": parametrized, "pruned": pruned, "channels last": lambda m: m.to(memory_format=torch.channels_last),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["alexnet2012", "alexnet_owt", "alexnet32", "alexnet_bn"])
def test_changes_that_compute_the_same_give_the_same_logits_and_gradients(name, change):
    plain, changed = net(name), net(name)
    CHANGES[change](changed)
    x, gradients = pictures(plain), []
    for model in (plain, changed):
        given = x.clone().requires_grad_()
        y = model(given)
        gradients.append((y, torch.autograd.grad(y.sum(), given)[0]))
    for one, other in zip(*gradients, strict=True):
        close(one, other)
    masks = {drop: torch.ones(2, units) for drop, (units, _) in plain.dropouts.items()}
    if change != "adapters":
        close(changed.train()(x, masks), plain.train()(x, masks))


@pytest.mark.filterwarnings("ignore")
def test_fully_connected_layers_of_eight_bits_take_the_maps():
    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    model = net("alexnet2012")
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert type(small.fc6) is not nn.Linear
    close(small(pictures(model)), model(pictures(model)), 0.1)


def test_masks_of_layers_that_take_none_are_refused():
    model = net("alexnet2012").train()
    with pytest.raises(ValueError, match="no dropout layer 'drop9' to mask; it has drop6, drop7"):
        model(pictures(model), {"drop9": torch.ones(2, 24)})
    for other in (nn.Identity(), nn.Dropout()):
        model.drop6 = other
        with pytest.raises(ValueError, match=f"drop6 is {type(other).__name__} now, which takes no mask"):
            model(pictures(model), {"drop6": torch.ones(2, 24)})


@needs_compiler
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("alexnet2012", ["conv1_edge", "norm1", "relu2", "pool5"]),
        ("alexnet_paper", ["conv1_edge", "relu1", "relu2", "relu5"]),
        ("caffenet", ["conv1_edge", "relu1", "relu2", "relu5"]),
        ("alexnet_owt", ["conv1", "relu1", "relu2", "relu5"]),
        ("alexnet64", ["conv1", "pool1", "pool2", "pool5"]),
        ("cifar10_18", ["pool1", "norm1", "norm2"]),
    ],
)
def test_the_layers_that_fast_forms_take_in_ordinary_use(name, first):
    model = net(name)

    for x in (pictures(model), pictures(model).to(memory_format=torch.channels_last)):
        for training in (True, False):
            with torch.set_grad_enabled(training):
                assert list(fast.passes(model.train(training).named_layers, x, model.logits)) == first
    with torch.inference_mode(), torch.device("cpu"):
        assert list(fast.passes(model.named_layers, x, model.logits)) == first


class Watching(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@needs_compiler
def test_every_layer_runs_its_plain_form_where_all_are_watched(monkeypatch):
    model = net("alexnet2012")
    x = pictures(model)
    assert fast.passes(model.named_layers, x, model.logits)
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    try:
        y = model(x)
        names = model.order[: model.order.index(model.logits) + 1]
        assert seen[:-1] == [getattr(model, name) for name in names]
    finally:
        handle.remove()
    close(y, model(x))
    for mode in (Watching(), FlopCounterMode(display=False)):
        with mode:
            assert not fast.passes(model.named_layers, x, model.logits)
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: x)
    assert not fast.passes(model.named_layers, x, model.logits)
    monkeypatch.undo()
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x)
    assert not fast.passes(model.named_layers, x, model.logits)
    monkeypatch.undo()
    assert fast.passes(model.named_layers, x, model.logits)


@pytest.mark.parametrize(
    ("name", "owner", "function", "layer"),
    [
        ("alexnet2012", nn.Linear, "forward", "fc6"), ("alexnet64", F, "linear", "fc8"),
        ("alexnet2012_apart", GroupedLinear, "forward", "fc6"), ("cifar10_11", LocalConv2d, "forward", "local3"),
    ],
)  # fmt: skip
def test_functions_put_in_torchs_place_are_called_for_predictions_too(name, owner, function, layer, monkeypatch):
    model, usual, seen = net(name), getattr(owner, function), []

    def watched(*given, **named):
        seen.append(function)
        return usual(*given, **named)

    x = pictures(model)
    wanted = features.outputs(model, x, [layer])[layer]
    monkeypatch.setattr(owner, function, watched)
    np.testing.assert_allclose(features.outputs(model, x, [layer])[layer], wanted, rtol=1e-3, atol=1e-3)
    assert seen


@pytest.mark.parametrize("name", KINDS)
def test_what_a_network_on_the_cpu_computes_does_not_depend_on_torchs_default_device(name):
    model = net(name)
    x = pictures(model)

    def computed() -> list[Tensor]:
        given = x.clone().requires_grad_()
        y = model(given)
        y.sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x)
        return [y, given.grad, low, torch.from_numpy(features.outputs(model, x, [model.logits])[model.logits])]

    usual = computed()
    with torch.device("meta"):
        elsewhere = computed()
    assert all(map(torch.equal, usual, elsewhere))


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "forward", lambda x: x.relu() / 2),
        lambda layer: layer.register_forward_hook(lambda layer, inputs, y: y / 2),
        lambda layer: layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0] / 2,)),
        lambda layer: setattr(layer, "__class__", Halving),
    ],
    ids=["forward", "hook", "pre-hook", "type"],
)
def test_a_changed_layer_does_what_it_was_changed_to(change):
    model, wanted = net("alexnet2012"), net("alexnet2012")
    wanted.relu2 = Halving()
    change(model.relu2)
    x = pictures(model)
    close(model(x), in_plain(wanted, x))
    with torch.no_grad():
        assert float((model(x) - net("alexnet2012")(x)).abs().max()) > 0.1


@needs_compiler
def test_a_hook_on_a_gradient_sees_it():
    model, seen = net("alexnet2012"), []
    model.pool2.register_full_backward_hook(lambda layer, into, out: seen.append((into[0].shape, out[0].shape)))
    model(pictures(model)).sum().backward()
    assert [len(shape) for shape in seen[0]] == [4, 4]


@every_variant
def test_outputs_of_every_layer_have_the_layout_of_the_pictures(name):
    for form in (torch.contiguous_format, torch.channels_last):
        model = net(name)
        x = pictures(model).contiguous(memory_format=form)
        names = [record.name for record in model.variant.layers]
        for half in (False, True):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = [*model.activations(x, names).items(), *((name, model(x, until=name)) for name in names)]
            for layer, y in found:
                assert y.is_contiguous(memory_format=form if y.dim() == 4 else torch.contiguous_format), layer
    assert model(x.contiguous(), until="pool1").view(2, -1).shape[0] == 2
