"""Every layer, and the whole network through three updates, against the reference in NumPy, to 1e-9 in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reference as r
import reference_nets as nets
from alexnet import optimizer
from alexnet import variants as v
from alexnet.model import AlexNet
from alexnet.optimizer import Plateau
from alexnet.recipe import override, resolve


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape)


def whole(*shape: int, seed: int = 0) -> np.ndarray:
    """Few whole numbers around 0, so that windows have ties and units lie exactly at 0."""
    return np.random.default_rng([seed, *shape]).integers(-2, 3, shape).astype(float)


def alone(record: v.Layer, channels: int, size: int, classes: int = 3) -> AlexNet:
    """The layer of that record as the package builds it, in a network of its own."""
    return AlexNet(v.Variant("alone", "", size, size, (record,)), classes, channels, size).double()


def same(ours: torch.Tensor | None, theirs: np.ndarray, what: str) -> None:
    assert ours is not None, what
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-9, atol=1e-9, err_msg=what)


def compare(ours, theirs: r.Layer, x: np.ndarray, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Output and gradients of a function of torch against those of the reference."""
    seen = torch.from_numpy(x).requires_grad_()
    y, expected = ours(seen), theirs.forward(x)
    same(y, expected, "output")
    g = random(*expected.shape, seed=9)
    y.backward(torch.from_numpy(g))
    same(seen.grad, theirs.backward(g), "gradient of the input")
    for kind, weight in (weights or {}).items():
        same(weight.grad, theirs.gradients[kind], f"gradient of {kind}")


def compare_record(record: v.Layer, theirs: r.Layer, x: np.ndarray) -> None:
    model = alone(record, x.shape[1], x.shape[2])
    layer = getattr(model, record.name)
    with torch.no_grad():
        for kind, weight in theirs.weights.items():
            getattr(layer, kind).copy_(torch.from_numpy(weight))
    compare(model, theirs, x, dict(layer.named_parameters()))


# -- layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "groups"),
    [(34, 11, 4, 0, 1), (35, 11, 4, 0, 1), (12, 5, 1, 2, 2), (9, 3, 1, 1, 2), (10, 4, 3, 1, 1), (8, 3, 2, 0, 2)],
)
def test_a_convolution_with_ceil(size, kernel, stride, pad, groups):
    theirs = r.Conv(random(6, 4 // groups, kernel, kernel), random(6), stride, pad, groups)
    compare_record(v.Conv("conv", 6, kernel, stride, pad, groups, ceil=True), theirs, random(2, 4, size, size))


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(36, 11, 4, 2), (8, 3, 1, 1), (10, 4, 3, 1)])
def test_a_convolution_without_ceil(size, kernel, stride, pad):
    theirs = r.Conv(random(6, 3, kernel, kernel), random(6), stride, pad, whole=True)
    compare_record(v.Conv("conv", 6, kernel, stride, pad), theirs, random(2, 3, size, size))


@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize(("n", "alpha", "beta", "k"), [(5, 1e-4, 0.75, 2.0), (5, 1e-2, 0.75, 1.0), (3, 1e-2, 0.5, 1.5)])
def test_normalisation_across_maps(towers, divided, n, alpha, beta, k):
    theirs = r.LRN(towers, n, alpha, beta, k, divided)
    compare_record(v.LRN("norm", towers, n, alpha, beta, k, divided), theirs, random(2, 12, 3, 3, scale=40))


@pytest.mark.parametrize(("n", "alpha", "beta"), [(5, 1e-3, 0.75), (3, 5e-5, 0.75), (5, 0.1, 0.5)])
def test_normalisation_within_a_map(n, alpha, beta):
    theirs = r.WithinMapNorm(n, alpha, beta)
    compare_record(v.WithinMapNorm("norm2b", n, alpha, beta), theirs, random(2, 3, 8, 8, scale=40))


