"""The networks of 2012, their cost and their rule of learning in NumPy, from the fact sheet alone; see reference.py."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from reference import FC, LRN, Conv, Dropout, Layer, MaxPool, ReLU, WithinMapNorm


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cost(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean of -log p(label) over the minibatch, and its gradient (p - onehot) / N."""
    p, rows = softmax(logits), np.arange(len(labels))
    g = p.copy()
    g[rows, labels] -= 1
    return float(-np.log(p[rows, labels]).mean()), g / len(labels)


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


def net145(weights: dict[str, Array], ties: str = "all") -> Net:
    """The network of the code: two towers, and normalisation before pooling and ReLU in the first block."""
    conv = _convolutions(weights)
    return Net(
        {
            "conv1": conv["conv1"],
            "norm1": LRN(2),
            "pool1": MaxPool(ties=ties),
            "relu1": ReLU(),
            "conv2": conv["conv2"],
            "relu2": ReLU(),
            "norm2": LRN(2),
            "norm2b": WithinMapNorm(),
            "pool2": MaxPool(ties=ties),
            "conv3": conv["conv3"],
            "relu3": ReLU(),
            "conv4": conv["conv4"],
            "relu4": ReLU(),
            "conv5": conv["conv5"],
            "pool5": MaxPool(ties=ties),
            "relu5": ReLU(),
            **_connected(weights),
        }
    )


def paper(weights: dict[str, Array], ties: str = "all") -> Net:
    """The network of the paper's text: ReLU, the printed normalisation, pooling."""
    conv = _convolutions(weights)
    return Net(
        {
            "conv1": conv["conv1"],
            "relu1": ReLU(),
            "norm1": LRN(2, divided=False),
            "pool1": MaxPool(ties=ties),
            "conv2": conv["conv2"],
            "relu2": ReLU(),
            "norm2": LRN(2, divided=False),
            "pool2": MaxPool(ties=ties),
            "conv3": conv["conv3"],
            "relu3": ReLU(),
            "conv4": conv["conv4"],
            "relu4": ReLU(),
            "conv5": conv["conv5"],
            "relu5": ReLU(),
            "pool5": MaxPool(ties=ties),
            **_connected(weights),
        }
    )


def _convolutions(weights: dict[str, Array]) -> dict[str, Conv]:
    """Stride, padding and groups of the five convolutions."""
    plan = {"conv1": (4, 0, 1), "conv2": (1, 2, 2), "conv3": (1, 1, 1), "conv4": (1, 1, 2), "conv5": (1, 1, 2)}
    return {name: Conv(weights[f"{name}.weight"], weights[f"{name}.bias"], *rest) for name, rest in plan.items()}


def _connected(weights: dict[str, Array]) -> dict[str, Layer]:
    fc = {name: FC(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in ("fc6", "fc7", "fc8")}
    return {
        "fc6": fc["fc6"],
        "relu6": ReLU(),
        "drop6": Dropout(),
        "fc7": fc["fc7"],
        "relu7": ReLU(),
        "drop7": Dropout(),
        "fc8": fc["fc8"],
    }


class Rule:
    """v <- μ v - ε g - ε λ w, w <- w + v, with μ = 0.9 and λ = 5e-4 (0 for biases); where ε is 0, nothing at all."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.velocity = {name: np.zeros_like(w) for name, w in weights.items()}

    def update(self, gradients: dict[str, Array], rates: dict[str, float]) -> None:
        """One step in place; `rates` holds ε by the weights' names."""
        for name, w in self.weights.items():
            rate, decay = rates[name], 5e-4 if name.endswith("weight") else 0.0
            if rate == 0:
                continue
            self.velocity[name] = 0.9 * self.velocity[name] - rate * gradients[name] - rate * decay * w
            w += self.velocity[name]
