"""What is in a folder and below it, without what systems and programs put there."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from itertools import islice
from pathlib import Path

from alexnet.data.faults import Fault, Note, Tell, refuse

LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def visible(folder: Path) -> Iterator[Path]:
    """What is in a folder, sorted, without hidden files and litter; nothing where it cannot be listed."""
    return (folder / entry.name for entry in entries_of(folder))


def subfolders(root: Path, tell: Tell | None = None) -> list[Path]:
    """The visible folders in a folder, sorted; where it cannot be listed there are none, and `tell` hears of it."""
    return [root / entry.name for entry in entries_of(root, tell) if is_folder(entry)]


def entries_of(folder: Path, tell: Tell | None = None) -> list[os.DirEntry]:
    """What is visible in a folder, as the system lists it, sorted; `tell` hears where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            there = [one for one in found if not one.name.startswith(".") and one.name not in LITTER]
    except OSError as error:
        if tell:
            what = f"cannot be listed ({error.strerror})"
            tell(Fault(folder, what, "see to its permissions, or take it away"))
        return []
    return sorted(there, key=lambda one: one.name)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def glance(folder: Path, count: int) -> list[Path]:
    """A few of the visible entries of a folder, sorted: how many there are does not matter."""
    try:
        with os.scandir(folder) as found:
            return sorted(folder / one.name for one in islice(found, count) if not one.name.startswith("."))
    except OSError:
        return []


class Walk:
    """Every visible file below folders, in order; each real folder is entered once, whatever links lead to it."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.entered: dict[Hashable, Path] = {}

    def enter(self, folder: Path) -> Path:
        """Enter a folder; under which name it was entered first."""
        return self.entered.setdefault(self.key(folder), folder)

    @staticmethod
    def key(folder: str | Path) -> Hashable:
        """What a real folder is known by, whatever links lead to it."""
        try:
            facts = os.stat(folder)
        except OSError:  # its listing will say why
            return str(folder)
        return facts.st_dev, facts.st_ino

    def below(self, folder: Path) -> Iterator[Path]:
        """The files of a folder that is entered, then of those in it; only one folder's names are held."""
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            folders = []
            for entry in entries_of(here, self.tell):
                if is_folder(entry):
                    folders.append(entry)
                elif _is_special(entry):
                    self.tell(Note(here / entry.name, "is a device or a pipe", "it is not read"))
                else:
                    yield here / entry.name
            # Links last: a folder is known by its own name.
            new = [one for one in sorted(folders, key=os.DirEntry.is_symlink) if self._is_new(here / one.name)]
            waiting += sorted((here / one.name for one in new), reverse=True)

    def _is_new(self, folder: Path) -> bool:
        first = self.enter(folder)
        if first != folder:
            self.tell(already_read(folder, first))
        return first == folder


def already_read(folder: Path, first: Path) -> Note:
    """What is said of a link to a folder that was entered."""
    return Note(folder, f"leads to {first}, which is read already", "it is not followed")


def _is_special(entry: os.DirEntry) -> bool:
    try:
        return not entry.is_file() and not entry.is_symlink()
    except OSError:
        return False


def files_below(folder: Path, tell: Tell = refuse) -> list[Path]:
    """Every visible file below a folder, in order; links are followed, and no real folder is entered twice."""
    walk = Walk(tell)
    walk.enter(folder)
    return list(walk.below(folder))
