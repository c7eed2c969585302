"""What tells data from other data: classes, labels, names, and the bytes of some pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from alexnet.data.dataset import Data, Split
from alexnet.data.pictures import Unreadable, as_given

NAMES = 100_000  # of a split, evenly spaced, that tell it from another
PICTURES = 16  # of a split, evenly spaced, whose bytes tell it from another under the same names
TRAINED = ("train", "valid")  # the splits that a run sees


def digest(data: Data, names: bool = True) -> str:
    """A hash of classes, labels and names (unless without), in order, of the pictures trained on and held out."""
    total = hashlib.sha256(repr(data.classes).encode())
    for split in (data.splits[name] for name in TRAINED if name in data.splits):
        total.update(np.ascontiguousarray(split.labels, "<i8").tobytes())
        for row in _some(split, NAMES) if names else ():
            total.update(split.name(row).encode("utf-8", "surrogateescape") + b"\0")
        total.update(b"|%d|" % len(split))
    return total.hexdigest()


def pictures_digest(data: Data, splits: Collection[str] = ()) -> str:
    """A hash of the bytes of some pictures of each split, or of those named, as they are stored."""
    total = hashlib.sha256()
    for name, split in sorted(data.splits.items()):
        if name not in (splits or data.splits):
            continue
        total.update(f"|{name}|".encode())
        for row in _some(split, PICTURES):
            total.update(hashlib.sha256(_stored(split, row)).digest())
    return total.hexdigest()


def identity(data: Data, names: bool = True) -> str:
    """A hash of both; without names, of whoever holds the same pictures in the same order."""
    return hashlib.sha256(f"{digest(data, names)} {pictures_digest(data)}".encode()).hexdigest()


def _some(split: Split, most: int) -> list[int]:
    """So many rows, evenly spaced."""
    return np.unique(np.linspace(0, len(split) - 1, min(len(split), most)).round().astype(int)).tolist()


def _stored(split: Split, row: int) -> bytes:
    try:
        return as_given(split.read(row))
    except Unreadable as error:
        return str(error).encode("utf-8", "surrogateescape")
