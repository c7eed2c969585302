"""One module for every variant: the layers of `variants.py`, built by name and run in their order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet import layers as own
from alexnet import variants as v
from alexnet.errors import AlexNetError


class AlexNet(nn.Module):
    """A variant as a module whose children are its layers: `model.conv1`, …, `model.fc8`, `model.prob`.

    Takes preprocessed float pictures (N, channels, input, input), gives logits (N, classes). `masks` holds 0/1
    tensors (N, units) for dropout layers by name, so that a training loop can own the draw. `until` names the
    layer whose output is returned; the default is the last before the softmax.
    """

    def __init__(
        self, variant: v.Variant, classes: int, channels: int, input: int, dropout: float | None = None
    ) -> None:
        super().__init__()
        _check_size(variant, classes, channels, input)
        if dropout is not None:
            variant = v.with_dropout(variant, dropout)
        self.variant, self.classes, self.channels, self.input = variant, classes, channels, input
        self.dropouts: dict[str, tuple[int, float]] = {}  # units and rate of each dropout layer
        shape: tuple[int, ...] = (channels, input, input)
        for record in variant.layers:
            self.add_module(record.name, _module(record, shape, classes))
            if isinstance(record, v.Dropout):
                self.dropouts[record.name] = math.prod(shape), record.rate
            shape = output_shape(record, shape, classes)
        self.logits = next(x.name for x in reversed(variant.layers) if not isinstance(x, v.Softmax))

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, until: str | None = None) -> Tensor:
        expected = (self.channels, self.input, self.input)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"{self.variant.name} was given pictures of shape {tuple(x.shape)}; it takes (N, "
                f"{', '.join(map(str, expected))}): preprocess them first, or build it with another input or channels"
            )
        until = until or self.logits
        for name, layer in self.named_children():
            if isinstance(layer, own.Dropout):
                x = layer(x, masks.get(name) if masks else None)
            else:
                x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            if name == until:
                return x
        raise ValueError(f"{self.variant.name} has no layer '{until}'; it has {', '.join(dict(self.named_children()))}")


def build(
    variant: str, classes: int = 1000, channels: int = 3, input: int | None = None, dropout: float | None = None
) -> AlexNet:
    """The bare network of that name with its own initial weights, drawn from torch's generator.

    `input` is the side of the square it sees in pixels and `dropout` the share of units dropped, 0 to 1 (default: the
    variant's own); an input that the plan cannot take is an error that says which it can.
    """
    chosen = v.variant(variant)
    model = AlexNet(chosen, classes, channels, input or chosen.input, dropout)
    initialise(model)
    return model


def initialise(model: AlexNet) -> None:
    """Draw the weights and set the biases as the variant's records say (spec §3)."""
    for record in model.variant.layers:
        if not isinstance(record, v.Conv | v.FC) or record.std == "torch":
            continue
        layer = getattr(model, record.name)
        std = math.sqrt(2 / layer.weight[0].numel()) if record.std == "he" else record.std
        nn.init.normal_(layer.weight, 0.0, std)
        if record.std == "he":
            with torch.no_grad():
                layer.weight -= layer.weight.flatten(1).mean(1).reshape(-1, *[1] * (layer.weight.dim() - 1))
        nn.init.constant_(layer.bias, record.bias)


def _module(record: v.Layer, shape: tuple[int, ...], classes: int) -> nn.Module:
    match record:
        case v.Conv():
            kind = own.CeilConv2d if record.ceil else nn.Conv2d
            return kind(
                shape[0], record.filters, record.kernel, record.stride, record.pad,
                groups=record.groups if shape[0] % record.groups == 0 else 1,
            )  # fmt: skip
        case v.FC():
            return nn.Linear(math.prod(shape), record.units or classes)
        case v.ReLU():
            return nn.ReLU()
        case v.LRN():
            return own.LocalResponseNorm(shape[0], record.towers, record.size, record.alpha, record.beta, record.k)
        case v.WithinMapNorm():
            return own.WithinMapNorm(record.size, record.alpha, record.beta)
        case v.MaxPool():
            return nn.MaxPool2d(record.kernel, record.stride, ceil_mode=True)
        case v.Dropout():
            return own.Dropout(record.rate, record.inverted)
        case v.Softmax():
            return nn.Softmax(dim=1)


def output_shape(record: v.Layer, shape: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """The shape, without the batch, that a layer makes of `shape`; sides below 1 mean that it cannot."""
    match record:
        case v.Conv():
            span = shape[1] + 2 * record.pad - record.kernel
            side = 1 + (-(-span // record.stride) if record.ceil else span // record.stride) if span >= 0 else 0
            return record.filters, side, side
        case v.MaxPool():
            span = shape[1] - record.kernel
            side = 1 - (-span // record.stride) if span >= 0 else 0
            return shape[0], side, side
        case v.FC():
            return (record.units or classes,)
    return shape


def _last_map(variant: v.Variant, input: int) -> int:
    """The side of the maps that the first fully connected layer sees; 0 where a layer is left without a pixel."""
    shape: tuple[int, ...] = (3, input, input)
    for record in variant.layers:
        if isinstance(record, v.FC):
            break
        shape = output_shape(record, shape, 1)
        if shape[1] < 1:
            return 0
    return shape[1]


def sizes(variant: v.Variant) -> range:
    """Inputs, in pixels, for which the plan gives the fully connected layers maps of the size they are made for."""
    side = _last_map(variant, variant.input)
    low = high = variant.input
    while _last_map(variant, low - 1) == side:
        low -= 1
    while _last_map(variant, high + 1) == side:
        high += 1
    return range(low, high + 1)


def _check_size(variant: v.Variant, classes: int, channels: int, input: int) -> None:
    if classes < 1 or channels < 1:
        raise AlexNetError(
            f"{variant.name} was asked for {classes} classes and {channels} input channels; give 1 or more of each."
        )
    able = sizes(variant)
    if input not in able:
        side = _last_map(variant, variant.input)
        raise AlexNetError(
            f"{variant.name} cannot take input {input}: its plan gives fc6 its {side} x {side} maps for inputs from "
            f"{able.start} to {able.stop - 1} (its own is {variant.input})."
        )


@dataclass(frozen=True)
class LayerFacts:
    """A row of `alexnet info`; `output` has no batch dimension, `macs` are multiply-adds for one picture."""

    name: str
    kind: str
    kernel: str
    output: list[int]
    parameters: int
    macs: int


def layer_facts(model: AlexNet) -> list[LayerFacts]:
    """Kernel, output shape, parameters and multiply-adds of each layer, in order."""
    shape: tuple[int, ...] = (model.channels, model.input, model.input)
    rows = []
    for record in model.variant.layers:
        shape = output_shape(record, shape, model.classes)
        layer = getattr(model, record.name)
        kernel = ""
        if isinstance(record, v.Conv):
            kernel = f"{record.kernel} x {record.kernel}" + (f" / {record.stride}" if record.stride > 1 else "")
            kernel += f", {layer.groups} groups" if layer.groups > 1 else ""
        elif isinstance(record, v.MaxPool):
            kernel = f"{record.kernel} x {record.kernel} / {record.stride}"
        weight = getattr(layer, "weight", None)
        macs = 0 if weight is None else weight.numel() * math.prod(shape[1:])
        parameters = sum(p.numel() for p in layer.parameters())
        rows.append(LayerFacts(record.name, type(record).__name__.lower(), kernel, list(shape), parameters, macs))
    return rows


def seeded_build(
    seed: int, variant: str, classes: int, channels: int, input: int, dropout: float | None = None
) -> AlexNet:
    """`build` with weights that are a function of `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(variant, classes, channels, input, dropout)
