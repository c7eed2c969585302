"""Which device and which precision, chosen here alone, and why."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted

NVIDIA = Path("/proc/driver/nvidia/version")  # is there where the system has Nvidia's driver
_CUDNN: Any = torch.backends.cudnn
_PRODUCTS = (_CUDNN.conv, _CUDNN.rnn, torch.backends.cuda.matmul)
DEVICES = ("auto", "cpu", "cuda", "mps")  # cuda also with a number


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The named device; auto is a GPU where there is one. A device that is absent is an error, never another."""
    name = str(name)
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        if not available["cuda"]() and NVIDIA.exists():
            logging.getLogger("alexnet").warning(f"{_unused_gpu()}; --device cpu says that the CPU is meant")
        return _exact(torch.device(next(kind for kind, there in available.items() if there())))
    kind = name.split(":")[0]
    if kind not in available:
        raise AlexNetError(f"--device was given '{name}'; it takes {', '.join(DEVICES)} or cuda:N.")
    if not available[kind]():
        if kind == "cuda" and NVIDIA.exists():
            raise AlexNetError(f"--device {name}: {_unused_gpu()}; until then use --device cpu.")
        raise AlexNetError(f"--device {name}: torch finds no such device here; use --device auto or cpu.")
    number = name.partition(":")[2]
    if ":" in name and not (number.isdecimal() and int(number) < (torch.cuda.device_count() if kind == "cuda" else 1)):
        there = f"cuda:0 to cuda:{torch.cuda.device_count() - 1}" if kind == "cuda" else kind
        raise AlexNetError(f"--device {name}: torch finds no such device here; of that kind there is {there}.")
    return _exact(torch.device(name))


def _unused_gpu() -> str:
    built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
    return (
        f"an Nvidia GPU is here, but torch {torch.__version__} cannot use it (it {built}): see to the driver, or "
        "install a torch that fits it"
    )


def on(device: torch.device) -> AbstractContextManager[object]:
    """A context in which that GPU is this thread's; for another device nothing changes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def send(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. To a GPU it goes from pinned memory, so that nobody waits for what the GPU still does.

    torch keeps the pinned memory until the copy is made.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def _exact(device: torch.device) -> torch.device:
    """The device; on an Nvidia GPU torch's convolutions of float32 would round their factors to 10 bits: not here."""
    if device.type == "cuda":
        _round_factors(False)
    return device


def _round_factors(allowed: bool) -> None:
    """Say it in both of torch's ways: the older alone leaves convolutions to torch.backends.fp32_precision."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    for kind in _PRODUCTS:
        kind.fp32_precision = "tf32" if allowed else "ieee"


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it an Nvidia GPU's float32 products round their factors to 10 bits, or don't, which is then float32."""
    try:
        older = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # torch does not answer where somebody has used the newer way
        older = None
    before = [kind.fp32_precision for kind in _PRODUCTS]
    _round_factors(allowed)
    try:
        yield
    finally:
        if older is not None:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = older
        for kind, precision in zip(_PRODUCTS, before, strict=True):
            kind.fp32_precision = precision


def choose_precision(device: torch.device, wanted: str = "auto") -> tuple[torch.dtype, str]:
    """float32 or bfloat16 for the arithmetic of training, and the reason; weights are float32 in both.

    "tf32" is float32 whose products a GPU may take of rounded factors: `tf32`.
    """
    if wanted == "tf32" and device.type != "cuda":
        raise AlexNetError(f"precision tf32 was asked for, which {device.type} lacks; use float32, bfloat16 or auto.")
    able = True  # Nvidia's GPUs have both or neither
    if device.type == "cuda":
        with on(device):
            able = torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "tf32" and not able:
        raise AlexNetError(
            f"precision tf32 was asked for, which {device_name(device)} lacks and would compute as float32; use "
            "float32 or auto."
        )
    if wanted == "bfloat16" and not able:
        return torch.bfloat16, "as asked; this GPU has no bfloat16 units, so it is slower than float32"
    if wanted != "auto":
        return torch.float32 if wanted == "tf32" else getattr(torch, wanted), "as asked"
    if device.type == "cuda":
        if able:
            return torch.bfloat16, "this GPU multiplies bfloat16 in its tensor cores"
        return torch.float32, "this GPU has no bfloat16 units"
    if device.type == "cpu" and _cpu_flags() & {"amx_bf16", "avx512_bf16"}:
        return torch.bfloat16, "this CPU has bfloat16 instructions, several times faster than float32"
    return torch.float32, "bfloat16 is not faster on this device"


def _cpu_flags() -> set[str]:
    """What /proc/cpuinfo says, where there is one: torch has no public question for bfloat16 instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return set()
    return next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), set())


def device_name(device: torch.device) -> str:
    """The device in words, for people and for metrics."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else device.type


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Within it torch uses only algorithms that repeat bit for bit, if that is wanted."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), _CUDNN.benchmark
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    debugging: Any = torch.utils.deterministic
    filled = debugging.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    _CUDNN.benchmark = False
    debugging.fill_uninitialized_memory = False  # nothing here reads what it has not written: no second writing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warns)
        _CUDNN.benchmark = before[1]
        debugging.fill_uninitialized_memory = filled
