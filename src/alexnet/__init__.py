"""The reference AlexNet. The names in `__all__` are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AlexNetError", "build", "evaluate", "export", "features", "finetune", "load", "predict", "realtime", "similar",
    "train",
]  # fmt: skip

if TYPE_CHECKING:
    from alexnet.checkpoint import load
    from alexnet.errors import AlexNetError
    from alexnet.evaluation import evaluate
    from alexnet.exporting import export
    from alexnet.extraction import features
    from alexnet.finetuning import finetune
    from alexnet.latency import realtime
    from alexnet.model import build
    from alexnet.prediction import predict
    from alexnet.similarity import similar
    from alexnet.training import train

_HOMES = {
    "AlexNetError": "errors",
    "build": "model",
    "evaluate": "evaluation",
    "export": "exporting",
    "features": "extraction",
    "finetune": "finetuning",
    "load": "checkpoint",
    "predict": "prediction",
    "realtime": "latency",
    "similar": "similarity",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alexnet' has no attribute '{name}'")
    from importlib import import_module

    found = getattr(import_module(f"alexnet.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
