"""Weights as whole numbers of 8 bits with a scale for each unit: a quarter of the bytes, for keeping, not exact."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # float32 (F,), beside int8 (F, …)


def narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 weights (F, …) as int8 and a scale a unit, which is its greatest value / 127; vectors stay as they are.

    A weight changes by half its unit's scale at most.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith(".weight") or tensor.dim() < 2:
            found[name] = tensor
            continue
        rows = tensor.detach().float().flatten(1)
        scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        found[name] = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).reshape(tensor.shape)
        found[name + SCALE] = scale
    return found


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 weights that `narrowed` ones stand for; others as they are. Raises KeyError without a scale."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = tensors[name + SCALE]
            found[name] = (tensor.float().flatten(1) * scale[:, None]).reshape(tensor.shape)
        else:
            found[name] = tensor
    return found
