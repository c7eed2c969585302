"""What every format is read into: tensors under the names of layers, and what they need to be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet import variants as v
from alexnet.errors import AlexNetError
from alexnet.preprocess import Preprocess
from alexnet.shapes import weight_shapes

VERSION = 1  # of the facts in a file's metadata


@dataclass(frozen=True)
class Weights:
    """`tensors` are named conv1.weight … fc8.bias; `changes` are those of `build`: dropout and so on."""

    variant: str
    tensors: dict[str, Tensor]
    classes: list[str]
    preprocess: Preprocess
    changes: dict[str, Any]
    origin: str
    trained: dict[str, Any] = field(default_factory=dict)  # of a run: step, digest of its data and what it held out

    def built(self) -> v.Variant:
        """The variant with the changes made."""
        return v.changed(v.variant(self.variant), self.changes)


def facts(weights: Weights) -> dict[str, Any]:
    """Everything but the tensors, as plain data for a file's metadata."""
    return {
        "version": VERSION,
        "variant": weights.variant,
        "changes": weights.changes,
        "classes": weights.classes,
        "preprocess": weights.preprocess.facts(),
        "origin": weights.origin,
        **({"trained": weights.trained} if weights.trained else {}),
    }


def from_facts(given: Mapping[str, Any], tensors: dict[str, Tensor]) -> Weights:
    """Weights from their facts and tensors, of which `mean` is the mean. Raises KeyError, TypeError, ValueError."""
    preprocess = Preprocess.from_facts(given["preprocess"], tensors.pop("mean"))
    classes = [str(name) for name in given["classes"]]
    origin, trained = str(given["origin"]), dict(given.get("trained", {}))
    return Weights(str(given["variant"]), tensors, classes, preprocess, dict(given["changes"]), origin, trained)


def note(text: str) -> None:
    """One line on stderr about something that was assumed."""
    logging.getLogger("alexnet").warning(text)


def check_shapes(
    file: Path,
    variant: v.Variant,
    tensors: Mapping[str, Tensor],
    classes: int,
    channels: int,
    input: int,
    called: Mapping[str, str] | None = None,
) -> None:
    """Refuse weights of another shape than the variant's, by the name that the file has for them (`called`)."""
    for name, shape in weight_shapes(variant, classes, channels, input).items():
        shown = (called or {}).get(name, name)
        if name not in tensors:
            raise AlexNetError(f"MODEL {file} lacks {shown}, which {variant.name} has; give weights of that network.")
        got = tuple(tensors[name].shape)
        if got != shape:
            raise AlexNetError(
                f"MODEL {file} has {shown} of shape {got}; {variant.name} with {classes} classes has {shape}: give "
                "weights of that network."
            )


def check_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, by name."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AlexNetError(f"MODEL {file} has values in {name} that are not finite; copy it again or train anew.")


def first_line(error: Exception) -> str:
    """An error of a library in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
