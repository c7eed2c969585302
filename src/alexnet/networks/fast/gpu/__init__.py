"""A GPU's passes, in Triton, and whether they run on a device: asked here by whoever would launch one.

stretches.py finds them in a model, convolutions.py and stages.py launch them, triton_kernels.py is what they run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from alexnet.base.device import on
from alexnet.base.errors import AlexNetError

OLDEST = (8, 0)  # compute capability: bfloat16 in tensor cores
FEWEST = 16  # pictures to classify for which kernels are built, which takes seconds once a machine


@cache
def kernels() -> tuple[ModuleType | None, str]:
    """The kernels, or why there are none, in words."""
    try:
        from alexnet.networks.fast.gpu import triton_kernels
    except ImportError:
        return None, "plain: Triton is not installed, which comes with torch on Linux; pip install triton"
    except Exception as error:  # one that does not fit torch, Python or NumPy fails in many ways
        return None, f"plain; Triton cannot be loaded here ({_last_line(error)})"
    return triton_kernels, "fast, by Triton's passes"


ON_CPU = False  # tests set it, where Triton's interpreter computes in NumPy, as TRITON_INTERPRET=1 asks


@cache
def usable(device: torch.device) -> tuple[bool, str]:
    """Whether the passes run on a device, and why not, in words."""
    if device.type != "cuda" or torch.version.cuda is None:
        name = "AMD's" if device.type == "cuda" else device.type
        return False, f"plain; there are fast forms for CPUs and Nvidia's GPUs, not for {name}"
    found, words = kernels()
    if found is None:
        return False, words
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return False, (
            f"plain; the fast forms need a GPU of compute capability {OLDEST[0]}.{OLDEST[1]}, this one has "
            f"{capability[0]}.{capability[1]}"
        )
    try:
        tried(device)
    except Exception as error:  # Triton needs a C compiler, a folder to write to and a driver that fits, and says so
        return False, f"plain; Triton's passes cannot be built here ({_last_line(error)})"
    return True, words


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]


def tried(device: torch.device) -> None:
    """Build and run the smallest kernel, so that what Triton lacks shows before the first step."""
    weight, velocity, gradient = torch.ones(3, 4, device=device)
    numbers = torch.ones(2, device=device)
    Kernel("update")[(1,)](weight, velocity, gradient, weight, numbers, 4, 1.0, 0.0, SIZE=16, COPIED=False)
    if not torch.equal(weight.cpu(), -torch.ones(4)):
        raise RuntimeError("a kernel of four numbers gave others than it should")


def here(device: torch.device) -> bool:
    """Whether the passes run on a device."""
    return ON_CPU if device.type == "cpu" else usable(device)[0]


class Kernel:
    """A kernel to be launched over a grid, on the GPU on which its first tensor lies: Triton takes the thread's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(first: Tensor, *more: Any, **constants: Any) -> None:
            try:
                with on(first.device):
                    getattr(kernels()[0], self.name)[grid](first, *more, **constants)
            except Exception as error:
                if not type(error).__module__.startswith("triton."):
                    raise
                raise AlexNetError(
                    f"Triton cannot build the pass {self.name} for this GPU ({_last_line(error)}); layers are plain "
                    "in training with --set compile=true, within alexnet.fast.plain(), and everywhere with Triton "
                    "uninstalled."
                ) from error

        return launch
