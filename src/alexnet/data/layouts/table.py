"""Flat pictures with a table of labels (.csv, .tsv): a picture's file and its class a row, under names of columns.

So competitions and Hugging Face's folders have them: labels.csv beside pictures or a folder of them, train.csv beside
train/, metadata.csv in train/. Class folders are taken before a table beside them, but where it names pictures in
several of the folders and says other classes than these are called.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from alexnet.base.text import counted
from alexnet.data.dataset import Data, Split, arranged, some, split_word
from alexnet.data.faults import Fault, Note, Tell, decoded, refuse
from alexnet.data.layouts import split_column
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.folders import SUFFIXES, split_folders
from alexnet.data.layouts.parquet_columns import ANSWERS, IMAGES, LABELS
from alexnet.data.layouts.walking import files_below, subfolders, visible

ENDINGS = (".csv", ".tsv")
DELIMITERS = ",;\t"
FILES = (*IMAGES, "image_id", "image_name", "img_name", "img_path", "id", "name")
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
    others: dict[str, list[str]]  # columns that may say the split, with each row's value; of labels, without any
    folder: Path
    suffix: str
    places: dict[str, Path] = field(default_factory=dict)  # of names whose pictures are spread over folders

    def picture(self, name: str) -> Path:
        """The file that a row names, with or without the ending."""
        if name in self.places:
            return self.places[name]
        usual = self.folder / (name + self.suffix)
        if not self.suffix or usual.exists():
            return usual
        return next((one for one in map(self.folder.joinpath, _endings(name)) if one.exists()), usual)


def labelled_by_table(root: Path, tell: Tell = refuse) -> Data:
    """Splits are those of a column that says them, else of the tables' names, of their folders or, where these say
    none, of the pictures' paths."""
    found: dict[str, list[tuple[LabelledFiles, str, str]]] = {}
    told, tables = list[Fault](), list[LabelledFiles]()
    for one in _tables(root):
        tables.append(one) if isinstance(one, LabelledFiles) else told.append(one)
    for fault in told:
        tell(Note(fault.file, fault.what, "it is not used") if tables else fault)
    origins: dict[str, str] = {}
    for table in tables:
        _tell_of(table, tell)
        own, stated = _split_of(table.file, root), _stated(table, tell)
        seen: dict[str, tuple[str, str | None]] = {}
        for row, (name, label) in enumerate(table.rows):
            kind = stated[row] if stated else own or _word(name) or "train"
            if (first := seen.setdefault(name, (label, kind))) != (label, kind):
                two = (first[0], label) if first[0] != label else (first[1], kind)
                what = f"has {name} in several rows, as {two[0]} and as {two[1]}"
                tell(Fault(table.file, what, "give one row, one class and one split a picture"))
                break
        for name, (label, kind) in seen.items():
            if kind is not None:
                found.setdefault(kind, []).append((table, name, label))
                origins.setdefault(kind, f", {WORDS[kind]}" if stated else "")
    for kind in ("fold", "several"):
        if rows := found.pop(kind, []):
            what = f"does not say whether to train on its pictures (such as {rows[0][1]})"
            tell(Fault(rows[0][0].file, what, "name tables or folders train, val or test"))
    for kind, rows in found.items():
        if len(names := {table.file: None for table, _, _ in rows}) > 1:
            what = f"has several tables for {kind} ({some([str(one.relative_to(_above(root))) for one in names])})"
            tell(Fault(root, what, "put them together, or take all but one away"))
    classes = sorted({label for rows in found.values() for _, _, label in rows}, key=_number_first)
    place = {name: number for number, name in enumerate(classes)}
    splits = {
        split: _split(found[kind], place, root, origins[kind])
        for split, kind in arranged({kind: kind for kind in WORDS if kind in found}).items()
    }
    return Data(str(root), "pictures with a table of labels", classes, splits, [one.file for one in tables])


WORDS = {"train": "train", "valid": "val", "test": "test"}  # in order, as a column would say them


def _number_first(label: str) -> tuple[int, str]:
    """Numbers are sorted as such, 1 and 01 too."""
    return (int(label) if label.isdecimal() and len(label) < 20 else -1, label)


def _stated(table: LabelledFiles, tell: Tell) -> list[str | None] | None:
    """The split of each row by the first column that says one."""
    found = (split_column.kinds(table.file, name, values, tell) for name, values in table.others.items() if values)
    return next(filter(None, found), None)


def _split(rows: list[tuple[LabelledFiles, str, str]], place: dict[str, int], root: Path, said: str) -> Split:
    numbers = np.array([place[label] for _, _, label in rows], np.int64)
    origin = rows[0][0].file.relative_to(_above(root)).as_posix() + said
    return Split(origin, numbers, lambda i: rows[i][0].picture(rows[i][1]), lambda i: rows[i][1])


