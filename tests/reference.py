"""The layers of 2012 in NumPy, written from the fact sheet's formulas alone: what the package is compared with.

Everything is float64 and as literal as it can be: loops over kernel positions, windows, maps. Maps are (N, C, H, W).
Each layer has `forward(x)` and then `backward(g)`, which returns the gradient of its input and leaves those of its
weights in `gradients`. Nothing here comes from the package: neither code nor constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy import ndarray as Array


class Layer:
    """A layer; `weights` and `gradients` hold arrays named weight and bias, where it has any."""

    def __init__(self) -> None:
        self.weights: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array) -> Array:
        raise NotImplementedError

    def backward(self, g: Array) -> Array:
        raise NotImplementedError


def outputs(size: int, kernel: int, stride: int, pad: int = 0) -> int:
    """1 + ceil((2 pad + size - kernel) / stride)."""
    return 1 + math.ceil((2 * pad + size - kernel) / stride)


def _room(sizes: Sequence[int], sides: Sequence[int], kernel: int, stride: int, pad: int) -> list[int]:
    """Sides that hold the padded picture and the last window, which may overhang."""
    return [max(stride * (n - 1) + kernel, size + 2 * pad) for n, size in zip(sides, sizes, strict=True)]


# -- layers with weights ----------------------------------------------------------------------------------------


class Conv(Layer):
    """Cross-correlation with zeros outside the picture; weight (F, C / groups, k, k), bias (F,).

    `whole` counts only the windows that lie inside the padded picture, as later frameworks do.
    """

    def __init__(
        self, weight: Array, bias: Array, stride: int = 1, pad: int = 0, groups: int = 1, whole: bool = False
    ) -> None:
        super().__init__()
        self.weights = {"weight": weight, "bias": bias}
        self.stride, self.pad, self.groups, self.whole = stride, pad, groups, whole

    def forward(self, x: Array) -> Array:
        w, b = self.weights["weight"], self.weights["bias"]
        kernel = w.shape[2]
        self.shape = x.shape
        self.sides = [
            (2 * self.pad + s - kernel) // self.stride + 1 if self.whole else outputs(s, kernel, self.stride, self.pad)
            for s in x.shape[2:]
        ]
        self.x = np.zeros((*x.shape[:2], *_room(x.shape[2:], self.sides, kernel, self.stride, self.pad)))
        self.x[:, :, self.pad : self.pad + x.shape[2], self.pad : self.pad + x.shape[3]] = x
        y = np.zeros((len(x), len(w), *self.sides)) + b[:, None, None]
        for maps, filters in self._groups():
            for r in range(kernel):
                for c in range(kernel):
                    y[:, filters] += np.einsum("nchw,fc->nfhw", self._seen(self.x[:, maps], r, c), w[filters, :, r, c])
        return y

    def backward(self, g: Array) -> Array:
        w = self.weights["weight"]
        dw, dx = np.zeros_like(w), np.zeros_like(self.x)
        for maps, filters in self._groups():
            for r in range(w.shape[2]):
                for c in range(w.shape[2]):
                    dw[filters, :, r, c] = np.einsum("nchw,nfhw->fc", self._seen(self.x[:, maps], r, c), g[:, filters])
                    self._seen(dx[:, maps], r, c)[...] += np.einsum("nfhw,fc->nchw", g[:, filters], w[filters, :, r, c])
        self.gradients = {"weight": dw, "bias": g.sum((0, 2, 3))}
        height, width = self.shape[2:]
        return dx[:, :, self.pad : self.pad + height, self.pad : self.pad + width]

    def _groups(self):
        filters, maps = len(self.weights["weight"]) // self.groups, self.shape[1] // self.groups
        for group in range(self.groups):
            yield slice(group * maps, (group + 1) * maps), slice(group * filters, (group + 1) * filters)

    def _seen(self, x: Array, r: int, c: int) -> Array:
        """What kernel position (r, c) sees in each window, as a view."""
        (height, width), s = self.sides, self.stride
        return x[:, :, r : r + s * (height - 1) + 1 : s, c : c + s * (width - 1) + 1 : s]


class Local(Layer):
    """A convolution whose weights and biases are each position's own: weight (F, H, W, C, k, k), bias (F, H, W)."""

    def __init__(self, weight: Array, bias: Array, stride: int = 1, pad: int = 0) -> None:
        super().__init__()
        self.weights, self.stride, self.pad = {"weight": weight, "bias": bias}, stride, pad
        self.kernel, self.sides = weight.shape[-1], weight.shape[1:3]

    def forward(self, x: Array) -> Array:
        w, b = self.weights["weight"], self.weights["bias"]
        self.shape = x.shape
        self.x = np.zeros((*x.shape[:2], *_room(x.shape[2:], self.sides, self.kernel, self.stride, self.pad)))
        self.x[:, :, self.pad : self.pad + x.shape[2], self.pad : self.pad + x.shape[3]] = x
        y = np.zeros((len(x), *b.shape))
        for r in range(self.sides[0]):
            for c in range(self.sides[1]):
                y[:, :, r, c] = np.einsum("ncij,fcij->nf", self._window(self.x, r, c), w[:, r, c]) + b[:, r, c]
        return y

    def backward(self, g: Array) -> Array:
        w = self.weights["weight"]
        dw, dx = np.zeros_like(w), np.zeros_like(self.x)
        for r in range(self.sides[0]):
            for c in range(self.sides[1]):
                dw[:, r, c] = np.einsum("ncij,nf->fcij", self._window(self.x, r, c), g[:, :, r, c])
                self._window(dx, r, c)[...] += np.einsum("nf,fcij->ncij", g[:, :, r, c], w[:, r, c])
        self.gradients = {"weight": dw, "bias": g.sum(0)}
        return dx[:, :, self.pad : self.pad + self.shape[2], self.pad : self.pad + self.shape[3]]

    def _window(self, x: Array, r: int, c: int) -> Array:
        top, left = r * self.stride, c * self.stride
        return x[:, :, top : top + self.kernel, left : left + self.kernel]


