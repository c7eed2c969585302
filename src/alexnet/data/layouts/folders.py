"""Pictures as files in folders: a folder a class, with or without train/ and val/ above them."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from alexnet.base.text import counted
from alexnet.data.dataset import Data, Split, arranged, class_difference, some, split_word
from alexnet.data.faults import Fault, Note, Tell, refuse
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.walking import Walk, entries_of, glance, is_folder, subfolders, visible

# What is called so claims to be a picture, whether or not it can be read here.
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
    ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".exr", ".hdr",
}  # fmt: skip
PLAIN = {"images", "image", "imgs", "img", "pictures", "photos", "data", "dataset", "jpg", "jpeg", "png"}
DEEPEST = 8  # folders, each alone in the one above it, that are looked through for train/ and val/
TABLES = {".csv", ".tsv", ".parquet", ".tar"}  # what may say classes too, and is not asked beside class folders
LOOKED_AT = 200  # entries of a folder that tell what it holds
FEW = 4  # of those that are folders, which are looked into
# What people hold that is not read, by the end of its name, and the way to what is.
FOREIGN = {
    (".zip", ".rar", ".7z", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz"): "unpack it, then give the folder",
    (".arrow",): "load it with Hugging Face's datasets and write parquet: set.to_parquet('train.parquet')",
    (".tfrecord", ".tfrecords", ".mdb", ".lmdb", ".rec", ".npz", ".npy", ".mat", ".h5", ".hdf5", ".beton"): (
        "write its pictures into a folder a class"
    ),
    (".csv", ".tsv"): "call its columns filename and label, or sort the pictures into a folder a class",
    (".jsonl", ".xlsx"): "save it as .csv with the columns filename and label",
}


def class_folders(root: Path, tell: Tell = refuse) -> Data:
    """root/CLASS/* or root/{train,val,test}/CLASS/*: classes are the folders' names, sorted."""
    walk, above = Walk(tell), split_folders(root, tell)
    if above is None:
        classes, split = folder_split(root, "whole folder", tell=tell, walk=walk)
        if len(classes) == 1 and (inner := subfolders(root / classes[0])):
            what = f"has one class, {classes[0]}, whose folder holds folders ({some([one.name for one in inner])})"
            tell(Fault(root, what, f"if those are the classes give {root / classes[0]}, as one is not enough"))
        return Data(str(root), "class folders", classes, {"train": split})
    flat = [kind for kind, folder in above.items() if _is_flat(folder, above.get("train"))]
    for kind in flat if len(flat) < len(above) else ():
        folder = above[kind]
        if not any(True for _ in visible(folder)):
            tell(Note(above.pop(kind), "is empty", "it is not used"))
        elif kind == "valid":
            what = "has pictures but no class folders, so nothing says what they show"
            tell(Fault(above.pop(kind), what, "sort them into folders as in train/, or take it away"))
        elif kind == "test":
            tell(Note(above.pop(kind), "has no class folders, so nothing says what it shows", "it is not used"))
    tell_of_tables(root, tell)
    found = _filled(root, above, tell, walk)
    if not found:
        return Data(str(root), "class folders", [], {})
    first = next(iter(found))
    for kind in list(found)[1:]:
        names, one, other = found[kind][0], above[first].relative_to(root), above[kind].relative_to(root)
        seen = [names[label] for label in np.unique(found[kind][1].labels)]  # what a script has emptied is no class
        if found[first][0] and set(seen) - set(found[first][0]):
            what = f"has other classes in {other}/ than in {one}/ ({class_difference(names, found[first][0])})"
            tell(Fault(root, what, "make the class folders of both the same"))
        elif found[first][0] and (empty := sorted({*names} - {*found[first][0]})):
            tell(Note(root / other, f"has empty folders of no class in {one}/ ({some(empty)})", "they are not used"))
            known = np.searchsorted(seen, names).astype(np.int64)
            found[kind] = seen, replace(found[kind][1], labels=known[found[kind][1].labels])
    classes = sorted({name for names, _ in found.values() for name in names})
    splits = {}
    for kind, (names, split) in arranged(found).items():
        places = np.searchsorted(classes, names).astype(np.int64)
        splits[kind] = replace(split, labels=places[split.labels])
    return Data(str(root), "class folders", classes, splits)


def _filled(root: Path, above: dict[str, Path], tell: Tell, walk: Walk) -> dict[str, tuple[list[str], Split]]:
    """The class names and pictures of each split; what is held out and has none at all is not used."""
    found = {}
    for kind, folder in above.items():
        origin = f"{folder.relative_to(root).as_posix()}/"
        names, split = folder_split(folder, origin, tell=tell, walk=walk, lacking=kind != "train")
        if names and not len(split) and kind != "train" and "train" in above:
            tell(Note(folder, "has no pictures in its class folders", "it is not used"))
        else:
            found[kind] = names, split
    return found


def _is_flat(folder: Path, train: Path | None) -> bool:
    """Whether a split's pictures lie in one folder: its own, or one in it that is called images and is no class."""
    inner = subfolders(folder)
    lone = inner[0] if len(inner) == 1 and inner[0].name.lower() in PLAIN else None
    return not inner or (lone is not None and not subfolders(lone) and not (train and (train / lone.name).exists()))


def split_folders(root: Path, tell: Tell = refuse, depth: int = 0) -> dict[str, Path] | None:
    """The folders of the splits train, valid and test, by their names' words; None where the folders are classes.

    They may lie deeper, as long as each folder above them is alone; so may the class folders in them.
    """
    folders = subfolders(root, tell)
    words = {folder: word for folder in folders if (word := split_word(folder.name))}
    if len(folders) == 1 and depth < DEEPEST and (not words or "fold" in words.values()):
        return split_folders(folders[0], tell, depth + 1)  # alone it may be what an archive was unpacked into
    inner = {folder: _unwrapped(folder, word, tell) for folder, word in words.items()}
    if not words or (len(words) < len(folders) and not any(map(subfolders, inner.values()))):
        return None
    if odd := [folder.name for folder, word in words.items() if word in ("fold", "several")]:
        what = f"has folders of which nothing says whether to train on them ({some(odd)})"
        tell(Fault(root, what, f"name those to train on train and those to hold out val, or give one, {root / odd[0]}"))
    above: dict[str, Path] = {}
    for folder, word in words.items():
        if word in above:
            what = f"has two folders of one split ({above[word].relative_to(root)} and {folder.name})"
            tell(Fault(root, what, "put their pictures together, or take one away"))
        elif word not in ("fold", "several"):
            above[word] = inner[folder]
    if unused := [folder.name for folder in folders if folder not in words]:
        tell(Note(root, f"has folders beside those of its splits ({some(unused)})", "they are not used"))
    return {kind: above[kind] for kind in ("train", "valid", "test") if kind in above}


def _unwrapped(folder: Path, word: str, tell: Tell) -> Path:
    """The folder that holds the class folders of a split: train/, or train/train/, train/images/, if alone."""
    for _ in range(DEEPEST):
        inner = subfolders(folder, tell)
        plain = len(inner) == 1 and (inner[0].name.lower() in PLAIN or split_word(inner[0].name) == word)
        if not plain or not subfolders(inner[0], tell):
            break
        folder = inner[0]
    return folder


# -- what is in a folder ------------------------------------------------------------------------------------------


def holds_pictures(folder: Path, depth: int = 2) -> bool:
    """Whether a folder's first entries are called pictures, or its first folders hold some."""
    entries = glance(folder, LOOKED_AT)
    if any(one.suffix.lower() in SUFFIXES for one in entries):
        return True
    return depth > 0 and any(holds_pictures(one, depth - 1) for one in entries[:FEW] if one.is_dir())


def has_class_folders(root: Path) -> bool:
    """Whether two or more folders with pictures stand in a folder, or in those of its splits."""
    above = split_folders(root, lambda fault: None)
    if above is None:
        for _ in range(DEEPEST):
            root = inner[0] if len(inner := subfolders(root)) == 1 else root
        above = {"": root}
    return any(len(list(islice(_classes(folder), 2))) == 2 for folder in above.values())


def _classes(folder: Path) -> Iterator[Path]:
    return (one for one in subfolders(folder) if one.name.lower() not in PLAIN and holds_pictures(one))


def claims(name: str, source: Path | bytes) -> bool:
    """Whether a file is called a picture, or is one whatever it is called; one that cannot be looked at counts too."""
    if os.path.splitext(name)[1].lower() in SUFFIXES:
        return True
    if isinstance(source, Path) and not source.is_file():  # a pipe would be waited for
        return True
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return not isinstance(picture, ImageFile.StubImageFile) and picture.format != "MPEG"
    except UnidentifiedImageError:
        return False
    except Exception:  # a dangling link, no permission, a picture of too many pixels
        return True


def advice(root: Path) -> str:
    """What a folder or file is that is not read, with the way to what is; nothing where that is not known."""
    entries = [root] if root.is_file() else glance(root, LOOKED_AT)
    inner = [one for folder in entries[:5] if folder.is_dir() for one in glance(folder, LOOKED_AT)]
    for endings, way in FOREIGN.items():
        if found := next((one for one in entries + inner if one.name.lower().endswith(endings)), None):
            return f"{found.name}: {way}"
    flat = [one for one in entries if one.suffix.lower() in SUFFIXES]
    way = "sort them into a folder a class, or add labels.csv with the columns filename and label"
    return f"pictures such as {flat[0].name}: {way}" if flat else ""


# -- class folders ------------------------------------------------------------------------------------------------


def folder_split(
    root: Path,
    origin: str,
    suffixes: Collection[str] = (),
    tell: Tell = refuse,
    walk: Walk | None = None,
    lacking: bool = False,
) -> tuple[list[str], Split]:
    """Class names and pictures of a folder of class folders; with `suffixes`, of files of those kinds only.

    Class folders without a picture are a fault unless `lacking` allows them, as in a validation split.
    """
    walk = walk or Walk(tell)
    entries = entries_of(root, tell)
    folders = [root / entry.name for entry in entries if is_folder(entry)]
    if lost := [one.name for one in entries if one.is_symlink() and not (root / one.name).exists()]:
        what = f"has links that lead nowhere ({some([f'{one} to {os.readlink(root / one)}' for one in lost])})"
        tell(Fault(root, what, "mend them or take them away"))
    if not folders:
        here = advice(root)
        tell(Fault(root, "has no class folders" + (f" but {here}" if here else ""), NO_CLASSES))
    if _are_parts(root, folders, tell):
        return [], Split(origin, np.empty(0, np.int64), lambda i: b"", str)
    walk.enter(root)
    for folder in folders:
        if (first := walk.enter(folder)) != folder:
            tell(Fault(folder, f"is the same folder as {first}", "take one of the two away"))
    paths: list[Path] = []
    labels: list[int] = []
    empty, others = list[str](), list[Path]()
    for label, folder in enumerate(folders):
        count = len(paths)
        for path in walk.below(folder) if walk.enter(folder) == folder else ():
            if suffixes and path.suffix.lower() not in suffixes:
                continue
            (paths if claims(path.name, path) else others).append(path)
        if count == len(paths):
            empty.append(folder.name)
        labels += [label] * (len(paths) - count)
    if empty and not lacking:
        what = f"has class folders without a picture ({some(empty)})"
        tell(Fault(root, what, "put pictures there or remove them"))
    _tell_of_rest(root, entries, others, bool(folders), tell)
    split = Split(origin, np.array(labels, np.int64), lambda i: paths[i], lambda i: str(paths[i].relative_to(root)))
    return [folder.name for folder in folders], split


def _tell_of_rest(
    root: Path, entries: Sequence[os.DirEntry], others: Sequence[Path], has_classes: bool, tell: Tell
) -> None:
    """Say what is passed over beside the classes and in them."""
    loose = [one.name for one in entries if os.path.splitext(one.name)[1].lower() in SUFFIXES and not is_folder(one)]
    if loose and has_classes:
        what = f"has {counted(len(loose), 'picture')} beside its class folders ({some(loose)})"
        tell(Note(root, what, "they are not used, as nothing says what they show"))
    if has_classes:
        tell_of_tables(root, tell)
    if others:
        listed = some([str(p.relative_to(root)) for p in others])
        what = f"has {counted(len(others), 'file')} other than pictures ({listed})"
        tell(Note(root, what, "they are passed over"))


def tell_of_tables(root: Path, tell: Tell, used: Collection[str] = ()) -> None:
    """Say which files beside folders of pictures could say classes too, and do not."""
    tables = [one.name for one in visible(root) if one.suffix.lower() in TABLES and one.is_file()]
    if tables := [name for name in tables if name not in used]:
        what = f"has {counted(len(tables), 'file')} beside its folders of pictures ({some(tables)})"
        tell(Note(root, what, "they are not used, as the folders say the classes"))


NO_CLASSES = "give folders of pictures, one a class"


def _are_parts(root: Path, folders: Sequence[Path], tell: Tell) -> bool:
    """Whether the folders hold the same subfolders, so that they are no classes but parts, each with all classes."""
    held = {folder: {one.name for one in entries_of(folder) if is_folder(one)} for folder in folders}
    counts = Counter(name for names in held.values() for name in names)
    shared = {name for name, count in counts.items() if count > 1}
    alike = [folder.name for folder, names in held.items() if names & shared]
    if len(shared) < 2 or 2 * sum(counts[name] for name in shared) < counts.total():
        if deep := [f"{folder.name}: {some(sorted(names))}" for folder, names in held.items() if len(names) > 1]:
            what = f"has class folders with folders in them ({'; '.join(deep[:5])})"
            tell(Note(root, what, "their pictures are of the class above them"))
        return False
    what = f"has folders that hold the same subfolders ({some(alike)}: {some(sorted(shared))})"
    if all(map(split_word, shared)):
        tell(Fault(root, what, "put the splits above the classes: train/CLASS and val/CLASS"))
    else:
        remedy = f"if these are the classes, name their folders train and val or give one, {root / alike[0]}; else take"
        tell(Fault(root, what, f"{remedy} the pictures out of the subfolders"))
    return True


def is_class_folders(root: Path) -> bool:
    """Whether this is a folder of folders, which is asked when nothing else was recognised."""
    return root.is_dir() and bool(subfolders(root))


LAYOUT = Layout(
    90, "a folder of class folders (with or without train/ and val/ above them)", is_class_folders, class_folders
)
