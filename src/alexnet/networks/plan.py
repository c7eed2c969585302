"""Whether a module still is what its variant's plan builds: files name the plan, not the layers that stand there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet, empty_build

# What changes no answer: where an output is put, and how fast averages follow in training.
IDLE = ("training", "inplace", "momentum")


def head_name(variant: v.Variant) -> str:
    """The last layer with weights."""
    return next(record.name for record in reversed(variant.layers) if isinstance(record, v.Weighted))


def departure(model: AlexNet, classes: int) -> str:
    """The first layer that computes otherwise than in the plan's network of that many classes, in words; "" if none.

    Types, numbers, the shapes of weights and the order are compared; hooks are not seen.
    """
    name = model.variant.name
    planned = _planned(model.variant, classes, model.channels, model.input, tuple(sorted(model.changes.items())))
    for kind in ("forward", "activations"):
        if kind in vars(model) or getattr(type(model), kind) is not getattr(AlexNet, kind):
            return f"its {kind} is another than {name}'s"
    for layer in dict.fromkeys([*planned.order, *model._modules]):
        ours, plans = (getattr(net, layer, None) for net in (model, planned))
        if said := _difference(ours, plans):
            return f"{layer} {said[0]} where {name} has {said[1]}"
    if (model.order, model.logits) != (planned.order, planned.logits):
        return f"its layers are run in another order than {name}'s"
    return ""


@lru_cache(maxsize=8)  # of a run's checkpoints it is the same
def _planned(
    variant: v.Variant, classes: int, channels: int, input: int, changes: tuple[tuple[str, Any], ...]
) -> AlexNet:
    return empty_build(variant, classes, channels, input, dict(changes), "meta")


def _difference(ours: nn.Module | None, plans: nn.Module | None) -> tuple[str, str] | None:
    if ours is None or plans is None or type(ours) is not type(plans):
        return f"is {_words(ours)}", _words(plans)
    if "forward" in vars(ours):
        return "has another forward", "its own"
    for key, value in _numbers(plans).items():
        if getattr(ours, key, None) != value:
            return f"has {key} {getattr(ours, key, None)}", str(value)
    for key in _shapes(plans) | _shapes(ours):
        there, wanted = (_shapes(one).get(key) for one in (ours, plans))
        if there != wanted:
            return f"has {_held(key, there)}", _held(key, wanted)
    return None


def _words(layer: nn.Module | None) -> str:
    if layer is None:
        return "nothing"
    numbers = layer.extra_repr()
    return f"{type(layer).__name__}({numbers})" if numbers and "\n" not in numbers else type(layer).__name__


def _numbers(layer: nn.Module) -> dict[str, Any]:
    """What the layer computes with, besides tensors: its attributes, and what its class lets nobody change."""
    found = dict(vars(layer))
    found |= {key: getattr(layer, key) for key, one in vars(type(layer)).items() if isinstance(one, property)}
    return {
        key: value
        for key, value in found.items()
        if key not in IDLE and not key.startswith("_") and isinstance(value, int | float | str | tuple)
    }


def _shapes(layer: nn.Module) -> dict[str, tuple[int, ...] | str]:
    """Shapes of tensors by name; of others than torch's own, such as quantised ones, what they are."""
    tensors: dict[str, Tensor] = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    plain = (Tensor, nn.Parameter)
    return {key: tuple(x.shape) if type(x) in plain else type(x).__name__ for key, x in tensors.items()}


def _held(key: str, shape: tuple[int, ...] | str | None) -> str:
    return f"no {key}" if shape is None else f"{key} {shape}"
