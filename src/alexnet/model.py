"""One module for every variant: the layers of `variants.py`, built by name and run in their order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alexnet import fast
from alexnet import layers as own
from alexnet import variants as v
from alexnet.shapes import check_size, output_shape


class AlexNet(nn.Module):
    """A variant as a module whose children are its layers: `model.conv1`, …, `model.fc8`, `model.prob`.

    Takes preprocessed float pictures (N, channels, input, input), gives logits (N, classes). `masks` holds 0/1
    tensors (N, units) for dropout layers by name, so that a training loop can own the draw. `until` names the
    layer whose output is returned; the default is the last before the softmax.
    """

    def __init__(
        self, variant: v.Variant, classes: int, channels: int, input: int, changes: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        check_size(variant, classes, channels, input)
        self.changes = dict(changes or {})
        variant = v.changed(variant, self.changes)
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
        passes = fast.passes(self, x, until)
        done: Sequence[str] = ()  # layers that a fast form has taken together
        for name, layer in self.named_children():
            if name not in done:
                y = passes[name](x) if name in passes else None
                if y is not None:
                    x, done = y, passes[name].names
                elif isinstance(layer, own.Dropout):
                    x = layer(x, masks.get(name) if masks else None)
                else:
                    x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            if name == until:
                return x
        raise ValueError(f"{self.variant.name} has no layer '{until}'; it has {', '.join(dict(self.named_children()))}")


def build(variant: str, classes: int = 1000, channels: int = 3, input: int | None = None, **changes: Any) -> AlexNet:
    """The bare network of that name with its own initial weights, drawn from torch's generator.

    `input` is the side of the square it sees in pixels (default: the variant's own); one that the plan cannot take is
    an error that says which it can. `changes` are `dropout` (share of units dropped, 0 to 1), `activation` (relu or
    tanh) and `ties` (first or all: who gets max pooling's gradient).
    """
    chosen = v.variant(variant)
    model = AlexNet(chosen, classes, channels, input or chosen.input, changes)
    initialise(model)
    return model


def initialise(model: AlexNet) -> None:
    """Draw the weights and set the biases as the variant's records say (spec §3)."""
    for record in model.variant.layers:
        if not isinstance(record, v.Weighted) or record.std == "torch":
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
                groups=record.groups,
            )  # fmt: skip
        case v.FC():
            inputs, units = math.prod(shape), record.units or classes
            return own.GroupedLinear(inputs, units, record.groups) if record.groups > 1 else nn.Linear(inputs, units)
        case v.Local():
            _, height, width = output_shape(record, shape, classes)
            return own.LocalConv2d(shape[0], record.filters, record.kernel, record.stride, record.pad, (height, width))
        case v.ReLU():
            return nn.ReLU()
        case v.Tanh():
            return nn.Tanh()
        case v.LRN():
            alpha = record.alpha if record.divided else record.alpha * record.size
            return own.LocalResponseNorm(shape[0], record.towers, record.size, alpha, record.beta, record.k)
        case v.WithinMapNorm():
            return own.WithinMapNorm(record.size, record.alpha, record.beta)
        case v.BatchNorm():
            return nn.BatchNorm2d(shape[0])
        case v.MaxPool() if record.ties == "all":
            return own.AllTiesMaxPool2d(record.kernel, record.stride)
        case v.AvgPool():
            return nn.AvgPool2d(record.kernel, record.stride, ceil_mode=True)
        case v.MaxPool():
            return nn.MaxPool2d(record.kernel, record.stride, ceil_mode=record.ceil)
        case v.Dropout():
            return own.Dropout(record.rate, record.inverted)
        case v.Softmax():
            return nn.Softmax(dim=1)


def seeded_build(
    seed: int, variant: str, classes: int, channels: int, input: int, changes: Mapping[str, Any] | None = None
) -> AlexNet:
    """`build` with weights that are a function of `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(variant, classes, channels, input, **(changes or {}))
