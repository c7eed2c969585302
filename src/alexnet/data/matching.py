"""The files that a name stands for: those below a folder, and those that a pattern finds, each once."""

from __future__ import annotations

import glob
import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

from alexnet.data.faults import Tell
from alexnet.data.layouts.walking import Walk, already_read


def found_by(argument: str | os.PathLike[str]) -> list[str] | None:
    """The folder that is named, or what a pattern finds; None where this is neither, or finds nothing."""
    if os.path.isdir(argument):
        return [os.fspath(argument)]
    pattern = glob.has_magic(str(argument)) and not os.path.exists(argument)
    return (sorted(glob.glob(str(argument), recursive=True)) if pattern else []) or None


def files_of(found: Sequence[str], tell: Tell) -> Iterator[str | Path]:
    """These files and those below these folders, each once: a pattern finds what lies in a folder beside the folder,
    and again below each link to it."""
    inside, seen = Walk(tell), set[tuple[Hashable, str]]()

    def place(path: str | Path) -> tuple[Hashable, str]:
        above, name = os.path.split(path)
        return inside.key(above or "."), name

    for one in found:
        here = place(one)
        if here in seen or here[0] in inside.entered:
            continue
        seen.add(here)
        if not os.path.isdir(one):
            yield one
        elif (first := inside.enter(Path(one))) != Path(one):
            tell(already_read(Path(one), first))
        elif len(found) == 1:
            yield from inside.below(Path(one))
        else:
            yield from (path for path in inside.below(Path(one)) if place(path) not in seen)
