"""The networks of 2012, their cost and their rule of learning in NumPy, from the fact sheet alone; see reference.py."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from reference import FC, LRN, AveragePool, Conv, Dropout, Layer, Local, MaxPool, ReLU, WithinMapNorm


def log_softmax(logits: Array) -> Array:
    below = logits - logits.max(1, keepdims=True)
    return below - np.log(np.exp(below).sum(1, keepdims=True))


def cost(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean of -log p(label) over the minibatch, and its gradient (p - onehot) / N."""
    log_p, rows = log_softmax(logits), np.arange(len(labels))
    g = np.exp(log_p)
    g[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), g / len(labels)


class Net:
    """Layers by name, run in their order."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self.layers = layers

    def forward(self, x: Array, masks: dict[str, Array] | None = None) -> Array:
        for name, layer in self.layers.items():
            if isinstance(layer, Dropout):
                layer.mask = masks[name] if masks else None
            x = layer.forward(x)
        return x

    def backward(self, g: Array) -> Array:
        for layer in reversed(self.layers.values()):
            g = layer.backward(g)
        return g

    def weights(self) -> dict[str, Array]:
        return {f"{name}.{kind}": w for name, one in self.layers.items() for kind, w in one.weights.items()}

    def gradients(self) -> dict[str, Array]:
        return {f"{name}.{kind}": g for name, one in self.layers.items() for kind, g in one.gradients.items()}


def net145(weights: dict[str, Array], ties: str = "all", neuron: type[Layer] = ReLU) -> Net:
    """The network of the code: two towers, and normalisation before pooling and ReLU in the first block."""
    conv = _convolutions(weights)
    return Net(
        {
            "conv1": conv["conv1"],
            "norm1": LRN(2),
            "pool1": MaxPool(ties=ties),
            "relu1": neuron(),
            "conv2": conv["conv2"],
            "relu2": neuron(),
            "norm2": LRN(2),
            "norm2b": WithinMapNorm(),
            "pool2": MaxPool(ties=ties),
            "conv3": conv["conv3"],
            "relu3": neuron(),
            "conv4": conv["conv4"],
            "relu4": neuron(),
            "conv5": conv["conv5"],
            "pool5": MaxPool(ties=ties),
            "relu5": neuron(),
            **_connected(weights, neuron),
        }
    )


def paper(weights: dict[str, Array], ties: str = "all", neuron: type[Layer] = ReLU) -> Net:
    """The network of the paper's text: ReLU, the printed normalisation, pooling."""
    conv = _convolutions(weights)
    return Net(
        {
            "conv1": conv["conv1"],
            "relu1": neuron(),
            "norm1": LRN(2, divided=False),
            "pool1": MaxPool(ties=ties),
            "conv2": conv["conv2"],
            "relu2": neuron(),
            "norm2": LRN(2, divided=False),
            "pool2": MaxPool(ties=ties),
            "conv3": conv["conv3"],
            "relu3": neuron(),
            "conv4": conv["conv4"],
            "relu4": neuron(),
            "conv5": conv["conv5"],
            "relu5": neuron(),
            "pool5": MaxPool(ties=ties),
            **_connected(weights, neuron),
        }
    )


def cifar18(weights: dict[str, Array], ties: str = "all", neuron: type[Layer] = ReLU) -> Net:
    """The 18 % net for CIFAR-10: within-map norms of 3 × 3 after the first two poolings."""
    return Net(
        {
            "conv1": Conv(*_of(weights, "conv1"), pad=2),
            "pool1": MaxPool(ties=ties),
            "relu1": neuron(),
            "norm1": WithinMapNorm(3, 5e-5),
            "conv2": Conv(*_of(weights, "conv2"), pad=2),
            "relu2": neuron(),
            "pool2": AveragePool(3, 2),
            "norm2": WithinMapNorm(3, 5e-5),
            "conv3": Conv(*_of(weights, "conv3"), pad=2),
            "relu3": neuron(),
            "pool3": AveragePool(3, 2),
            "fc10": FC(*_of(weights, "fc10")),
        }
    )


def cifar13(weights: dict[str, Array], ties: str = "all", neuron: type[Layer] = ReLU) -> Net:
    """The 13 % net for CIFAR-10: two convolutions, two layers with unshared weights."""
    return Net(
        {
            "conv1": Conv(*_of(weights, "conv1"), pad=2),
            "relu1": neuron(),
            "pool1": MaxPool(ties=ties),
            "conv2": Conv(*_of(weights, "conv2"), pad=2),
            "relu2": neuron(),
            "pool2": MaxPool(ties=ties),
            "local3": Local(*_of(weights, "local3"), pad=1),
            "relu3": neuron(),
            "local4": Local(*_of(weights, "local4"), pad=1),
            "relu4": neuron(),
            "fc10": FC(*_of(weights, "fc10")),
        }
    )


def cifar11(weights: dict[str, Array], ties: str = "all", neuron: type[Layer] = ReLU) -> Net:
    """The 11 % net of cuda-convnet 1: the 13 % net with a norm between each convolution's ReLU and its pooling."""
    layers: dict[str, Layer] = {}
    for name, layer in cifar13(weights, ties, neuron).layers.items():
        if name in ("pool1", "pool2"):
            layers[name.replace("pool", "norm")] = LRN(1, n=5, alpha=1e-3, k=1)
        layers[name] = layer
    return Net(layers)


def _of(weights: dict[str, Array], name: str) -> tuple[Array, Array]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _convolutions(weights: dict[str, Array]) -> dict[str, Conv]:
    """Stride, padding and groups of the five convolutions."""
    plan = {"conv1": (4, 0, 1), "conv2": (1, 2, 2), "conv3": (1, 1, 1), "conv4": (1, 1, 2), "conv5": (1, 1, 2)}
    return {name: Conv(*_of(weights, name), *rest) for name, rest in plan.items()}


def _connected(weights: dict[str, Array], neuron: type[Layer]) -> dict[str, Layer]:
    return {
        "fc6": FC(*_of(weights, "fc6")),
        "relu6": neuron(),
        "drop6": Dropout(),
        "fc7": FC(*_of(weights, "fc7")),
        "relu7": neuron(),
        "drop7": Dropout(),
        "fc8": FC(*_of(weights, "fc8")),
    }


class Rule:
    """v <- μ v - ε g - ε λ w, w <- w + v with μ = 0.9; where ε is 0, nothing at all.

    `decays` are λ by the names of layers, others having 5e-4; biases have none.
    """

    def __init__(self, weights: dict[str, Array], decays: dict[str, float] | None = None) -> None:
        self.weights, self.decays = weights, decays or {}
        self.velocity = {name: np.zeros_like(w) for name, w in weights.items()}

    def update(self, gradients: dict[str, Array], rates: dict[str, float]) -> None:
        """One step in place; `rates` holds ε by the weights' names."""
        for name, w in self.weights.items():
            layer, _, kind = name.partition(".")
            rate, decay = rates[name], self.decays.get(layer, 5e-4) if kind == "weight" else 0.0
            if rate == 0:
                continue
            self.velocity[name] = 0.9 * self.velocity[name] - rate * gradients[name] - rate * decay * w
            w += self.velocity[name]
