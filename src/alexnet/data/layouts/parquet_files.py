"""Which parquet files DATA is: in a folder or below it, and never one that only lies beside folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet.data.dataset import some, split_word
from alexnet.data.faults import Fault, Note, Tell, refuse
from alexnet.data.layouts.folders import has_class_folders
from alexnet.data.layouts.parquet_columns import ANSWERS, label_column, own_pictures
from alexnet.data.layouts.parquet_rows import opened
from alexnet.data.layouts.walking import glance, subfolders, visible
from alexnet.data.pictures import Unreadable

DEEPEST = 3  # folders below DATA in which parquet files are looked for
LOOKED_AT = 16  # entries of a folder that tell whether it holds parquet files


def is_parquet(root: Path) -> bool:
    """Whether this is a parquet file, or a folder of some with pictures and labels of their own."""
    if root.is_file():
        return root.suffix.lower() == ".parquet"
    files = _found(root, lambda fault: None)
    if files and has_class_folders(root):
        files = [file for file in files if all(map(_is_of_a_set, file.relative_to(root).parts[:-1]))]
    return any(_is_whole(file) for file in files[:LOOKED_AT])


def are_parquet(root: Path) -> bool:
    """Whether this is a folder of any parquet files without class folders, which is asked when little else is left."""
    told: list[Fault] = []
    return root.is_dir() and bool(_found(root, told.append) or told) and not has_class_folders(root)


def parquet_files(root: Path, tell: Tell = refuse) -> list[Path]:
    """The file, those in a folder, or those in the folders below it that are there for splits or alone."""
    if root.is_file():
        return [root]
    found = _found(root, tell)
    answers = [file for file in found if split_word(file.stem) is None and is_answers(schema_of(file))]
    if found and len(answers) < len(found):
        for file in answers:
            tell(Note(file, "holds a network's answers", "it is not used"))
            found.remove(file)
    if found and has_class_folders(root):
        tell(Note(root, "has class folders beside its parquet files", "they are not used"))
    return found


def schema_of(file: Path) -> Any:
    """A file's columns, None where they cannot be read."""
    try:
        return opened(file).schema_arrow
    except Unreadable:
        return None


def is_answers(schema: Any) -> bool:
    """Whether these are the columns of what alexnet predict writes."""
    return schema is not None and set(schema.names) >= ANSWERS


def _is_whole(file: Path) -> bool:
    schema = schema_of(file)
    return schema is not None and bool(own := own_pictures(schema)) and label_column(schema, own[0]) is not None


def _is_of_a_set(folder: str) -> bool:
    return folder == "data" or split_word(folder) is not None


def _found(root: Path, tell: Tell) -> list[Path]:
    return _below(root, tell, DEEPEST) if root.is_dir() else []


def _below(folder: Path, tell: Tell, depth: int) -> list[Path]:
    if found := [one for one in visible(folder) if one.suffix.lower() == ".parquet" and one.is_file()]:
        return found
    inner = [one for one in subfolders(folder) if _holds(one, depth - 1)] if depth else []
    if (folder / "data") in inner:
        inner = [folder / "data"]
    if len(inner) > 1 and not all(split_word(one.name) for one in inner):
        what = f"has several sets of parquet files ({some([one.name for one in inner])})"
        tell(Fault(folder, what, f"give one of them, {inner[0]}"))
        return []
    return [file for one in inner for file in _below(one, tell, depth - 1)]


def _holds(folder: Path, depth: int) -> bool:
    """Whether a folder's first entries are parquet files, or its first folders hold some."""
    entries = glance(folder, LOOKED_AT)
    if any(one.suffix.lower() == ".parquet" for one in entries):
        return True
    return depth > 0 and any(_holds(one, depth - 1) for one in entries if one.is_dir())
