"""What a file of weights may not say, or is not to: given beside it, or behind a ? in MODEL, and kept with the name.

`net.pth?variant=alexnet64&classes=imagefolder` is the file net.pth with two hints; recipes and indexes record it so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from alexnet.base.errors import AlexNetError

IMAGEFOLDER, NUMERIC = "imagefolder", "numeric"  # orders of classes that a file does not name
ORDERS = ("chw", "hwc")  # of the inputs of the first fully connected layer: maps, rows, columns
SQUARES = ("crop", "squash", "torchvision")  # how a picture becomes a square (data/pictures.py)
CHOICES = {"order": ORDERS, "square": SQUARES}
MEANINGS = {
    "variant": "The network, where MODEL does not say.",
    "mean": "The mean that belongs to MODEL: .binaryproto, .npy, or numbers R,G,B.",
    "classes": "Names of MODEL's classes: one a line; or their order: imagefolder, numeric.",
    "key": "Of a checkpoint with several sets of weights, the one to take.",
    "order": "Of the inputs of fc6 in a .npy: chw (Caffe) or hwc (TensorFlow).",
    "square": "How pictures become squares, if not as MODEL says.",
}
TAKES = {"variant": "V", "mean": "FILE|R,G,B", "classes": "FILE|ORDER", "key": "NAME"}


@dataclass(frozen=True)
class Hints:
    """Each None where nothing was said; MEANINGS says what each is."""

    variant: str | None = None
    mean: str | None = None
    classes: str | None = None
    key: str | None = None
    order: str | None = None
    square: str | None = None

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in (None, *choices):
                raise AlexNetError(f"--{key} was given '{getattr(self, key)}'; it takes {' or '.join(choices)}.")

    def given(self) -> dict[str, str]:
        """What was said."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def split(model: str | Path) -> tuple[str, Hints]:
    """MODEL's file or name, and the hints behind its ?; a file that is called so wins."""
    name, mark, query = str(model).rpartition("?")
    if not mark or Path(model).exists():
        return str(model), Hints()
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(pairs.keys() - MEANINGS.keys())
    if unknown or not pairs:
        raise AlexNetError(
            f"MODEL {model} does not exist, and what follows its ? is no hint ({', '.join(unknown) or 'nothing'}); it "
            f"takes key=value of {', '.join(MEANINGS)}, with & between."
        )
    return name, Hints(**pairs)


def with_hints(model: str | Path, hints: Hints | Mapping[str, Any]) -> str:
    """MODEL with hints behind a ?, over those that it has; their files by full paths, so that it holds anywhere."""
    given = hints.given() if isinstance(hints, Hints) else {k: str(x) for k, x in hints.items() if x is not None}
    if not given:
        return str(model)
    name, own = split(model)
    for key in ("mean", "classes"):
        if key in given and Path(given[key]).exists():
            given[key] = str(Path(given[key]).absolute())
    return f"{name}?{urlencode(own.given() | given, safe='/,')}"


def absolute(model: str | Path) -> str:
    """MODEL so that it means the same from any folder."""
    name, hints = split(model)
    return with_hints(str(Path(name).absolute()) if Path(name).exists() else name, hints)
