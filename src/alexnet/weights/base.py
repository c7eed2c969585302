"""What every format is read into: tensors under the names of layers, and what they need to be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.errors import AlexNetError
from alexnet.preprocess import Preprocess


@dataclass(frozen=True)
class Weights:
    """`tensors` are named conv1.weight … fc8.bias; `changes` are those of `build`: dropout and so on."""

    variant: str
    tensors: dict[str, Tensor]
    classes: list[str]
    preprocess: Preprocess
    changes: dict[str, Any]
    origin: str


def check_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, by name."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AlexNetError(f"MODEL {file} has values in {name} that are not finite; copy it again or train anew.")


def first_line(error: Exception) -> str:
    """An error of a library in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
