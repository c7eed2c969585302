"""What every engine is to the rest of the package, and how its optional packages are brought in."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.base.errors import AlexNetError
from alexnet.data.preprocess import Preprocess

FLOAT32, BFLOAT16, W8, W8_BFLOAT16 = "float32", "bfloat16", "8-bit weights", "8-bit weights, bfloat16"


class Whole(nn.Module):
    """A network with its preprocessing: uint8 pictures (n, stored, stored, C) -> float32 logits and probabilities."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, preprocess: Preprocess, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.low, self.side, self.precision = model, preprocess.low, preprocess.input, precision
        mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.tensor(preprocess.scale).reshape(-1, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        end = self.low + self.side
        # Colours stay last in memory, which is how a CPU convolves fastest.
        crops = pictures[:, self.low : end, self.low : end].permute(0, 3, 1, 2).float()
        logits = self.model(((crops - self.mean) / self.scale).to(self.precision)).float()
        return logits, logits.softmax(1)


def package(name: str, extra: str, asked: str) -> Any:
    """An optional package; one that is missing is an error that names the extra. `asked` is what needs it."""
    try:
        with quiet():
            return import_module(name)
    except ImportError as error:
        missing = f"{name}, which is not installed" if find_spec(name.split(".")[0]) is None else f"{name} ({error})"
        raise AlexNetError(f"{asked} needs {missing}: in a clone of alexnet, pip install '.[{extra}]'.") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Within it the engines' packages print nothing, change no logging, and tell their makers nothing of their use."""
    telemetry = "openvino_telemetry"
    before, handlers = sys.modules.get(telemetry), logging.root.handlers[:]
    disabled = logging.root.manager.disable
    sys.modules[telemetry] = None  # type: ignore[assignment]  # what cannot be imported is not used
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers
        if before is None:
            sys.modules.pop(telemetry, None)
        else:
            sys.modules[telemetry] = before
