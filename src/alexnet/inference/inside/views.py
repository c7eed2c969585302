"""What the network is shown of a picture: the steps of its preprocessing, and the ten views with their votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alexnet.data.pictures import Source, decode
from alexnet.data.preprocess import Preprocess
from alexnet.inference.inside.fields import Box
from alexnet.inference.scoring import Member
from alexnet.weights.classifier import Classifier

CORNERS = ("upper left", "upper right", "centre", "lower left", "lower right")


@dataclass(frozen=True)
class Views:
    """The ten views of a picture (paper §4.1): five crops, then their mirror images.

    `boxes` are where they lie in the stored picture, in its pixels, with fractions where that is enlarged for it; crops
    uint8 (10, h, w, C); probabilities float32 (10, classes), and their mean (classes,), which is the answer.
    """

    names: list[str]
    boxes: list[tuple[float, float, float, float]]
    crops: np.ndarray
    probabilities: np.ndarray
    mean: np.ndarray


@torch.inference_mode()
def ten(classifier: Classifier, picture: Source) -> Views:
    """The ten views of a picture and how each votes."""
    preprocess = classifier.preprocess
    stored = preprocess.pixels(picture)[None]
    crops = torch.cat(list(preprocess.ten(stored)))
    member = Member(classifier.model, preprocess, engine=classifier.engine, classes=len(classifier.classes))
    probabilities = member.logits(crops.to(classifier.device)).softmax(1).cpu()
    names = [*CORNERS, *(f"{name}, mirrored" for name in CORNERS)]
    whole = preprocess.stored if preprocess.border else round(preprocess.input * 8 / 7)
    shown = crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Views(names, _boxes(preprocess, whole), shown.numpy(), probabilities.numpy(), probabilities.mean(0).numpy())


def _boxes(preprocess: Preprocess, whole: int) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of the ten crops of a picture of `whole` pixels, in those of the stored one."""
    border, scale = whole - preprocess.input, preprocess.stored / whole
    low = preprocess.low if preprocess.border else border // 2
    places = [(0, 0), (border, 0), (low, low), (0, border), (border, border)]
    side = preprocess.input * scale
    return [(x * scale, y * scale, x * scale + side, y * scale + side) for x, y in places] * 2


@dataclass(frozen=True)
class PreprocessingStep:
    """A step of the preprocessing: what was done, and the picture then, uint8 (h, w, C)."""

    name: str
    says: str
    pixels: np.ndarray


def preprocessing_steps(preprocess: Preprocess, picture: Source) -> list[PreprocessingStep]:
    """How a picture becomes what the network sees: original, shorter side, square, crop, minus mean."""
    original = decode(picture, preprocess.channels)
    side, input, low = preprocess.stored, preprocess.input, preprocess.low
    whole = preprocess.squared.whole(original, side)
    square = preprocess.pixels(original)
    crop = preprocess.central(square)
    box: Box = (low, low, low + input, low + input)
    if preprocess.square == "squash":
        second = PreprocessingStep("both sides", f"both sides are brought to {side} pixels", whole)
        third = "it is a square already: nothing is cut off"
    else:
        second = PreprocessingStep("shorter side", f"the shorter side is brought to {side} pixels", whole)
        third = f"the middle {side} x {side} pixels are kept"
    apart = preprocess.subtract(crop[None])[0]
    most = float(apart.abs().max()) or 1.0
    grey = (127.5 + 127.5 / most * apart).round().to(torch.uint8)
    mean = "mean image of the training pictures" if preprocess.mean.shape[-1] > 1 else "mean colour"
    divided = "" if set(preprocess.scale) == {1.0} else f", then divided by {_numbers(preprocess.scale)}"
    return [
        PreprocessingStep("original", f"{original.width} x {original.height} pixels, upright", _last(original)),
        second,
        PreprocessingStep("square", third, _shown(square)),
        PreprocessingStep(
            "crop", f"the network sees the pixels from {box[0]} to {box[2] - 1} of either side", _shown(crop)
        ),
        PreprocessingStep(
            "minus mean",
            f"minus the {mean}{divided}; drawn with grey for 0, white for {most:.0f} and black for -{most:.0f} levels",
            _shown(grey),
        ),
    ]


def _numbers(scale: tuple[float, ...]) -> str:
    return ", ".join(f"{one:.4g}" for one in scale)


def _shown(pixels: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _last(picture) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
