"""What a network makes of a picture is the same to the bit in any company: products with a row a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.base.errors import AlexNetError, Misused
from alexnet.inference import features
from alexnet.networks import fast
from alexnet.networks.fast.cpu import compiler, rows
from alexnet.networks.layers import GroupedLinear, LocalConv2d
from tooled import every_variant, net, pictures

pytestmark = pytest.mark.cpu

needs_compiler = pytest.mark.skipif(compiler.library()[0] is None, reason="no C++ compiler here")


@needs_compiler
@every_variant
def test_a_picture_is_the_same_bits_to_layers_with_weights_in_any_company_and_place(name):
    model = net(name).to(memory_format=torch.channels_last)
    x = pictures(model, 35)
    weighted = [layer for layer, module in model.named_layers() if hasattr(module, "weight")]
    together = features.outputs(model, x, weighted)
    for some in (slice(0, 1), slice(7, 9), slice(31, 34), slice(3, 11), slice(20, 35), slice(2, 34)):
        few = features.outputs(model, x[some], weighted)
        assert [layer for layer in few if not np.array_equal(few[layer], together[layer][some])] == []


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize("name", ["alexnet2012", "alexnet2012_half", "cifar10_11"])
def test_products_go_a_way_of_their_own_where_that_is_asked_for_and_are_their_layers(name, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(rows, "library", lambda: (None, "none here"))
    model = net(name)
    with torch.no_grad(), rows.alike():
        found = rows.passes(model.named_layers())
    assert len(found) == 3
    for given in (3, 16, 20):
        for one in found:
            (layer,) = one.layers
            if isinstance(layer, LocalConv2d):
                x = torch.randn(given, layer.weight.shape[3], *layer.sides)
            else:
                x = torch.randn(given, layer.in_features * getattr(layer, "groups", 1))
            with torch.no_grad():
                torch.testing.assert_close(one(x), layer(x))
                assert one(x[:0]) is None
                layer.train()
                assert one(x) is None
                layer.eval()


@needs_compiler
@pytest.mark.parametrize("inputs", [1, 7, 64, 1037])
@pytest.mark.parametrize(("outputs", "groups", "bias"), [(1, 1, True), (14, 1, False), (26, 2, True)])
def test_a_row_of_a_compiled_product_is_that_of_float64_and_the_same_bits_in_any_company(inputs, outputs, groups, bias):
    torch.manual_seed(0)
    layer = GroupedLinear(inputs * groups, outputs, groups) if groups > 1 else nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias if bias else layer.weight)
    x, form = torch.randn(71, inputs * groups), rows.RowsAlike(["fc"], [layer.eval()])
    with torch.no_grad():
        parts = zip(x.double().chunk(groups, 1), layer.weight.double().chunk(groups), strict=True)
        expected = torch.cat([part @ weight.T for part, weight in parts], 1) + (layer.bias.double() if bias else 0)
        whole = form(x)
        torch.testing.assert_close(whole.double(), expected, rtol=1e-6, atol=1e-6 * inputs**0.5)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for some in (slice(0, 1), slice(70, 71), slice(3, 5), slice(2, 5), slice(1, 70), slice(5, 71)):
                assert torch.equal(form(x[some]), whole[some])
            torch.set_num_threads(1)


# What a changed network gives to layers with a row a picture: the change, and what the layer says of it.
MISFITS = {
    "more inputs than weights": (lambda m: setattr(m, "pool5", nn.AdaptiveMaxPool2d(5)), "cannot be multiplied"),
    "fewer inputs than weights": (lambda m: setattr(m, "pool5", nn.AdaptiveMaxPool2d(1)), "cannot be multiplied"),
    "a layer for other inputs": (lambda m: setattr(m, "fc6", nn.Linear(999, 24)), "cannot be multiplied"),
    "a weight for other inputs": (lambda m: setattr(m.fc7, "weight", nn.Parameter(torch.ones(24, 9))), "multiplied"),
    "a bias for other outputs": (lambda m: setattr(m.fc7, "bias", nn.Parameter(torch.ones(9))), "must match"),
}  # fmt: skip


@pytest.mark.parametrize("change", MISFITS)
@pytest.mark.parametrize("name", ["alexnet2012", "alexnet64"])
def test_layers_that_do_not_fit_together_say_so_as_torch_does(name, change):
    model = net(name)
    MISFITS[change][0](model)
    with pytest.raises(RuntimeError, match=MISFITS[change][1]):
        features.outputs(model, pictures(model, 3), ["fc8"])


@pytest.mark.parametrize("larger", [-1, 1, 2])
def test_a_locally_connected_layer_refuses_maps_of_another_size_in_either_form(larger):
    layer = LocalConv2d(4, 3, 3, 1, 1, (6, 6)).eval()
    nn.init.normal_(layer.weight)
    x = torch.randn(3, 4, 6 + larger, 6)
    for form in (layer, rows.RowsAlike(["local"], [layer])):
        with torch.no_grad(), pytest.raises(Misused, match=f"6 x 6 windows .* maps of {6 + larger} x 6, which have"):
            form(x)


class Halved(torch.Tensor):
    """Weights that mean half of what is stored, as those of quantised networks mean other than they store."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not nn.functional.linear:
            return super().__torch_function__(function, types, args, kwargs)
        return function(*(one.as_subclass(torch.Tensor) / 2 if type(one) is cls else one for one in args))


@pytest.mark.parametrize("name", ["alexnet2012", "alexnet2012_apart", "alexnet64"])
def test_weights_of_a_subclass_are_multiplied_as_their_own_type_says(name):
    model, wanted = net(name), net(name)
    with torch.no_grad():
        wanted.fc8.weight /= 2
    model.fc8.weight = nn.Parameter(model.fc8.weight.detach().as_subclass(Halved))
    x = pictures(model, 3)
    np.testing.assert_allclose(*(features.outputs(m, x, ["fc8"])["fc8"] for m in (model, wanted)), rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize(
    "given", [torch.ones(3, device="meta"), torch.ones(3).as_subclass(Halved)], ids=["meta", "own"]
)
def test_a_compiled_form_reads_no_memory_but_a_plain_tensors(given):
    with pytest.raises(AlexNetError, match=r"compiled products was given a \w+ on \w+; it reads plain tensors"):
        compiler.call("products", rows._Products(), given)


def test_rows_are_alike_where_that_is_asked_for_alone():
    model = net("alexnet2012")

    def taken() -> bool:
        found = fast.passes(model.named_layers, pictures(model, 3), model.logits)
        return any(isinstance(one, rows.RowsAlike) for one in found.values())

    with torch.no_grad():
        assert not taken()
        with rows.alike():
            assert taken()
    with rows.alike():
        assert not taken()  # gradients would go through copies
