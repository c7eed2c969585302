"""What every layout gives: labelled pictures that are read one by one, in splits with class names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet.data.pictures import Source
from alexnet.errors import AlexNetError

if TYPE_CHECKING:
    from alexnet.data.pack import Store

VALID = ("val", "valid", "validation", "test")  # the first of these with labels is the split `valid`
SPLIT_SEED = 2012


@dataclass(frozen=True)
class Split:
    """Pictures with labels: `read(i)` gives the i-th as file path, encoded bytes or PIL image, `name(i)` its name."""

    origin: str  # what it was called where it was found
    labels: np.ndarray  # int64 (n,)
    read: Callable[[int], Source]
    name: Callable[[int], str]
    store: Store | None = None  # the same pictures at one size, where a pack holds them

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray, origin: str) -> Split:
        """Some of the pictures, in the order of `rows`."""
        return Split(origin, self.labels[rows], lambda i: self.read(int(rows[i])), lambda i: self.name(int(rows[i])))


@dataclass(frozen=True)
class Data:
    """What was found: layout in words, class names in the order of their indices, and the splits train and valid."""

    path: str
    layout: str
    classes: list[str]
    splits: dict[str, Split]
    files: Sequence[Path] = ()  # what it was read from
    square: str = ""  # how its pictures became squares (data/pictures.py), where all are squares that were stored
    whole: Split | None = None  # all pictures in one, where they stood so and a part of them was held out

    def split(self, name: str) -> Split:
        """The split of that name (a name of VALID that it lacks is `valid`); `all` is all, one after another."""
        if name == "all":
            return joined(self.splits)
        wanted = "valid" if name in VALID and name not in self.splits else name
        if wanted not in self.splits:
            there = " and ".join(self.splits)
            raise AlexNetError(f"{self.path} has no split '{name}'; it has {there}: name one of those, or other data.")
        return self.splits[wanted]

    def summary(self) -> str:
        """One line for people: layout, classes, and which split was taken from where."""
        parts = [f"{name} {len(s):,} pictures ({s.origin})" for name, s in self.splits.items()]
        return f"{self.path}: {self.layout}, {len(self.classes)} classes, {', '.join(parts)}"


def stratified(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to keep and to hold out: the same for the same labels, at least one of each class in both."""
    generator = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    held = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(len(rows) * share)), len(rows) - 1)
        held.append(generator.permutation(rows)[:count])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def joined(named: Mapping[str, Split]) -> Split:
    """Splits one after another; where there are several, each one's name stands before those of its pictures."""
    names, splits = list(named), list(named.values())
    starts = np.cumsum([0] + [len(split) for split in splits])

    def place(i: int) -> tuple[int, int]:
        number = int(np.searchsorted(starts, i, side="right")) - 1
        return number, i - int(starts[number])

    def read(i: int) -> Source:
        number, row = place(i)
        return splits[number].read(row)

    def name(i: int) -> str:
        number, row = place(i)
        own = splits[number].name(row)
        return f"{names[number]}/{own}" if len(splits) > 1 else own

    labels = np.concatenate([split.labels for split in splits])
    return Split(" and ".join(split.origin for split in splits), labels, read, name)


def difference(names: Sequence[str], classes: Sequence[str]) -> str:
    more, fewer = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    return "; ".join([f"more: {some(more)}"] * bool(more) + [f"missing: {some(fewer)}"] * bool(fewer))


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
