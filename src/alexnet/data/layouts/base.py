"""What a layout of DATA says of itself: an entry in its module, which is found there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alexnet.base.entries import entries
from alexnet.data.dataset import Data


@dataclass(frozen=True)
class Layout:
    """`read(root, tell)` gives the data where `recognises(root)` says so; layouts of a low `place` are asked first."""

    place: int
    words: str  # what to give, in a list of all; empty where another layout's words say it
    recognises: Callable[[Path], bool]
    read: Callable[..., Data]
    shows: bool = False  # it takes long and shows progress: read(root, tell, quiet)
    is_name: Callable[[str], bool] = lambda name: False  # of what is no path: a word or an address, which is read then


def layouts() -> list[Layout]:
    """All of them, in the order in which they are asked."""
    return entries("alexnet.data.layouts", Layout)


def expected() -> str:
    """What DATA may be, in words: the usual first, which is asked last."""
    *others, last = [one.words for one in reversed(layouts()) if one.words]
    return f"{', '.join(others)}, or {last}"