def _tell_of(table: LabelledFiles, tell: Tell) -> None:
    """Say what of a table, or beside it, is not used."""
    if others := [name for name, values in table.others.items() if not values]:
        what = f"has other columns of labels beside {table.columns[1]} ({some(others)})"
        tell(Note(table.file, what, "they are not used"))
    if empty := [number for number, row in enumerate(table.rows, 2) if not all(row)]:
        what = f"has {counted(len(empty), 'row')} without a picture or without a class (the first is line {empty[0]})"
        tell(Fault(table.file, what, "fill them in or take them away"))
    if table.places:
        what = "says the classes, as it names pictures in several folders beside it"
        tell(Note(table.file, what, "the folders are not taken for classes"))
    named = {table.picture(name) for name, _ in table.rows}
    beside = {one.parent for one in table.places.values()} or {table.folder}
    loose = [one.name for folder in sorted(beside) for one in visible(folder) if _is_called_picture(one, named)]
    if loose:
        what = f"does not name {counted(len(loose), 'picture')} of {table.folder} ({some(loose)})"
        tell(Note(table.file, what, "they are not used"))


def _is_called_picture(path: Path, but: set[Path]) -> bool:
    return path.suffix.lower() in SUFFIXES and path not in but


def is_labelled_by_table(root: Path) -> bool:
    """Whether this is such a table, or a folder with some and without class folders."""
    return any(isinstance(one, LabelledFiles) for one in _tables(root))


def is_wrongly_labelled(root: Path) -> bool:
    """Whether there is a table of labels that cannot be used, which is asked when little else is left."""
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


def _tables(root: Path, depth: int = DEEPEST) -> Iterator[LabelledFiles | Fault]:
    """The tables of labels of a folder and of its splits' folders, or why one is of no use; none beside class
    folders."""
    if root.is_file():
        if root.suffix.lower() in ENDINGS:
            beside, own, table = subfolders(root.parent), _anywhere(root), _table(root)
            plain = isinstance(table, LabelledFiles) and table.folder == root.parent  # it says each picture's place
            spread = not plain and len(beside) > 1 and not any(split_word(one.name) for one in beside)
            if found := (spread and own and _spread(own, _places(own, beside))) or table:
                yield found
        return
    folders = subfolders(root)
    if not _files(root) and len(folders) == 1 and depth and not _files(folders[0]):
        yield from _tables(folders[0], depth - 1)
        return
    told: list[Fault] = []
    above = split_folders(root, told.append) if folders else None
    parts = list(above.values()) if above else folders if len(folders) < 2 else [root]
    if not told and above is None and len(folders) > 1:
        yield from _beside_folders(root, folders)
    if told or any(len(subfolders(one)) > 1 for one in parts):
        return
    for file in (file for folder in (root, *parts) for file in _files(folder)):
        if LEFT_TO_GUESS not in file.name.lower() and (table := _table(file)):
            yield table


def _beside_folders(root: Path, folders: list[Path]) -> Iterator[LabelledFiles | Fault]:
    """The tables, with columns of usual names, of pictures in several of the folders and of other classes than those
    are called; a fault where either could say the classes."""
    for file in _files(root):
        table = None if LEFT_TO_GUESS in file.name.lower() else _anywhere(file)
        if table is None or _known(list(table.columns)) != (0, 1):
            continue
        places = _places(table, folders)
        if 2 * len(places) < len({*table.rows}) or all(
            any(label in path.relative_to(root).parts for path in places[name])
            for name, label in table.rows
            if name in places
        ):
            continue
        pairs = {(_top(path, root), label) for name, label in table.rows for path in places.get(name, ())}
        said, called = {label for _, label in pairs}, {one.name for one in folders}
        spread = _spread(table, places)
        if len(pairs) == len({folder for folder, _ in pairs}) == len(said):
            continue  # each folder is a class of its own, whatever the table calls it
        if isinstance(spread, LabelledFiles) and (other := sorted(said & called)):
            what = f"says other classes than the folders of its pictures, and some of their names ({some(other)})"
            spread = Fault(file, what, f"give {file} if it is right, or take it away if the folders are")
        if spread:
            yield spread


def _anywhere(file: Path) -> LabelledFiles | None:
    """The table, wherever its pictures are."""
    table = _table(file, lambda file, name: (file.parent, ""))
    return table if isinstance(table, LabelledFiles) else None


def _places(table: LabelledFiles, folders: list[Path]) -> dict[str, list[Path]]:
    """Where in these folders the pictures are that a table names, by a path or without one, with or without ending."""
    wanted = {name: name.removeprefix("./") for name, _ in table.rows}
    found: dict[str, list[Path]] = {name: [] for name in wanted.values()}
    for folder in folders:
        for path in files_below(folder, lambda fault: None):
            if path.suffix.lower() in SUFFIXES:
                below = path.relative_to(table.file.parent)
                for name in {below.name, below.stem, below.as_posix(), below.with_suffix("").as_posix()} & found.keys():
                    found[name].append(path)
    return {name: found[own] for name, own in wanted.items() if found[own]}


