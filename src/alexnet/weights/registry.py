"""What a format of weights says of itself: entries in its module, which are found there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alexnet.base.entries import entries
from alexnet.base.hints import Hints
from alexnet.weights.base import Weights


@dataclass(frozen=True)
class Reader:
    """`read(file, hints)` gives the weights where `recognises(first bytes, file)`; a low `place` is asked first."""

    place: int
    words: str  # what to give, in a list of all
    meaning: str
    recognises: Callable[[bytes, Path], bool]
    read: Callable[[Path, Hints], Weights]
    # Hints that are for some formats alone, by how the origin begins that this reader gives the files they are for.
    hints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Writer:
    """`write(weights, file)` makes a file with that ending, or a folder where it is empty, and gives what it made."""

    place: int
    suffix: str
    meaning: str
    write: Callable[..., list[Path]]
    options: tuple[str, ...] = ()  # keywords of `write` that are switches
    beside: Callable[[Path], Iterable[Path]] = lambda file: ()  # further files that it makes


def readers() -> list[Reader]:
    """All of them, in the order in which they are asked."""
    return entries("alexnet.weights", Reader)


def writers() -> dict[str, Writer]:
    """All of them by the ending that names each."""
    return {one.suffix: one for one in entries("alexnet.weights", Writer)}


def listed() -> str:
    """A line for each format that is read, and for each that is written."""
    lines = [f"reads   {one.words:<30} {one.meaning}" for one in readers()]
    lines += [f"writes  {one.suffix or 'a folder':<30} {one.meaning}" for one in writers().values()]
    return "\n".join(lines)
