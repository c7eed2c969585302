"""Augmentation in one pass instead of seven over float pictures: C++ (fast/cpu/pictures.cpp), the same values bit for
bit, or Triton (fast/gpu/triton_kernels.py)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from alexnet.data.augment import Draws
from alexnet.data.preprocess import Preprocess
from alexnet.networks import fast
from alexnet.networks.fast import gpu
from alexnet.networks.fast.cpu.compiler import call, library

TAKES = ("crops", "mean", "colour", "scale")  # the steps (augmentations.py) that the one pass makes, in their order


def fused_steps(steps: Sequence[str]) -> int:
    """How many steps, from the first, the one pass makes: all up to the scale, or none where one of them is not its."""
    end = steps.index(TAKES[-1]) + 1
    return end if all(name in TAKES for name in steps[:end]) else 0


def augmented(
    pictures: Tensor, draws: Draws, preprocess: Preprocess, axes: Tensor | None, amount: float = 0.0,
    precision: torch.dtype = torch.float32,
) -> Tensor | None:  # fmt: skip
    """Training pictures as the network takes them in one pass, or None where the plain functions must do it.

    On a GPU they are of the `precision` that the first layer computes in.
    """
    if not fast.switched_on():
        return None
    if gpu.here(pictures.device):
        return _on_gpu(pictures, draws, preprocess, axes, amount, precision)
    return _on_cpu(pictures, draws, preprocess, axes, amount)


class _Augment(ctypes.Structure):
    """As in pictures.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "channels", "stored", "size", "noisy", "threads")),
        *((name, ctypes.c_float) for name in ("noise", "scale")),
    ]


def _on_cpu(
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
    shifts = torch.zeros(count, channels) if axes is None else draws.shifts(axes)
    mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
    mean = mean.expand(channels, size, size).permute(1, 2, 0).contiguous()
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    out = torch.empty((count, channels, size, size), memory_format=torch.channels_last)
    what = _Augment(
        count, channels, stored, size, axes is not None, torch.get_num_threads(), 1 + amount, preprocess.scale[0]
    )
    call("augment", what, pictures, draws.offsets.contiguous(), draws.mirror.contiguous(), mean, shifts, out)
    return out


def _on_gpu(
    pictures: Tensor, draws: Draws, preprocess: Preprocess, axes: Tensor | None, amount: float, dtype: torch.dtype
) -> Tensor | None:
    """Crop, mirror, minus mean, colour noise, ÷ scale: uint8 (n, C, S, S) -> `dtype` (n, C, size, size).

    None where the plain form must do it. Offsets are trusted: `augment.draw` keeps them inside.
    """
    (count, channels), size = pictures.shape[:2], preprocess.input
    if pictures.dtype != torch.uint8 or len(preprocess.scale) > 1 or channels > 4:
        return None
    shifts = preprocess.mean if axes is None else draws.shifts(axes)
    mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
    mean = mean.expand(channels, size, size).permute(1, 2, 0).contiguous()
    out = torch.empty(
        (count, channels, size, size), dtype=dtype, device=pictures.device, memory_format=torch.channels_last
    )
    top, left = draws.offsets.to(torch.int32).unbind(1)
    rows, each = count * size * size, 256
    gpu.Kernel("augment")[(-(-rows // each),)](
        pictures, top.contiguous(), left.contiguous(), draws.mirror.to(torch.uint8), mean, shifts, out, rows, size,
        1 + amount, preprocess.scale[0], *pictures.stride(), C=channels, NOISY=axes is not None, ROWS=each,
    )  # fmt: skip
    return out
