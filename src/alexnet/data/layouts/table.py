"""Flat pictures with a table of labels (.csv, .tsv): a picture's file and its class a row, under names of columns.

So competitions and Hugging Face's folders have them: labels.csv beside pictures or a folder of them, train.csv beside
train/, metadata.csv in train/. Class folders are taken before a table beside them.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.base.text import counted
from alexnet.data.dataset import Data, Split, arranged, some, split_word
from alexnet.data.faults import Fault, Note, Tell, decoded, refuse
from alexnet.data.layouts import parquet
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.folders import SUFFIXES, split_folders, subfolders, visible

ENDINGS = (".csv", ".tsv")
DELIMITERS = ",;\t"
FILES = (*parquet.IMAGES, "image_id", "image_name", "img_name", "img_path", "id", "name")
MOST = 1 << 30  # bytes of a table: some thirty million rows
DEEPEST = 3  # folders, each alone in the one above it, that are looked through for a table
LEFT_TO_GUESS = "submission"  # in the name of a table whose labels are made up, as competitions give one to fill in


@dataclass(frozen=True)
class LabelledFiles:
    """A file with its columns of pictures and labels, the folder that the pictures are in, and what ends their names
    there."""

    file: Path
    rows: list[tuple[str, str]]  # a picture's name and its class
    columns: tuple[str, str]
    folder: Path
    suffix: str

    def picture(self, name: str) -> Path:
        """The file that a row names, with or without the ending."""
        usual = self.folder / (name + self.suffix)
        if not self.suffix or usual.exists():
            return usual
        return next((one for one in map(self.folder.joinpath, _endings(name)) if one.exists()), usual)


def labelled_by_table(root: Path, tell: Tell = refuse) -> Data:
    """Splits are those of the tables' names, of their folders or, where these say none, of the pictures' paths."""
    found: dict[str, list[tuple[LabelledFiles, str, str]]] = {}
    tables = list(_tables(root))
    for table in tables:
        _tell_of(table, tell)
        own = _split_of(table.file, root)
        classes: dict[str, str] = {}
        for name, label in table.rows:
            if classes.setdefault(name, label) != label:
                what = f"has {name} in several rows, as {classes[name]} and as {label}"
                tell(Fault(table.file, what, "give one row and one class a picture"))
                break
        for name, label in classes.items():
            found.setdefault(own or _word(name) or "train", []).append((table, name, label))
    for kind in ("fold", "several"):
        if rows := found.pop(kind, []):
            what = f"does not say whether to train on its pictures (such as {rows[0][1]})"
            tell(Fault(rows[0][0].file, what, "name tables or folders train, val or test"))
    for kind, rows in found.items():
        if len(names := {table.file: None for table, _, _ in rows}) > 1:
            what = f"has several tables for {kind} ({some([str(one.relative_to(_above(root))) for one in names])})"
            tell(Fault(root, what, "put them together, or take all but one away"))
    labels = {label for rows in found.values() for _, _, label in rows}
    classes_found = sorted(labels, key=lambda one: (int(one), "") if one.isdecimal() else (-1, one))
    place = {name: number for number, name in enumerate(classes_found)}
    splits = {
        kind: _split(rows, place, root) for kind, rows in arranged({k: found[k] for k in ORDER if k in found}).items()
    }
    return Data(str(root), "pictures with a table of labels", classes_found, splits, [one.file for one in tables])


ORDER = ("train", "valid", "test")


def _split(rows: list[tuple[LabelledFiles, str, str]], place: dict[str, int], root: Path) -> Split:
    numbers = np.array([place[label] for _, _, label in rows], np.int64)
    origin = rows[0][0].file.relative_to(_above(root)).as_posix()
    return Split(origin, numbers, lambda i: rows[i][0].picture(rows[i][1]), lambda i: rows[i][1])


def _tell_of(table: LabelledFiles, tell: Tell) -> None:
    """Say what of a table, or beside it, is not used."""
    name, label = table.columns
    others = [one for one in _header(table.file) if one.lower() in parquet.LABELS and one not in (name, label)]
    if others:
        what = f"has other columns of labels beside {label} ({some(others)})"
        tell(Note(table.file, what, "they are not used"))
    if empty := [number for number, row in enumerate(table.rows, 2) if not all(row)]:
        what = f"has {counted(len(empty), 'row')} without a picture or without a class (the first is line {empty[0]})"
        tell(Fault(table.file, what, "fill them in or take them away"))
    named = {table.picture(name).name for name, _ in table.rows}
    loose = [one.name for one in visible(table.folder) if one.suffix.lower() in SUFFIXES and one.name not in named]
    if loose:
        what = f"does not name {counted(len(loose), 'picture')} of {table.folder} ({some(loose)})"
        tell(Note(table.file, what, "they are not used"))


def is_labelled_by_table(root: Path) -> bool:
    """Whether this is such a table, or a folder with some and without class folders."""
    return next(_tables(root), None) is not None


def _above(root: Path) -> Path:
    return root.parent if root.is_file() else root


def _split_of(file: Path, root: Path) -> str | None:
    """The split that a table's name says, else the folders between it and DATA."""
    parts = file.relative_to(_above(root)).with_suffix("").parts
    return next((word for part in reversed(parts) if (word := split_word(part))), None)


