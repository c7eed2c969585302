"""Mean image and colour axes of the training pictures, from sums of whole numbers: exact, in any order of adding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

COLOUR_SIDE = 64  # so many pixels a side, evenly spread, tell a picture's colours
MOST = 256  # pictures whose uint8 values sum to no more than 16 bits hold


# Of ImageNet's training set, in grey levels R, G, B, largest first (docs/facts.md 5.4).
IMAGENET_STD = (121.780, 37.094, 19.721)
IMAGENET_AXES = ((-0.56351, -0.57618, -0.59200), (-0.71258, -0.02354, 0.70120), (0.41796, -0.81698, 0.39731))


@dataclass(frozen=True)
class Known:
    """In grey levels: mean image float32 (S, S, C), standard deviations (C,) along the colours' principal axes, largest
    first, and the axes, one a row (C, C). docs/facts.md 5.2, 5.4."""

    mean: np.ndarray
    colour_std: np.ndarray
    colour_axes: np.ndarray


class Sums:
    """Of pictures uint8 (n, S, S, C): `total` of each value, products and sums of the colours, and counts."""

    def __init__(self, side: int, channels: int = 3) -> None:
        self.total = np.zeros((side, side, channels), np.int64)
        self.products = np.zeros((channels, channels), np.int64)
        self.colours = np.zeros(channels, np.int64)
        self.counts = np.zeros(2, np.int64)  # pictures, and pixels of which the colours were taken
        self._stride = max(1, side // COLOUR_SIDE)
        chosen = len(range(0, side, self._stride))
        # Memory for one picture, used again for each: fresh memory costs as much as the sums.
        self._planes = np.ones((channels + 1, chosen, chosen))
        self._part = np.empty(self.total.size, np.uint16)

    def add(self, pixels: np.ndarray) -> Self:
        """Count those pictures."""
        channels = pixels.shape[3]
        for first in range(0, len(pixels), MOST):
            some = pixels[first : first + MOST]
            for one in some:
                for channel in range(channels):
                    self._planes[channel] = one[:: self._stride, :: self._stride, channel]
                # With the plane of ones, one product has the colours' products, their sums and their number; float64
                # holds all of them, below 2^53, exactly.
                flat = self._planes.reshape(channels + 1, -1)
                products = (flat @ flat.T).astype(np.int64)
                self.products += products[:channels, :channels]
                self.colours += products[channels, :channels]
                self.counts[0] += 1
                self.counts[1] += products[channels, channels]
            np.sum(some.reshape(len(some), -1), axis=0, dtype=np.uint16, out=self._part)
            self.total += self._part.reshape(self.total.shape)
        return self

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        return self.total, self.products, self.colours, self.counts

    def merge(self, other: Sums) -> None:
        """Count what another has counted."""
        for mine, its in zip(self.parts, other.parts, strict=True):
            mine += its

    def vector(self) -> np.ndarray:
        """Everything as one array, to be summed over processes or kept in a file."""
        return np.concatenate([part.ravel() for part in self.parts])

    def fill(self, vector: np.ndarray) -> Self:
        """Take everything from such an array."""
        for part, values in zip(
            self.parts, np.split(vector, np.cumsum([p.size for p in self.parts])[:-1]), strict=True
        ):
            part[...] = values.reshape(part.shape)
        return self

    def known(self) -> Known:
        """Mean and colours of what was counted, one picture at least."""
        pictures, values = self.counts.tolist()
        colour = self.colours / values
        covariance = self.products / values - np.outer(colour, colour)
        variances, axes = np.linalg.eigh(covariance)
        return Known(
            (self.total / pictures).astype(np.float32),
            np.sqrt(variances[::-1].clip(0)).astype(np.float32),
            np.ascontiguousarray(axes.T[::-1]).astype(np.float32),
        )