@pytest.mark.parametrize(("size", "kernel", "stride"), [(13, 3, 2), (12, 3, 2), (7, 2, 2), (9, 4, 3), (6, 3, 3)])
@pytest.mark.parametrize("draw", [random, whole])
def test_max_pooling_gives_the_gradient_to_the_first_maximum(size, kernel, stride, draw):
    theirs = r.MaxPool(kernel, stride, ties="first")
    compare_record(v.MaxPool("pool", kernel, stride), theirs, draw(3, 4, size, size))


@pytest.mark.parametrize(("size", "kernel", "stride"), [(13, 3, 2), (8, 3, 2), (7, 2, 2)])
def test_average_pooling_divides_by_the_clipped_area(size, kernel, stride):
    def ours(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, kernel, stride, ceil_mode=True)

    compare(ours, r.AveragePool(kernel, stride), random(2, 3, size, size))


def test_relu_has_no_gradient_at_zero():
    compare_record(v.ReLU("relu"), r.ReLU(), whole(2, 3, 4, 4))


def test_tanh():
    compare(torch.tanh, r.Tanh(), random(2, 3, 4, 4))


def test_unshared_weights():
    size, kernel, pad, filters = 5, 3, 1, 4
    weight, bias = random(filters, 2, kernel, kernel, size, size), random(filters, size, size)
    own = {"weight": torch.from_numpy(weight).requires_grad_(), "bias": torch.from_numpy(bias).requires_grad_()}

    def ours(x: torch.Tensor) -> torch.Tensor:
        columns = F.unfold(x, kernel, padding=pad).unflatten(1, (2, kernel, kernel)).unflatten(-1, (size, size))
        return torch.einsum("ncijhw,fcijhw->nfhw", columns, own["weight"]) + own["bias"]

    compare(ours, r.Local(weight, bias, 1, pad), random(3, 2, size, size), own)


def test_dropout_masks_in_training_and_halves_otherwise():
    x, mask = random(4, 3, 2, 2), (random(4, 3, 2, 2, seed=1) > 0).astype(float)
    model, theirs = alone(v.Dropout("drop"), 3, 2), r.Dropout()
    theirs.mask = mask
    compare(lambda seen: model.train()(seen, {"drop": torch.from_numpy(mask)}), theirs, x)
    theirs.mask = None
    compare(model.eval(), theirs, x)


def test_fully_connected():
    compare_record(v.FC("fc", 7), r.FC(random(7, 3 * 4 * 4), random(7)), random(5, 3, 4, 4))


def test_fully_connected_towers_are_two_layers():
    weight, bias, x = random(8, 24), random(8), random(5, 12, 2, 2)
    model = alone(v.FC("fc", 8, groups=2), 12, 2)
    model.load_state_dict({"fc.weight": torch.from_numpy(weight), "fc.bias": torch.from_numpy(bias)})
    seen, g = torch.from_numpy(x).requires_grad_(), random(5, 8)
    y = model(seen)
    y.backward(torch.from_numpy(g))
    for tower in range(2):
        maps, units = slice(6 * tower, 6 * tower + 6), slice(4 * tower, 4 * tower + 4)
        theirs = r.FC(weight[units], bias[units])
        same(y[:, units], theirs.forward(x[:, maps]), "output")
        same(seen.grad[:, maps], theirs.backward(g[:, units]), "gradient of the input")
        same(model.fc.weight.grad[units], theirs.gradients["weight"], "gradient of the weights")


def test_softmax_and_cost():
    x, labels = random(6, 5, scale=30), np.array([0, 4, 2, 2, 1, 3])
    seen = torch.from_numpy(x).requires_grad_()
    value, gradient = nets.cost(x, labels)
    ours = F.cross_entropy(seen, torch.from_numpy(labels))
    ours.backward()
    assert ours.item() == pytest.approx(value, rel=1e-12)
    same(seen.grad, gradient, "gradient")
    maps = x[:, :, None, None]
    model = AlexNet(v.Variant("alone", "", 1, 1, (v.ReLU("relu"), v.Softmax("prob"))), 5, 5, 1).double()
    same(model(torch.from_numpy(maps), until="prob")[:, :, 0, 0], nets.softmax(np.maximum(x, 0)), "probabilities")


# -- networks ---------------------------------------------------------------------------------------------------

