"""One picture at a time, as fast as this machine can: from the pixels to the probabilities with nothing between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.engines.choosing import in_torch
from alexnet.engines.loading import attach, load_classifier
from alexnet.weights.classifier import Classifier, check_names


class Realtime:
    """Call it with a picture; for one caller at a time. `classes` are the names, `words` the engine's."""

    def __init__(self, classifier: Classifier) -> None:
        engine = classifier.engine or in_torch(classifier)
        self.classes, self.words, self._run = classifier.classes, engine.words, engine.run
        stored, channels = classifier.preprocess.stored, classifier.preprocess.channels
        self.shape = (stored, stored, channels)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Probabilities float32 (classes,) of a uint8 picture (stored, stored, C) in the model's order of colours."""
        picture = np.asarray(picture)
        if picture.shape != self.shape or picture.dtype != np.uint8:
            raise AlexNetError(
                f"a picture of shape {picture.shape} and {picture.dtype} was given; the network takes {self.shape} of "
                "uint8: resize it, or use alexnet.predict, which takes any."
            )
        found = self._run(np.require(picture, None, ["C", "W"])[None], "prob")[0]
        check_names(len(found), len(self.classes))
        return found


def realtime(
    model: str | Path | Classifier, engine: str | None = "auto", say: Callable[[str], object] = lambda text: None
) -> Realtime:
    """A function from one uint8 picture to probabilities, on the CPU.

    `engine` is auto (a trial of some seconds; `say` gets what it chose), torch, onnx or openvino, in as many threads
    as torch has. An export as `model` starts at once and is run as it was made.
    """
    if isinstance(model, Classifier):
        if model.device.type != "cpu":
            raise AlexNetError(
                f"realtime computes on the CPU, and this classifier is on {model.device}; give one that was loaded "
                "to the CPU, or its MODEL by name."
            )
        return Realtime(attach(model, engine, 1, say))
    return Realtime(load_classifier(model, "cpu", engine, 1, say))
