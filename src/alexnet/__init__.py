"""The reference AlexNet. The names in `__all__` are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alexnet.base.version import __version__ as __version__

__all__ = [
    "AlexNetError", "build", "evaluate", "export", "features", "finetune", "load", "look", "predict", "realtime",
    "similar", "train",
]  # fmt: skip

if TYPE_CHECKING:
    from alexnet.base.errors import AlexNetError
    from alexnet.inference.evaluation import evaluate
    from alexnet.inference.exporting import export
    from alexnet.inference.features import features
    from alexnet.inference.inside.looking import look
    from alexnet.inference.latency import realtime
    from alexnet.inference.loaded import load
    from alexnet.inference.prediction import predict
    from alexnet.inference.similarity import similar
    from alexnet.networks.model import build
    from alexnet.training.finetuning import finetune
    from alexnet.training.loop import train

_HOMES = {
    "AlexNetError": "base.errors",
    "build": "networks.model",
    "evaluate": "inference.evaluation",
    "export": "inference.exporting",
    "features": "inference.features",
    "finetune": "training.finetuning",
    "load": "inference.loaded",
    "look": "inference.inside.looking",
    "predict": "inference.prediction",
    "realtime": "inference.latency",
    "similar": "inference.similarity",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "fast":  # alexnet.fast.plain()
        found = import_module("alexnet.networks.fast")
    elif name in _HOMES:
        found = getattr(import_module(f"alexnet.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'alexnet' has no attribute '{name}'")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