def _word(name: str) -> str | None:
    """The split that the folders in a picture's path say."""
    return next((word for part in reversed(name.split("/")[:-1]) if (word := split_word(part))), None)


# -- finding ------------------------------------------------------------------------------------------------------


def _tables(root: Path, depth: int = DEEPEST) -> Iterator[LabelledFiles]:
    """The tables of a folder and of its splits' folders whose first picture is found; none beside class folders."""
    if root.is_file():
        if root.suffix.lower() in ENDINGS and (table := _table(root)):
            yield table
        return
    folders = subfolders(root)
    if not _files(root) and len(folders) == 1 and depth and not _files(folders[0]):
        yield from _tables(folders[0], depth - 1)
        return
    told: list[Fault] = []
    above = split_folders(root, told.append) if folders else None
    parts = list(above.values()) if above else folders if len(folders) < 2 else [root]
    if told or any(len(subfolders(one)) > 1 for one in parts):
        return
    for file in (file for folder in (root, *parts) for file in _files(folder)):
        if LEFT_TO_GUESS not in file.name.lower() and (table := _table(file)):
            yield table


def _files(folder: Path) -> list[Path]:
    return [one for one in visible(folder) if one.suffix.lower() in ENDINGS and one.is_file()]


def _table(file: Path) -> LabelledFiles | None:
    """The table, where it has a column of pictures, of which the first is there, and one of labels."""
    try:
        if file.stat().st_size > MOST:
            return None
        text = decoded(file.read_bytes())
        head = _header(file)
        named = [one for known in FILES for one in head if one.lower() == known]
        known = [one for known in parquet.LABELS for one in head if one.lower() == known and one not in named[:1]]
        if not named or not (known or len(head) == 2):
            return None
        name, label = named[0], known[0] if known else next(one for one in head if one != named[0])
        lines = csv.DictReader(io.StringIO(text), delimiter=_delimiter(text))
        rows = [((row[name] or "").strip().replace("\\", "/"), (row[label] or "").strip()) for row in lines]
    except (OSError, ValueError, csv.Error, StopIteration):
        return None
    if not rows or (where := _where(file, rows[0][0])) is None:
        return None
    return LabelledFiles(file, rows, (name, label), *where)


def _header(file: Path) -> list[str]:
    with open(file, "rb") as opened:
        text = decoded(opened.readline(1 << 16))
    return [one.strip() for one in next(csv.reader([text], delimiter=_delimiter(text)), [])]


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(DELIMITERS, key=first.count)


def _where(file: Path, name: str) -> tuple[Path, str] | None:
    """The folder of a table's pictures and what ends their names: beside it, or in a folder that is of no other split
    than the table's."""
    if not name or "\0" in name:
        return None
    own = split_word(file.stem) or "train"
    beside = [one for one in subfolders(file.parent) if split_word(one.name) in (None, own)]
    for folder in (file.parent, *sorted(beside, key=lambda one: split_word(one.name) is None)):
        for ending in ("", *(one.removeprefix(name) for one in _endings(name))):
            if os.path.isfile(folder / (name + ending)):
                return folder, ending
    return None


def _endings(name: str) -> Iterator[str]:
    """A name that has no ending with each that a picture's may have."""
    if os.path.splitext(name)[1].lower() not in SUFFIXES:
        for ending in sorted(SUFFIXES):
            yield name + ending
            yield name + ending.upper()


LAYOUT = Layout(
    80, "flat pictures with a table of labels (.csv with columns filename and label)", is_labelled_by_table,
    labelled_by_table,
)  # fmt: skip