FILTERS = {"conv1": 8, "conv2": 16, "conv3": 12, "conv4": 20, "conv5": 16}
CLASSES, SIDE, COUNT = 5, 96, 4  # 96 -> 23 (an overhang of 3) -> 11 -> 5 -> 2
NETS = {"alexnet2012": nets.net145, "alexnet_paper": nets.paper}


def narrow(name: str) -> v.Variant:
    """The variant with few filters and units, for small pictures."""
    layers = tuple(
        replace(x, filters=FILTERS[x.name])
        if isinstance(x, v.Conv)
        else replace(x, units=x.units and 24)
        if isinstance(x, v.FC)
        else x
        for x in v.variant(name).layers
    )
    return replace(v.variant(name), layers=layers, input=SIDE, stored=SIDE)


def pair(name: str, ties: str = "first") -> tuple[AlexNet, nets.Net]:
    """The package's network and the reference's with the same weights."""
    model = AlexNet(narrow(name), CLASSES, 3, SIDE).double()
    weights = {}
    for key, parameter in model.named_parameters():
        fan_in = parameter[0].numel()
        weights[key] = random(*parameter.shape, scale=(2 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.5)
    model.load_state_dict({key: torch.from_numpy(w.copy()) for key, w in weights.items()})
    return model, NETS[name](weights, ties)


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a plausible contrast, and their classes."""
    return random(COUNT, 3, SIDE, SIDE, scale=40), np.array([0, 3, 4, 3])


def masks(step: int) -> dict[str, np.ndarray]:
    return {name: (random(COUNT, 24, seed=10 * step + i) > 0) * 1.0 for i, name in enumerate(("drop6", "drop7"))}


@pytest.mark.parametrize("name", NETS)
def test_the_whole_network_answers_as_the_reference(name):
    model, theirs = pair(name)
    x, _ = pictures()
    same(model.eval()(torch.from_numpy(x)), theirs.forward(x), "logits")
    with torch.no_grad():
        for layer, record in theirs.layers.items():
            x = record.forward(x)
            same(model(torch.from_numpy(pictures()[0]), until=layer), x, layer)


@pytest.mark.parametrize("name", NETS)
def test_the_whole_network_learns_as_the_reference(name):
    model, theirs = pair(name)
    recipe = override(resolve("author_2012"), {"learning_rate": 1e-4})
    sgd, rule = optimizer.build(model, recipe), nets.Rule(theirs.weights())
    x, labels = pictures()
    first = {key: w.copy() for key, w in theirs.weights().items()}
    # Epoch, then ε as the script of 2012 has it, here a hundredth: of weights, of biases, of conv1's.
    plan = [(0, 1e-4, 2e-4, 1e-4, 2e-4), (66, 1e-6, 2e-5, 1e-7, 2e-5), (73, 1e-6, 2e-5, 0, 0)]
    for number, (epoch, weight, bias, conv1_weight, conv1_bias) in enumerate(plan):
        seen, drawn = torch.from_numpy(x).requires_grad_(), masks(number)
        logits = model.train()(seen, {key: torch.from_numpy(mask) for key, mask in drawn.items()})
        loss = F.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        value, g = nets.cost(theirs.forward(x, drawn), labels)
        assert loss.item() == pytest.approx(value, rel=1e-9)
        same(seen.grad, theirs.backward(g), "gradient of the pictures")
        for key, parameter in model.named_parameters():
            same(parameter.grad, theirs.gradients()[key], f"gradient of {key}, step {number}")
        rates = {key: weight if key.endswith("weight") else bias for key in theirs.weights()}
        rule.update(theirs.gradients(), {**rates, "conv1.weight": conv1_weight, "conv1.bias": conv1_bias})
        optimizer.set_rates(sgd, optimizer.rates(recipe, epoch, Plateau()))
        optimizer.step(sgd)
        for key, parameter in model.named_parameters():
            same(parameter, theirs.weights()[key], f"{key} after step {number}")
    for key, w in theirs.weights().items():
        assert np.abs(w - first[key]).max() > 1e-7, f"{key} hardly moved, so nothing was compared"
