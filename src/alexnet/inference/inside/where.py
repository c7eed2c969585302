"""Where in a large picture the network sees what: its fully connected layers as convolutions over all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alexnet.base.errors import AlexNetError
from alexnet.data.pictures import Source, decode
from alexnet.inference.dense import dense, whole_picture
from alexnet.weights.classifier import Classifier

SHORTER = 3  # times the stored side: what the shorter side of a picture is brought to unless one is given
MOST = 12  # times the stored side: longer pictures are refused, as a network of 2012 would take gigabytes for them


@dataclass(frozen=True)
class Where:
    """Probabilities float32 (classes, h, w); place (i, j) sees the `input` x `input` pixels from (i, j) · `stride` on.

    `picture` is uint8 (H, W, C), as it was looked at.
    """

    probabilities: np.ndarray
    stride: int
    input: int
    picture: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The most probable class of each place: int64 (h, w)."""
        return self.probabilities.argmax(0)


@torch.inference_mode()
def where(classifier: Classifier, picture: Source, shorter: int | None = None) -> Where:
    """The class map of a picture whose shorter side is brought to `shorter` pixels: three times the stored side, unless
    another is given."""
    preprocess = classifier.preprocess
    shorter = SHORTER * preprocess.stored if shorter is None else shorter
    opened = decode(picture, preprocess.channels)
    longer = round(shorter * max(opened.size) / min(opened.size))
    if shorter < preprocess.input or longer > MOST * preprocess.stored:
        raise AlexNetError(
            f"a class map was asked for of a picture of {shorter} x {longer} pixels; the shorter side is "
            f"{preprocess.input} or more and the longer {MOST * preprocess.stored} at most: give another shorter side, "
            "or cut the picture."
        )
    network = dense(classifier)
    image = whole_picture(preprocess, opened, shorter).to(classifier.device)
    probabilities = network(image)[0].softmax(0).float().cpu().numpy()
    pixels = np.asarray(opened.resize((image.shape[3], image.shape[2])))
    return Where(probabilities, network.stride, network.input, pixels if pixels.ndim == 3 else pixels[..., None])
