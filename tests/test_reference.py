"""Every layer, and the whole network through three updates, against the reference in NumPy, to 1e-9 in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reference as r
import reference_nets as nets
from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.training import optimizer
from alexnet.training.optimizer import Plateau
from alexnet.training.recipe import override, resolve
from narrow import narrow


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
@pytest.mark.parametrize("ties", ["first", "all"])
def test_max_pooling_gives_its_gradient_to_the_first_or_to_all_maxima(size, kernel, stride, draw, ties):
    theirs = r.MaxPool(kernel, stride, ties)
    compare_record(v.MaxPool("pool", kernel, stride, ties), theirs, draw(3, 4, size, size))


@pytest.mark.parametrize(("size", "kernel", "stride"), [(13, 3, 2), (8, 3, 2), (7, 2, 2)])
def test_average_pooling_divides_by_the_clipped_area(size, kernel, stride):
    compare_record(v.AvgPool("pool", kernel, stride), r.AveragePool(kernel, stride), random(2, 3, size, size))


def test_relu_has_no_gradient_at_zero():
    compare_record(v.ReLU("relu"), r.ReLU(), whole(2, 3, 4, 4))


def test_tanh():
    compare_record(v.Tanh("tanh"), r.Tanh(), random(2, 3, 4, 4))


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(5, 3, 1, 1), (6, 3, 1, 0), (7, 3, 2, 1)])
def test_unshared_weights(size, kernel, stride, pad):
    side = r.outputs(size, kernel, stride, pad)
    theirs = r.Local(random(4, side, side, 2, kernel, kernel), random(4, side, side), stride, pad)
    compare_record(v.Local("local", 4, kernel, stride, pad), theirs, random(3, 2, size, size))


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
    ours = model(torch.from_numpy(maps), until="prob")[:, :, 0, 0]
    same(ours, np.exp(nets.log_softmax(np.maximum(x, 0))), "probabilities")


# -- networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network of few filters: the reference's plan, classes, λ by layer, what a recipe changes in the layers."""

    name: str
    plan: Callable[..., nets.Net]
    classes: int = 5
    decays: dict[str, float] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.name, *self.changes.values()))


CASES = [
    Case("alexnet2012", nets.net145),
    Case("alexnet_paper", nets.paper),
    Case("alexnet2012", nets.net145, changes={"ties": "all"}),
    Case("alexnet_paper", nets.paper, changes={"ties": "all", "activation": "tanh"}),
    Case("cifar10_18", nets.cifar18, decays={"conv1": 4e-3, "conv2": 4e-3, "conv3": 4e-3, "fc10": 1.0}),
    Case("cifar10_13", nets.cifar13, decays={"conv1": 0, "conv2": 0, "local3": 4e-3, "local4": 4e-3, "fc10": 4e-3}),
    Case("cifar10_11", nets.cifar11, decays={"conv1": 0, "conv2": 0, "local3": 4e-3, "local4": 4e-3, "fc10": 4e-3}),
]
COUNT = 4


def pair(case: Case) -> tuple[AlexNet, nets.Net]:
    """The package's network and the reference's with the same weights."""
    variant = narrow(case.name)
    model = AlexNet(variant, case.classes, 3, variant.input, case.changes).double()
    weights = {}
    for key, parameter in model.named_parameters():
        fan_in = math.prod(parameter.shape[3 if key.startswith("local") else 1 :])
        scale = (2 / fan_in) ** 0.5 if key.endswith("weight") else 0.5
        weights[key] = random(*parameter.shape, scale=scale / 40 if len(parameter) == case.classes else scale)
    model.load_state_dict({key: torch.from_numpy(w.copy()) for key, w in weights.items()})
    neuron = r.Tanh if case.changes.get("activation") == "tanh" else r.ReLU
    return model, case.plan(weights, case.changes.get("ties", "first"), neuron)


def pictures(model: AlexNet) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a plausible contrast, and their classes."""
    return random(COUNT, 3, model.input, model.input, scale=40), np.array([0, 3, 4, 3])


def masks(model: AlexNet, step: int) -> dict[str, np.ndarray]:
    return {
        name: (random(COUNT, units, seed=10 * step + i) > 0) * 1.0
        for i, (name, (units, _)) in enumerate(model.dropouts.items())
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_network_answers_as_the_reference(case):
    model, theirs = pair(case)
    x, _ = pictures(model)
    y = x
    with torch.no_grad():
        for layer, record in theirs.layers.items():
            y = record.forward(y)
            ours = layer.replace("relu", "tanh") if "activation" in case.changes else layer
            same(model.eval()(torch.from_numpy(x), until=ours), y, layer)
        same(model(torch.from_numpy(x)), y, "logits")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_network_learns_as_the_reference(case):
    model, theirs = pair(case)
    rate, decay = (1e-5, 4e-3) if case.decays else (1e-4, 5e-4)
    recipe = override(resolve("author_2012"), {"learning_rate": rate, "weight_decay": decay})
    sgd, rule = optimizer.build_optimizer(model, recipe), nets.Rule(theirs.weights(), case.decays)
    x, labels = pictures(model)
    first = {key: w.copy() for key, w in theirs.weights().items()}
    # Epoch, then ε as the script of 2012 has it, as multiples of the first: of weights, of biases, of conv1's.
    plan = [(0, 1, 2, 1, 2), (66, 1e-2, 0.2, 1e-3, 0.2), (73, 1e-2, 0.2, 0, 0)]
    for number, (epoch, *multiples) in enumerate(plan):
        weight, bias, conv1_weight, conv1_bias = (rate * multiple for multiple in multiples)
        seen, drawn = torch.from_numpy(x).requires_grad_(), masks(model, number)
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
    for key, parameter in model.named_parameters():  # small steps must agree too, not only the sums with them
        moved, expected = parameter.detach().numpy() - first[key], theirs.weights()[key] - first[key]
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=key)
