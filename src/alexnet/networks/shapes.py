"""What the layers of a variant make of a picture: shapes, parameters, multiply-adds. Arithmetic, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.networks import variants as v

MOST = 10**7  # classes or channels, more than anybody has: a slip, which would end in an error of memory
MOST_MAP = 32  # side of the maps that the first fully connected layer can be adapted to


def output_shape(record: v.Layer, shape: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """The shape, without the batch, that a layer makes of `shape`; sides below 1 mean that it cannot."""
    match record:
        case v.Conv() | v.Local():
            span = shape[1] + 2 * record.pad - record.kernel
            side = _side(record, span) if span >= 0 else 0
            return record.filters, side, side
        case v.MaxPool() | v.AvgPool():
            span = shape[1] - record.kernel
            floor = isinstance(record, v.MaxPool) and not record.ceil
            side = 1 + (span if floor else span + record.stride - 1) // record.stride if span >= 0 else 0
            return shape[0], side, side
        case v.FC():
            return (record.units or classes,)
    return shape


def _side(record: v.Conv | v.Local, span: int) -> int:
    if isinstance(record, v.Conv) and record.ceil:
        span += record.stride - 1
    return 1 + span // record.stride


def last_map(variant: v.Variant, input: int) -> int:
    """The side of the maps that the first fully connected layer sees; 0 where a layer is left without a pixel."""
    shape: tuple[int, ...] = (3, input, input)
    for record in variant.layers:
        if isinstance(record, v.FC):
            break
        shape = output_shape(record, shape, 1)
        if shape[1] < 1:
            return 0
    return shape[1]


@lru_cache
def sizes(variant: v.Variant, input: int = 0) -> range:
    """Input sizes, in pixels, whose last maps are as large as those of `input`, by default the variant's own."""
    low = high = input or variant.input
    side = last_map(variant, low)
    while last_map(variant, low - 1) == side:
        low -= 1
    while last_map(variant, high + 1) == side:
        high += 1
    return range(low, high + 1)


def is_whole(given: object) -> bool:
    """Whether it is a whole number, of whatever library; True and False are none."""
    return isinstance(given, Integral) and not isinstance(given, bool)


def check_size(variant: v.Variant, classes: int, channels: int, input: int, made_for: int = 0) -> None:
    """Refuse numbers of classes and channels, and an input size, that the layers cannot take; name those they can.

    `made_for` is the input size of existing weights: fc6 fits only where both give maps of the same size.
    """
    for what, given in (("classes", classes), ("channels", channels), ("input", input)):
        if not is_whole(given):
            raise AlexNetError(f"{variant.name} was asked for {what} = {given!r:.40}; give a whole number.")
    if classes < 1 or channels < 1:
        raise AlexNetError(
            f"{variant.name} was asked for {classes} classes and {channels} input channels; give 1 or more of each."
        )
    if classes > MOST or channels > MOST:
        raise AlexNetError(
            f"{variant.name} was asked for {counted(classes, 'class')} and {counted(channels, 'input channel')}; give "
            f"at most {MOST:,} of each."
        )
    if variant.adapt and not made_for:
        if not 1 <= last_map(variant, input) <= MOST_MAP:
            raise AlexNetError(
                f"{variant.name} cannot be adapted to input {input}, which leaves the first fully connected layer maps "
                f"without a pixel, or larger than {MOST_MAP} x {MOST_MAP}; its own is {variant.input}."
            )
        return
    own = made_for or variant.input
    able = sizes(variant, own)
    if input not in able:
        side = last_map(variant, own)
        further = "" if made_for else "; adapt=true adapts the layer to others"
        raise AlexNetError(
            f"{variant.name} cannot take input {input}: its plan gives fc6 its {side} x {side} maps for inputs from "
            f"{able.start} to {able.stop - 1} (its own is {own}){further}."
        )


def weight_shapes(variant: v.Variant, classes: int, channels: int, input: int) -> dict[str, tuple[int, ...]]:
    """The shape of every weight and bias of the convolutional and fully connected layers, by name."""
    shape: tuple[int, ...] = (channels, input, input)
    shapes: dict[str, tuple[int, ...]] = {}
    for record in variant.layers:
        before, shape = shape, output_shape(record, shape, classes)
        if isinstance(record, v.Conv):
            shapes[f"{record.name}.weight"] = (shape[0], before[0] // record.groups, record.kernel, record.kernel)
        elif isinstance(record, v.Local):
            shapes[f"{record.name}.weight"] = (*shape, before[0], record.kernel, record.kernel)
            shapes[f"{record.name}.bias"] = shape
            continue
        elif isinstance(record, v.FC):
            shapes[f"{record.name}.weight"] = (shape[0], math.prod(before) // record.groups)
        else:
            continue
        shapes[f"{record.name}.bias"] = (shape[0],)
    return shapes


@dataclass(frozen=True)
class LayerFacts:
    """A row of `alexnet info`; `output` has no batch dimension, `macs` are multiply-adds for one picture."""

    name: str
    kind: str
    kernel: str
    output: list[int]
    parameters: int
    macs: int


def layer_facts(variant: v.Variant, classes: int, channels: int, input: int) -> list[LayerFacts]:
    """Kernel, output shape, parameters (weights and biases) and multiply-adds of each layer, in order."""
    check_size(variant, classes, channels, input)
    shapes = weight_shapes(variant, classes, channels, input)
    shape: tuple[int, ...] = (channels, input, input)
    rows = []
    for record in variant.layers:
        shape = output_shape(record, shape, classes)
        weights, kernel = math.prod(shapes.get(f"{record.name}.weight", (0,))), ""
        if isinstance(record, v.Conv | v.Local):
            kernel = f"{record.kernel} x {record.kernel}" + (f" / {record.stride}" if record.stride > 1 else "")
        elif isinstance(record, v.MaxPool | v.AvgPool):
            kernel = f"{record.kernel} x {record.kernel} / {record.stride}"
        if isinstance(record, v.Conv | v.FC) and record.groups > 1:
            kernel += f"{', ' if kernel else ''}{record.groups} groups"
        parameters = weights + math.prod(shapes.get(f"{record.name}.bias", (0,)))
        if isinstance(record, v.BatchNorm):
            parameters = 2 * shape[0]
        macs = weights if isinstance(record, v.Local) else weights * math.prod(shape[1:])
        rows.append(LayerFacts(record.name, type(record).__name__.lower(), kernel, list(shape), parameters, macs))
    return rows
