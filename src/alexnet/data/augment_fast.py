"""Augmentation in one pass of C++ (pictures.cpp) instead of seven over float pictures; bit for bit the same values."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from alexnet.data.augment import Draws
from alexnet.data.preprocess import Preprocess
from alexnet.networks.fast.compiler import call, library


class _Augment(ctypes.Structure):
    """As in pictures.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "channels", "stored", "size", "noisy", "threads")),
        *((name, ctypes.c_float) for name in ("noise", "scale")),
    ]


def augmented(
    pictures: Tensor, draws: Draws, preprocess: Preprocess, axes: Tensor | None, amount: float = 0.0
) -> Tensor | None:
    """Crop, mirror, minus mean, colour noise, ÷ scale: uint8 (n, C, S, S) -> float32 (n, C, size, size).

    Noise of `amount`, a share of the colours' deviations, has been drawn along `axes`; None for no noise.
    None where the plain form must do it.
    """
    if (
        pictures.device.type != "cpu"
        or pictures.dtype != torch.uint8
        or len(preprocess.scale) > 1
        or library()[0] is None
    ):
        return None
    count, channels, stored, _ = pictures.shape
    size = preprocess.input
    low, high = int(draws.offsets.min()), int(draws.offsets.max())
    if low < 0 or high + size > stored:
        raise ValueError(f"crops of {size} at offsets {low} to {high} leave pictures of {stored} pixels")
    shifts = torch.zeros(count, channels) if axes is None else (draws.colour @ axes).contiguous()
    mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
    mean = mean.expand(channels, size, size).permute(1, 2, 0).contiguous()
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    out = torch.empty((count, channels, size, size), memory_format=torch.channels_last)
    what = _Augment(
        count, channels, stored, size, axes is not None, torch.get_num_threads(), 1 + amount, preprocess.scale[0]
    )
    call("augment", what, pictures, draws.offsets.contiguous(), draws.mirror.contiguous(), mean, shifts, out)
    return out
