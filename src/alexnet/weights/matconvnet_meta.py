"""What MatConvNet's files say of pictures and classes in net.meta, or, in older files, in net itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.weights.base import LARGEST, note
from alexnet.weights.caffe_mean import given_mean, in_the_middle, square_of_hints
from alexnet.weights.matlab import Numbers

STORED = 256  # the side of the pictures that MatConvNet crops where a file does not say it


def part_of(net: Mapping[str, Any], key: str) -> dict[str, Any]:
    """normalization or classes; empty where there is none."""
    meta = net.get("meta")
    for place in (meta[0] if isinstance(meta, list) and meta else {}, net):
        if isinstance(place.get(key), list) and place[key]:
            return place[key][0]
    return {}


def side_of(file: Path, pictures: dict[str, Any]) -> int:
    """The side of the pictures that the network sees."""
    sides = pictures["imageSize"].array().reshape(-1).tolist() if "imageSize" in pictures else []
    if len(sides) < 2 or sides[0] != sides[1] or not 1 <= sides[0] <= LARGEST or sides[0] % 1:
        raise AlexNetError(
            f"MODEL {file} gives no side of its square pictures (imageSize is {sides!s:.40}); set "
            "net.meta.normalization.imageSize in MATLAB and save it anew."
        )
    return int(sides[0])


def preprocess_of(
    file: Path, pictures: dict[str, Any], input: int, channels: int, hints: Hints
) -> tuple[Preprocess, bool]:
    """What is done to pictures, and whether the file itself has the mean."""
    if "imageStd" in pictures:
        raise AlexNetError(
            f"MODEL {file} divides pixels by an imageStd, as networks that come from PyTorch do; give PyTorch's own "
            "file of it."
        )
    stored, square = _stored(file, pictures, input, hints)
    mean = _mean(file, pictures.get("averageImage"), channels, stored, input)
    own = mean is not None
    if mean is None:
        if not hints.mean:
            raise AlexNetError(f"MODEL {file} carries no averageImage; give its mean with --mean, a file or R,G,B.")
        mean = given_mean(hints.mean, channels, stored, input)
    return Preprocess(stored, input, "L" if channels == 1 else "RGB", (1.0,), mean, square), own


def _stored(file: Path, pictures: dict[str, Any], input: int, hints: Hints) -> tuple[int, str]:
    """The side of the pictures that crops are taken from, and how these become squares."""
    if "border" in pictures:
        stored = [input + border for border in numbers_in(pictures["border"], 2)]
    elif "cropSize" in pictures:
        stored = [round(input / share) for share in numbers_in(pictures["cropSize"], 2)]
    else:
        note(f"{file.name} gives neither border nor cropSize: crops are taken from pictures of {STORED} pixels")
        stored = [STORED] * 2
    if stored[0] != stored[1] or not input <= stored[0] <= LARGEST or stored[0] % 1:
        raise AlexNetError(
            f"MODEL {file} takes crops of {input} from pictures of {stored[0]:g} x {stored[1]:g}, not of squares of up "
            f"to {LARGEST}; mend net.meta.normalization in MATLAB."
        )
    if "keepAspect" in pictures:
        return int(stored[0]), "crop" if numbers_in(pictures["keepAspect"], 1)[0] else "squash"
    return int(stored[0]), "crop" if "cropSize" in pictures else square_of_hints(file, hints)


def _mean(file: Path, given: Any, channels: int, stored: int, input: int) -> Tensor | None:
    """The averageImage (rows, columns, colours), or numbers, one a colour; None where there is none."""
    if not isinstance(given, Numbers) or given.stored.size in (0, 2):  # [0 0] is written where there was none
        return None
    if given.stored.size == channels:
        return torch.from_numpy(given.array().astype(np.float32).reshape(channels, 1, 1))
    if (*given.shape, 1)[:3] != (input, input, channels):
        raise AlexNetError(
            f"MODEL {file} has an averageImage of {given.shape!s:.60}, not {(input, input, channels)} or one number a "
            "colour; mend net.meta.normalization in MATLAB."
        )
    crop = given.array().astype(np.float32).reshape(input, input, channels).transpose(2, 0, 1)
    return torch.from_numpy(in_the_middle(crop, stored).copy())


def class_names(file: Path, classes: dict[str, Any], outputs: int) -> list[str]:
    """The names of the classes; none where the file has none."""
    given = [classes[key] for key in ("description", "name") if key in classes]
    names: Any = next((x for x in given if isinstance(x, list) and x), [])
    if not names:
        if any(x.stored.size if isinstance(x, Numbers) else x for x in given):
            note(f"{file.name} has the names of its classes in another form than a cell of texts: they are not read")
        return []
    if len(names) != outputs or not all(isinstance(name, str) for name in names):
        words = f"{counted(outputs, 'output')} and {counted(len(names), 'name')} of classes, or other names than text"
        raise AlexNetError(f"MODEL {file} has {words}; mend net.meta.classes in MATLAB.")
    return labels.distinct(names)


def numbers_in(given: Any, count: int, default: float | None = None) -> list[float]:
    """So many numbers; one stands for all. Raises ValueError."""
    if given is None and default is not None:
        return [default] * count
    if not isinstance(given, Numbers) or given.stored.size not in (1, count):
        raise ValueError(f"{count} numbers are expected where it has something else")
    return [float(x) for x in given.array().reshape(-1, order="F")] * (count if given.stored.size == 1 else 1)
