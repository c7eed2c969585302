"""Where in a large picture the network sees what: its fully connected layers as convolutions over all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.data.pictures import Source, decode
from alexnet.inference.dense import dense, whole_picture
from alexnet.weights.classifier import Classifier

SHORTER = 3  # times the stored side: what the shorter side of a picture is brought to unless one is given, or less
MOST = 12  # times the stored side: no picture may be longer, as a network of 2012 would take gigabytes for it


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
    """The class map of a picture whose shorter side is brought to `shorter` pixels: three times the stored side, or as
    many as leave the longer one twelve times that, unless another is given."""
    preprocess = classifier.preprocess
    opened, most = decode(picture, preprocess.channels), MOST * preprocess.stored
    short, long = sorted(opened.size)
    side = min(SHORTER * preprocess.stored, most * short // long) if shorter is None else shorter
    longer = round(side * long / short)
    if side < preprocess.input or longer > most:
        then = "cut the picture" if shorter is None else "give another shorter side, or cut the picture"
        raise AlexNetError(
            f"a class map was asked for of a picture of {side} x {longer} pixels; the shorter side is "
            f"{preprocess.input} or more and the longer {most} at most: {then}."
        )
    network = dense(classifier)
    image = whole_picture(preprocess, opened, side).to(classifier.device)
    probabilities = network(image)[0].softmax(0).float().cpu().numpy()
    pixels = np.asarray(opened.resize((image.shape[3], image.shape[2]), Image.Resampling.BILINEAR))
    return Where(probabilities, network.stride, network.input, pixels if pixels.ndim == 3 else pixels[..., None])
