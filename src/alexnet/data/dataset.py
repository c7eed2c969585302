"""What every layout gives: labelled pictures that are read one by one, in splits with class names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data.faults import Fault, Note, Tell
from alexnet.data.pictures import Source
from alexnet.data.statistics import Known

SPLIT_SEED = 2012
T = TypeVar("T")
# What a file or folder is called whose pictures are of a split, in any case, alone or beside other words and numbers.
WORDS = {
    "train": "train|training|trainval|trn",
    "valid": "val|valid|validation|validate|validating|dev|devel|development",
    "test": "test|tests|testing|tst|eval|evals|evaluate|evaluation|evaluating|holdout|heldout",
    "fold": "fold|folds|kfold",
}
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # between the words of TrainSet and DATASet
_AFFIX = "set|sets|data|dataset|image|images|img|imgs|pic|pics|picture|pictures|photo|photos|split|samples|folder|part"
_WORD = {kind: re.compile(rf"(?:{_AFFIX})?(?:{words})(?:{_AFFIX})?") for kind, words in WORDS.items()}


def split_word(name: str) -> str | None:
    """The split that the words of a name say: train, valid, test, fold (one of several parts), None where none does.

    Two splits in one name are `several`, but for `train_val`, which is both to train on, and folds of a split.
    """
    found = [kind for kind, _ in _words(name)]
    if "fold" in found:
        return "fold"
    if found[:2] == ["train", "valid"] and len(set(found)) == 2:
        return "train"
    return None if not found else found[0] if len(set(found)) == 1 else "several"


def called(path: str) -> str:
    """The word of a path that says its split; train where none does."""
    return next((word for part in reversed(path.split("/")) for _, word in _words(part)), "train")


def _words(name: str) -> Iterator[tuple[str, str]]:
    """The words of a name that say a split, with the split."""
    for piece in filter(None, re.split(r"[\W\d_]+", re.sub(r"(?i)(hold|held)[-_. ]out", r"\1out", name))):
        for word in [piece] if _kind(piece) else CAMEL.split(piece):
            if kind := _kind(word):
                yield kind, word


def _kind(word: str) -> str | None:
    return next((kind for kind, pattern in _WORD.items() if pattern.fullmatch(word.lower())), None)


def by_split(files: Mapping[T, str], root: object, tell: Tell) -> dict[str, list[T]]:
    """Files by the splits train, valid and test that their names say, or else those of the folders above them.

    `files` holds the part of each one's path that is looked at. Where no name says a split, all are to train on.
    """
    found: dict[str, list[T]] = {}
    for file, path in files.items():
        words = [word for part in reversed(path.split("/")) if (word := split_word(part))]
        found.setdefault("fold" if "fold" in words else words[0] if words else "", []).append(file)
    odd = found.pop("several", []) + (found.pop("fold", []) if len(files) > 1 else [])
    if odd:
        what = f"has files of which nothing says whether to train on them ({some([files[one] for one in odd])})"
        tell(Fault(root, what, "name those to train on train and those to hold out val, or give one of them"))
    rest = found.pop("", []) + found.pop("fold", [])
    if rest and "train" in found:
        what = f"has files beside those of its splits ({some([files[one] for one in rest])})"
        tell(Note(root, what, "they are not used, as their names say no split"))
    elif rest:
        found["train"] = rest
    return {kind: found[kind] for kind in ("train", "valid", "test") if kind in found}


def arranged(found: dict[str, T]) -> dict[str, T]:
    """What was found of train, valid and test, by the split that it becomes: test is `valid` where no other is."""
    last = "test" if "valid" in found else "valid"
    names = {"train": "train", "valid": "valid", "test": last}
    return {names[kind]: found[kind] for kind in names if kind in found}


class Store(Protocol):
    """Pictures of a split that stand decoded, or all but, at one size; a pack's (packs/reading.py)."""

    root: Path
    side: int  # pixels
    encoding: str  # raw or jpeg
    known: Known
    square: str  # how the pictures became squares

    @property
    def decoded_bytes(self) -> int:
        """What the pictures take when they are decoded."""

    def fill(self, indices: np.ndarray, out: np.ndarray, target: np.ndarray) -> None:
        """Put those pictures into those rows of `out`, uint8 (n, S, S, 3)."""

    def ahead(self, indices: np.ndarray) -> None:
        """Tell the system that pictures will be wanted soon."""


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
    """What was found: layout in words, class names in the order of their indices, and the splits train, valid, test.

    Test pictures are the split `valid` where nothing else is.
    """

    path: str
    layout: str
    classes: list[str]
    splits: dict[str, Split]
    files: Sequence[Path] = ()  # what it was read from
    square: str = ""  # how its pictures became squares (data/pictures.py), where all are squares that were stored
    whole: Split | None = None  # all pictures in one, where they stood so and a part of them was held out
    named: bool = True  # False: the classes are numbers that the labels are, or ImageNet's names for 1,000 of them
    notes: Sequence[str] = ()  # what is odd, a line each

    def split(self, name: str) -> Split:
        """A split by any word that means it; `all` is every split, one after another."""
        if name == "all":
            return joined(self.splits)
        wanted = split_word(name) or name
        if wanted == "test" and "test" not in self.splits and self._tests():
            wanted = "valid"
        if wanted not in self.splits:
            there = " and ".join(self.splits)
            raise AlexNetError(f"{self.path} has no split '{name}'; it has {there}: name one of those, or other data.")
        return self.splits[wanted]

    def names(self, labels: set[int]) -> str:
        """Some of those classes' names."""
        return some([self.classes[label] for label in sorted(labels)])

    def _tests(self) -> bool:
        """Whether the split `valid` has test pictures, or others that no name calls validation pictures."""
        return "valid" in self.splits and split_word(self.splits["valid"].origin) != "valid"

    def keep_apart(self, option: str, folder: Path) -> None:
        """Refuse a new folder among class folders, where the next command would take it for a class."""
        among = self.layout == "class folders" and self.whole is not None
        if among and folder.resolve().is_relative_to(Path(self.path).resolve()):
            raise AlexNetError(
                f"{option} {folder} lies in DATA {self.path}, where it would be taken for a class; give a folder "
                "elsewhere."
            )

    def summary(self) -> str:
        """For people: a line of layout, classes, and which split was taken from where; then one for each odd thing."""
        parts = [f"{name} {counted(len(s), 'picture')} ({s.origin})" for name, s in self.splits.items()]
        line = f"{self.path}: {self.layout}, {counted(len(self.classes), 'class')}, {', '.join(parts)}"
        return "\n".join([line, *(f"  {note}" for note in self.notes)])


def lacking(data: Data) -> list[str]:
    """A line for each split that lacks classes, which is no reason to stop."""
    everything = set(range(len(data.classes)))
    seen = {name: set(np.unique(split.labels).tolist()) for name, split in data.splits.items()}
    notes = []
    for name in seen:
        if missing := seen.get("train", everything) - seen[name]:
            notes.append(f"{name} has no picture of {len(missing):,} of {counted(len(data.classes), 'class')}")
            notes[-1] += f" ({data.names(missing)}); errors on it say nothing of these"
    if "train" in seen and (unseen := everything - set.union(*seen.values())):
        notes.append(f"no split has a picture of {counted(len(unseen), 'class')} ({data.names(unseen)})")
    return notes


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


def class_difference(names: Sequence[str], classes: Sequence[str]) -> str:
    more, fewer = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    return "; ".join([f"more: {some(more)}"] * bool(more) + [f"missing: {some(fewer)}"] * bool(fewer))


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
