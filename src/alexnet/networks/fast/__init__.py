"""Fast forms of the network's layers, chosen here alone; layers.py holds the plain forms that tests compare with.

On a CPU, in float32 and bfloat16, chains of ReLU, normalisations and max pooling are one C++ pass each (cpu/), and
conv1 sees its picture as blocks of pixels. On an Nvidia GPU the same is done in Triton (gpu/), with the convolutions'
biases. Everything else runs in its plain form, and so does whatever somebody could watch or has changed:
layers with hooks, of other types, with another `forward`; all of them where hooks are global, operators are
intercepted, or the network is traced, exported, transformed or compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from alexnet.networks.fast import gpu
from alexnet.networks.fast.cpu import blocks, compiler, conv1, rows
from alexnet.networks.fast.gpu import dropout, stretches
from alexnet.networks.layers import Dropout

_switched_on: ContextVar[bool] = ContextVar("fast forms", default=True)  # each thread's own

# What the layers that have fast forms run; tools that count or rewrite put their own there.
_AS_IN_TORCH = [
    (owner, name, getattr(owner, name))
    for owner, names in (
        (nn.Module, ("__call__", "_call_impl")),
        (F, ("relu", "max_pool2d", "avg_pool2d", "conv2d", "pad", "linear")),
        *((kind, ("forward",)) for kind in (*blocks.KINDS, *rows.KINDS, nn.Conv2d, conv1.LastWindow, Dropout)),
    )
    for name in names
]


class FastForm(Protocol):
    """Consecutive layers in one go: given their input, their output, or None where it cannot be done."""

    @property
    def names(self) -> list[str]: ...

    @property
    def layers(self) -> list[nn.Module]: ...

    def __call__(self, x: Tensor) -> Tensor | None: ...


@contextmanager
def plain() -> Iterator[None]:
    """Within it every layer runs in its plain form, in this thread."""
    before = _switched_on.set(False)
    try:
        yield
    finally:
        _switched_on.reset(before)


def switched_on() -> bool:
    """Whether fast forms may run in this thread."""
    return _switched_on.get()


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


def passes(
    named_layers: Callable[[], Sequence[tuple[str, nn.Module]]], x: Tensor, until: str,
    masks: Mapping[str, Tensor] | None = None,
) -> dict[str, FastForm]:  # fmt: skip
    """The fast forms for this input, by the name of the first layer that each takes; none where none fits.

    A form may still give None for what it is given; then, and for all other layers, the plain form runs.
    """
    if not _usable(x):
        return {}
    layers, found = named_layers(), list[FastForm]()
    if gpu.here(x.device):
        if torch.is_grad_enabled() or len(x) >= gpu.FEWEST:
            found += [*dropout.passes(layers, masks or {}), *stretches.passes(layers)]
    else:
        if compiler.library()[0] is not None:
            found += [*conv1.passes(layers), *blocks.passes(layers)]
        found += rows.passes(layers)
    return {one.names[0]: one for one in found if until not in one.names[:-1] and not any(map(touched, one.layers))}


def _usable(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # before all else, so that torch.compile looks at nothing else
        and not torch.jit.is_tracing()
        and type(x) is Tensor
        and x.dtype in (torch.float32, torch.bfloat16)
        and compiler.takes(x)
        and _switched_on.get()
        and not _intercepted()
        and (gpu.here(x.device) or x.device.type == "cpu")
    )


def _intercepted() -> bool:
    """Whether somebody waits for every module or operator: global hooks, modes, functions put in torch's place."""
    return (
        modules._has_any_global_hook()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
        or any(getattr(owner, name) is not function for owner, name, function in _AS_IN_TORCH)
    )


def touched(layer: nn.Module) -> bool:
    """Whether somebody's hook waits for what goes into this layer or comes out of it, or it runs something else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or "forward" in vars(layer) or layer._compiled_call_impl is not None


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