class FC(Layer):
    """y = x Wᵀ + b over maps laid out as C, H, W; weight (out, in), bias (out,)."""

    def __init__(self, weight: Array, bias: Array) -> None:
        super().__init__()
        self.weights = {"weight": weight, "bias": bias}

    def forward(self, x: Array) -> Array:
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        return self.x @ self.weights["weight"].T + self.weights["bias"]

    def backward(self, g: Array) -> Array:
        self.gradients = {"weight": g.T @ self.x, "bias": g.sum(0)}
        return (g @ self.weights["weight"]).reshape(self.shape)


# -- normalisation ----------------------------------------------------------------------------------------------


class LRN(Layer):
    """x_i (k + s Σ_j x_j²)^-β over the n maps around i that its tower has; `divided`: s is alpha / n, else alpha."""

    def __init__(
        self, towers: int, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2, divided: bool = True
    ) -> None:
        super().__init__()
        self.towers, self.n, self.beta, self.k = towers, n, beta, k
        self.s = alpha / n if divided else alpha

    def _around(self, i: int, maps: int) -> range:
        per_tower = maps // self.towers
        first = i // per_tower * per_tower
        return range(max(first, i - self.n // 2), min(first + per_tower, i + self.n // 2 + 1))

    def forward(self, x: Array) -> Array:
        self.x, self.d = x, np.empty_like(x)
        for i in range(x.shape[1]):
            self.d[:, i] = self.k + self.s * sum(x[:, j] ** 2 for j in self._around(i, x.shape[1]))
        return x * self.d**-self.beta

    def backward(self, g: Array) -> Array:
        dx = g * self.d**-self.beta
        for i in range(g.shape[1]):  # y_i depends on every x_j in its neighbourhood
            shared = g[:, i] * self.x[:, i] * self.d[:, i] ** (-self.beta - 1)
            for j in self._around(i, g.shape[1]):
                dx[:, j] -= 2 * self.beta * self.s * self.x[:, j] * shared
        return dx


class WithinMapNorm(Layer):
    """x (1 + alpha / n² Σ x²)^-β over the n × n positions around, clipped at the border; the divisor stays n²."""

    def __init__(self, n: int = 5, alpha: float = 1e-3, beta: float = 0.75) -> None:
        super().__init__()
        self.n, self.s, self.beta = n, alpha / n**2, beta

    def _around(self, x: Array) -> Array:
        half, (height, width) = self.n // 2, x.shape[2:]
        total = np.empty_like(x)
        for r in range(height):
            for c in range(width):
                total[:, :, r, c] = x[:, :, max(0, r - half) : r + half + 1, max(0, c - half) : c + half + 1].sum(
                    (2, 3)
                )
        return total

    def forward(self, x: Array) -> Array:
        self.x, self.d = x, 1 + self.s * self._around(x**2)
        return x * self.d**-self.beta

    def backward(self, g: Array) -> Array:
        shared = self._around(g * self.x * self.d ** (-self.beta - 1))  # "around" is mutual
        return g * self.d**-self.beta - 2 * self.beta * self.s * self.x * shared


# -- pooling ----------------------------------------------------------------------------------------------------


class Pool(Layer):
    """Windows every `stride`, the last ones clipped at the border."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def _windows(self, height: int, width: int):
        for r in range(outputs(height, self.kernel, self.stride)):
            for c in range(outputs(width, self.kernel, self.stride)):
                top, left = r * self.stride, c * self.stride
                rows = slice(top, min(top + self.kernel, height))
                yield r, c, rows, slice(left, min(left + self.kernel, width))

    def forward(self, x: Array) -> Array:
        self.x = x
        self.y = np.empty((*x.shape[:2], *(outputs(s, self.kernel, self.stride) for s in x.shape[2:])))
        for r, c, rows, columns in self._windows(*x.shape[2:]):
            self.y[:, :, r, c] = self.summary(x[:, :, rows, columns])
        return self.y

    def backward(self, g: Array) -> Array:
        dx = np.zeros_like(self.x)
        for r, c, rows, columns in self._windows(*self.x.shape[2:]):
            share = self.shares(self.x[:, :, rows, columns], self.y[:, :, r, c])
            dx[:, :, rows, columns] += g[:, :, r, c, None, None] * share
        return dx

    def summary(self, window: Array) -> Array:
        raise NotImplementedError

    def shares(self, window: Array, y: Array) -> Array:
        """The part of an output's gradient that each position of its window receives."""
        raise NotImplementedError


class MaxPool(Pool):
    """`ties`: 'all' gives every maximum the full gradient, as in 2012; 'first' the first one, row by row."""

    def __init__(self, kernel: int = 3, stride: int = 2, ties: str = "all") -> None:
        super().__init__(kernel, stride)
        self.ties = ties

    def summary(self, window: Array) -> Array:
        return window.max((2, 3))

    def shares(self, window: Array, y: Array) -> Array:
        share = (window == y[:, :, None, None]).astype(float)
        if self.ties == "first":
            flat = share.reshape(*share.shape[:2], -1)
            share = (flat * (flat.cumsum(2) == 1)).reshape(share.shape)
        return share


class AveragePool(Pool):
    """The mean over the part of the window that lies on the map."""

    def summary(self, window: Array) -> Array:
        return window.mean((2, 3))

    def shares(self, window: Array, y: Array) -> Array:
        return np.full(window.shape, 1 / (window.shape[2] * window.shape[3]))


# -- pointwise --------------------------------------------------------------------------------------------------


class ReLU(Layer):
    def forward(self, x: Array) -> Array:
        self.x = x
        return np.where(x >= 0, x, 0.0)

    def backward(self, g: Array) -> Array:
        return np.where(self.x > 0, g, 0.0)


class Tanh(Layer):
    def forward(self, x: Array) -> Array:
        self.y = np.tanh(x)
        return self.y

    def backward(self, g: Array) -> Array:
        return g * (1 - self.y**2)


class Dropout(Layer):
    """× the 0/1 mask in training, × 0.5 in every other pass, where `mask` is None."""

    mask: Array | None = None

    def forward(self, x: Array) -> Array:
        self.factor = 0.5 if self.mask is None else self.mask
        return x * self.factor

    def backward(self, g: Array) -> Array:
        return g * self.factor
