"""Fast forms of the network's layers, chosen here alone; layers.py holds the plain forms that tests compare with.

On a CPU, in float32 and bfloat16, runs of ReLU, normalisations and max pooling are one C++ pass each (blocks.py), and
conv1 sees its picture as blocks of pixels (conv1.py). On an Nvidia GPU the same is done in Triton (gpu.py), with the
convolutions' biases. Everything else, and every layer that somebody watches with a
hook or that `until` stops within, runs in its plain form.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from alexnet.augment import Draws
from alexnet.fast import blocks, compiler, conv1, gpu
from alexnet.fast import pictures as by_pass
from alexnet.preprocess import Preprocess

_switched_on = True


class Pass(Protocol):
    """Consecutive layers in one go: given their input, their output, or None where it cannot be done."""

    @property
    def names(self) -> list[str]: ...

    @property
    def layers(self) -> list[nn.Module]: ...

    def __call__(self, x: Tensor) -> Tensor | None: ...


@contextmanager
def plain() -> Iterator[None]:
    """Within it every layer runs in its plain form."""
    global _switched_on
    before, _switched_on = _switched_on, False
    try:
        yield
    finally:
        _switched_on = before


def choose(device: torch.device, compile: bool = False) -> str:
    """Prepare the fastest correct forms for long work on a device; which they are, in words, and why.

    The first call on a CPU may compile them, and lets the process keep the memory it frees.
    """
    if device.type == "cpu":
        keep_memory()
    if compile:
        return "layers: plain, fused by torch.compile, as asked"
    if device.type != "cpu":
        return f"layers: {gpu.usable(device)[1]}"
    found, words = compiler.library()
    return f"layers: {'fast, ' if found else ''}{words}"


def passes(model: nn.Module, x: Tensor, until: str) -> dict[str, Pass]:
    """The fast forms for this input, by the name of the first layer that each takes; none where none fits.

    A form may still give None for what it is given; then, and for all other layers, the plain form runs.
    """
    if not _usable(x):
        return {}
    found: list[Pass]
    if x.device.type == "cpu" and not gpu.ON_CPU:
        found = [*conv1.passes(model.named_children()), *blocks.passes(model.named_children())]
    else:
        found = [*gpu.passes(model.named_children())]
    return {one.names[0]: one for one in found if until not in one.names[:-1] and not any(map(_watched, one.layers))}


def _usable(x: Tensor) -> bool:
    return (
        _switched_on
        and type(x) is Tensor
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and _forms_for(x.device)
    )


def _forms_for(device: torch.device) -> bool:
    if device.type == "cpu":
        return gpu.ON_CPU or compiler.library()[0] is not None
    return gpu.usable(device)[0]


def augmented(
    pictures: Tensor, draws: Draws, preprocess: Preprocess, axes: Tensor | None, amount: float = 0.0
) -> Tensor | None:
    """Training pictures as the network takes them (see pictures.py), or None where the plain functions must do it."""
    return by_pass.augmented(pictures, draws, preprocess, axes, amount) if _switched_on else None


def _watched(layer: nn.Module) -> bool:
    """Whether somebody's hook waits for what goes into this layer or comes out of it."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


@cache
def keep_memory() -> bool:
    """Let this process keep the memory it frees: a step's big tensors then cost no page faults. True where it could.

    Asking the system for each of them anew takes a third of a step on a CPU. GNU's C library only.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    trim_threshold, mmap_max = -1, -4
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))