def _top(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0]


def _spread(table: LabelledFiles, places: dict[str, list[Path]]) -> LabelledFiles | Fault | None:
    """A table with the places of its pictures, where these are in several folders beside it; a fault where one name is
    that of two."""
    if len({_top(path, table.file.parent) for paths in places.values() for path in paths}) < 2:
        return None
    if twice := next((name for name, paths in places.items() if len(paths) > 1), None):
        what = f"names {twice}, which is in several folders ({some([str(one.parent) for one in places[twice]])})"
        remedy = "write the folder before each name in it, or take the table away if the folders are the classes"
        return Fault(table.file, what, remedy)
    return replace(table, places={name: paths[0] for name, paths in places.items()})


def _files(folder: Path) -> list[Path]:
    return [one for one in visible(folder) if one.suffix.lower() in ENDINGS and one.is_file()]


def _table(
    file: Path, where: Callable[[Path, str], tuple[Path, str] | None] | None = None
) -> LabelledFiles | Fault | None:
    """The table, where it has a column of pictures, of which the first is there, and one of labels; a fault where it
    has their names and is of no use."""
    try:
        contents = file.read_bytes() if file.stat().st_size <= MOST else b""
    except OSError:
        return None
    fault = None
    try:
        text = decoded(contents)
    except ValueError as error:
        text, fault = contents.decode("latin-1"), Fault(file, f"is no text in UTF-8 ({error})", "save it as UTF-8")
    text = text if "\n" in text else text.replace("\r", "\n")  # as spreadsheets of old Macs end lines
    try:
        lines = csv.reader(io.StringIO(text), delimiter=_delimiter(text), skipinitialspace=True)
        head, *rows = [[one.strip() for one in line] for line in lines if line]
    except (ValueError, csv.Error):
        return fault if fault and _known([one.strip() for one in text.partition("\n")[0].split(",")]) else None
    if set(head) >= ANSWERS:
        return Fault(file, "holds a network's answers (rank, probability) and no labels", "take it out of DATA")
    rows = [row + [""] * (len(head) - len(row)) for row in rows]
    known = _known(head)
    name, label = known or _guessed(file, head, rows) or (None, None)
    if name is None or label is None:
        return None
    pairs = [(row[name].replace("\\", "/"), row[label]) for row in rows]
    if not pairs or fault or (found := (where or _where)(file, pairs[0][0])) is None:
        missing = f"has the columns {head[name]} and {head[label]}, and its first picture"
        missing += f" ({pairs[0][0]}) is not there" if pairs else "s are not there"
        return (fault or Fault(file, missing, "put the pictures beside it or into a folder there")) if known else None
    others: dict[str, list[str]] = {one: [] for one in head if one.lower() in LABELS}
    others |= {one: [row[head.index(one)] for row in rows] for one in split_column.split_columns(head)}
    others = {one: values for one, values in others.items() if one not in (head[name], head[label])}
    return LabelledFiles(file, pairs, (head[name], head[label]), others, *found)


def _known(head: list[str]) -> tuple[int, int] | None:
    """The columns of pictures and of labels by their names."""
    lower = [one.lower() for one in head]
    name = next((lower.index(known) for known in FILES if known in lower), None)
    label = next((lower.index(known) for known in LABELS if known in lower and lower.index(known) != name), None)
    return None if name is None or label is None else (name, label)


def _guessed(file: Path, head: list[str], rows: list[list[str]]) -> tuple[int, int] | None:
    """Of two columns, of which one names pictures, the other as that of labels, where its values can be classes."""
    lower = [one.lower() for one in head]
    if len(head) != 2 or (lower[0] in FILES) == (lower[1] in FILES) or split_word(file.stem) == "test":
        return None
    label = int(lower[0] in FILES)
    values = {row[label] for row in rows}
    if all(value.isdecimal() and len(value) < 20 for value in values):  # and not a width, an age or a price
        numbers = {int(value) for value in values}
        fits = len(numbers) > 1 and min(numbers) < 2 and max(numbers) - min(numbers) < len(numbers)
    else:  # and not a caption or a checksum
        fits = len(values) < len(rows) and not all(map(_is_fraction, values))
    return (1 - label, label) if fits else None


def _is_fraction(value: str) -> bool:
    try:
        return bool(float(value)) or True
    except ValueError:
        return False


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


LAYOUTS = (
    Layout(
        80, "flat pictures with a table of labels (.csv with columns filename and label)", is_labelled_by_table,
        labelled_by_table,
    ),
    Layout(88, "", is_wrongly_labelled, labelled_by_table),
)  # fmt: skip
