"""Which pixels of its input each place of a layer sees: exact receptive fields, arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape

Box = tuple[int, int, int, int]  # left, top, right, bottom: the first two belong to it, the last two do not


@dataclass(frozen=True)
class Field:
    """Place i of a layer sees `size` pixels from `start` + i · `stride` on, along either side.

    Some may be none of the input's, where a convolution is padded or a window overhangs: `seen` leaves them out.
    `windows` are kernel, stride, padding and the places of what is looked at, of each layer from this one down.
    """

    size: int
    stride: int
    start: int
    windows: tuple[tuple[int, int, int, int], ...] = ()

    def box(self, y: int, x: int) -> Box:
        """What the place in row y and column x would see of an input without end."""
        left, top = self.start + x * self.stride, self.start + y * self.stride
        return left, top, left + self.size, top + self.size

    def seen(self, y: int, x: int) -> Box:
        """What it does see: its box within the input, less what is padding to a layer in between."""
        (top, bottom), (left, right) = self._span(y), self._span(x)
        return left, top, right, bottom

    def _span(self, place: int) -> tuple[int, int]:
        first, last = place, place
        for kernel, stride, pad, places in self.windows:
            first, last = max(0, first * stride - pad), min(places - 1, last * stride - pad + kernel - 1)
        return first, last + 1

    def centre(self, place: int) -> float:
        """The middle of what a place sees, in pixels whose own middles are whole numbers."""
        return self.start + place * self.stride + (self.size - 1) / 2


def receptive_field(variant: v.Variant, layer: str, input: int) -> Field:
    """The receptive field of a layer of a network that sees `input` pixels; that of units is all of them."""
    size, stride, start = 1, 1, 0
    shape: tuple[int, ...] = (1, input, input)
    windows: list[tuple[int, int, int, int]] = []
    for record in variant.layers:
        kernel, step, pad = _window(record)
        size, start, stride = size + (kernel - 1) * stride, start - pad * stride, stride * step
        if isinstance(record, v.FC):
            size, stride, start, kernel = input, 1, 0, shape[1] if len(shape) == 3 else 1
        if len(shape) == 3:
            windows.insert(0, (kernel, step, pad, shape[1]))
        shape = output_shape(record, shape, 1)
        if record.name == layer:
            break
    return Field(size, stride, start, tuple(windows))


def _window(record: v.Layer) -> tuple[int, int, int]:
    """Kernel, stride and padding."""
    match record:
        case v.Conv() | v.Local():
            return record.kernel, record.stride, record.pad
        case v.MaxPool() | v.AvgPool():
            return record.kernel, record.stride, 0
        case v.WithinMapNorm():
            return record.size, 1, record.size // 2
    return 1, 1, 0
