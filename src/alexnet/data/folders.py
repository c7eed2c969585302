"""Pictures as files in folders: a folder a class, with or without train/ and val/ above them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet.data.faults import Fault, Tell, refuse
from alexnet.data.pictures import Unreadable, decode
from alexnet.data.split import VALID, Data, Split, difference, some

LITTER = {"Thumbs.db", "desktop.ini"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def class_folders(root: Path, tell: Tell = refuse) -> Data:
    """root/CLASS/* or root/{train,val}/CLASS/*: classes are the folders' names, sorted."""
    if flat := [name for name in VALID[:-1] if _holds_files_only(root / name) and subfolders(root / "train")]:
        what = "has pictures but no class folders, so nothing says what they show"
        tell(Fault(root / flat[0], what, "sort them into folders as in train/"))
    if not _split_folders(root):
        classes, split = folder_split(root, "whole folder", tell=tell)
        return Data(str(root), "class folders", classes, {"train": split})
    found = {folder: folder_split(root / folder, f"{folder}/", tell=tell) for folder in _split_folders(root)}
    first, *others = found
    for other in others:
        if found[other][0] != found[first][0] and found[other][0] and found[first][0]:
            what = f"has other classes in {other}/ than in {first}/ ({difference(found[other][0], found[first][0])})"
            tell(Fault(root, what, "make the class folders of both the same"))
    classes = sorted({name for names, _ in found.values() for name in names})
    splits = {}
    for folder, (names, split) in found.items():
        places = np.searchsorted(classes, names).astype(np.int64)
        splits["train" if folder == "train" else "valid"] = replace(split, labels=places[split.labels])
    return Data(str(root), "class folders", classes, splits)


def _holds_files_only(folder: Path) -> bool:
    return folder.is_dir() and not subfolders(folder) and any(True for _ in visible(folder))


def visible(folder: Path) -> Iterator[Path]:
    """What is in a folder, sorted, without hidden files and litter."""
    return (p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.name not in LITTER)


def subfolders(root: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    return [p for p in visible(root) if p.is_dir()]


def _split_folders(root: Path) -> list[str]:
    """`train` and the first folder of VALID that has class folders; none where `train` is itself a class."""
    there = {p.name for p in subfolders(root)}
    if there - {"train", *VALID} and not ("train" in there and subfolders(root / "train")):
        return []
    valid = next((name for name in VALID if name in there and subfolders(root / name)), None)
    return [name for name in ("train", valid) if name in there]


def walk(folder: Path) -> Iterator[Path]:
    """Every visible file below a folder, in order, links followed; only one directory's names are held."""
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(files) if not name.startswith(".") and name not in LITTER)


def files_below(folder: Path) -> list[Path]:
    """`walk` as a list."""
    return list(walk(folder))


def folder_split(
    root: Path, origin: str, suffixes: Collection[str] = (), tell: Tell = refuse
) -> tuple[list[str], Split]:
    """Class names and pictures of a folder of class folders; with `suffixes`, of files of those kinds only."""
    folders = subfolders(root)
    if not folders:
        tell(Fault(root, "has no class folders", "give folders of pictures, one a class"))
    paths: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, folder in enumerate(folders):
        found = [p for p in files_below(folder) if not suffixes or p.suffix.lower() in suffixes]
        if not _any_picture(found):
            empty.append(folder.name)
        paths += found
        labels += [label] * len(found)
    if empty:
        what = f"has class folders without a picture ({some(empty)})"
        tell(Fault(root, what, "put pictures there or remove them"))
    split = Split(origin, np.array(labels, np.int64), lambda i: paths[i], lambda i: str(paths[i].relative_to(root)))
    return [folder.name for folder in folders], split


def _any_picture(paths: Sequence[Path]) -> bool:
    """Whether one at least has a picture's suffix, or failing that is one (whatever it is called)."""
    if any(p.suffix.lower() in SUFFIXES for p in paths):
        return True
    for path in paths:
        try:
            decode(path)
        except Unreadable:
            continue
        return True
    return False
