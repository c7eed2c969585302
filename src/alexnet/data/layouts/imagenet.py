"""ImageNet as its owners hold it: official archives, folders with a flat val/, Kaggle's, and Tiny ImageNet's own.

Class indices are places among the sorted WordNet ids. The labels of the 50,000 validation pictures are known by their
names, so that no devkit is needed.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from alexnet.base.progress import Progress
from alexnet.data import labels
from alexnet.data.dataset import Data, Split, some, split_word
from alexnet.data.faults import Fault, Note, Tell, decoded, refuse
from alexnet.data.layouts import tars
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.folders import folder_split, holds_pictures, tell_of_tables
from alexnet.data.layouts.walking import files_below, subfolders, visible

TRAIN_TAR, VALID_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
VALID_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
WORDNET = re.compile(r"n\d{8}")
KAGGLE, SOLUTION, MAPPING = Path("ILSVRC/Data/CLS-LOC"), "LOC_val_solution.csv", "LOC_synset_mapping.txt"
OTHERS = ("LOC_sample_submission.csv", "LOC_train_solution.csv")  # Kaggle's other tables, which say nothing more
ANNOTATIONS, IMAGES = "val_annotations.txt", "images"  # in Tiny ImageNet's val/
T = TypeVar("T")


def human(ids: Sequence[str], words: dict[str, str] | None = None) -> list[str]:
    """Names of WordNet ids: ImageNet's, else those of `words`, else the ids; no name comes twice."""
    names = [labels.imagenet().get(one) or (words or {}).get(one, one) for one in ids]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({one})" for name, one in zip(names, ids, strict=True)]


def _labelled(
    pictures: Sequence[T], ids: Sequence[str], classes: Sequence[str], what: object, tell: Tell
) -> tuple[list[T], np.ndarray]:
    """Those pictures whose WordNet id is a class of the training pictures, and their indices; '' is no id at all."""
    place = {one: number for number, one in enumerate(classes)}
    if unknown := sorted({one for one in ids if one} - place.keys()):
        fault = f"has pictures of classes that are not trained on ({some(unknown)})"
        tell(Fault(what, fault, "give those classes to the training pictures, or leave these out"))
    kept = [(picture, place[one]) for picture, one in zip(pictures, ids, strict=True) if one in place]
    return [picture for picture, _ in kept], np.array([index for _, index in kept], np.int64)


def _by_name(names: Sequence[str], what: object, tell: Tell) -> list[str]:
    """WordNet ids of ImageNet's validation pictures by their file names, '' where a name is none of theirs."""
    known, table = list(labels.imagenet()), labels.validation()
    found = []
    for name in names:
        match = VALID_NAME.fullmatch(Path(name).name)
        right = match is not None and 1 <= int(match[1]) <= len(table)
        found.append(known[table[int(match[1]) - 1]] if match and right else "")
        if not right:
            fault = f"has a file {name} that is none of ImageNet's validation pictures, ILSVRC2012_val_00000001.JPEG"
            tell(Fault(what, f"{fault} to 00050000", "take it away, or sort the pictures into class folders"))
    return found


def _files(origin: str, root: Path, paths: list[Path], indices: np.ndarray) -> Split:
    return Split(origin, indices, lambda i: paths[i], lambda i: str(paths[i].relative_to(root)))


# -- folders ------------------------------------------------------------------------------------------------------


def flat_folder(root: Path) -> Path | None:
    """The folder of ImageNet's validation pictures, where they lie in it without class folders: this one or in it."""
    for folder in (root, *(one for one in subfolders(root) if split_word(one.name) in ("valid", "test"))):
        if not subfolders(folder) and any(VALID_NAME.fullmatch(one.name) for one in visible(folder)):
            return folder
    return None


def is_flat(root: Path) -> bool:
    """Whether this is a folder with ImageNet's validation pictures flat in it, beside train/CLASS/* or alone."""
    return root.is_dir() and flat_folder(root) is not None


def flat(root: Path, tell: Tell = refuse) -> Data:
    """train/CLASS/* where it is there, and validation pictures as they were unpacked, labelled by their names."""
    folder = flat_folder(root) or root
    train = next((one for one in subfolders(root) if split_word(one.name) == "train"), None)
    classes, splits = list(labels.imagenet()), {}
    if train is not None:
        classes, splits["train"] = folder_split(train, f"{train.name}/", tell=tell)
    paths = files_below(folder, tell)
    ids = _by_name([path.name for path in paths], folder, tell)
    labelled = _labelled(paths, ids, classes, folder, tell)
    splits["valid"] = _files(f"{folder.name}/, flat, labelled by name", folder, *labelled)
    if root != folder and (others := [one.name for one in subfolders(root) if one not in (train, folder)]):
        tell(Note(root, f"has folders beside those of its splits ({some(others)})", "they are not used"))
    tell_of_tables(root, tell)
    words = "ImageNet with a flat validation folder" if train else "ImageNet's validation pictures, flat"
    return Data(str(root), words, classes, splits)


def _kaggle(root: Path) -> Path | None:
    """CLS-LOC of what Kaggle's archive unpacks to, from its top, from ILSVRC/ or from ILSVRC/Data."""
    bases = (root.joinpath(*KAGGLE.parts[first:]) for first in range(len(KAGGLE.parts)))
    return next((base for base in bases if (base / "train").is_dir()), None)


def is_kaggle(root: Path) -> bool:
    """Whether this is what Kaggle's archive unpacks to, or a folder of it."""
    return _kaggle(root) is not None


def kaggle(root: Path, tell: Tell = refuse) -> Data:
    """ILSVRC/Data/CLS-LOC/{train,val}; validation labels of LOC_val_solution.csv, else by the pictures' names."""
    base = _kaggle(root) or root
    top = Path(os.path.abspath(base)).parents[len(KAGGLE.parts) - 1]
    classes, train = folder_split(base / "train", "train/", tell=tell)
    folder, solution = base / "val", top / SOLUTION
    splits = {"train": train}
    if folder.is_dir():
        paths = files_below(folder, tell)
        if solution.is_file():
            found = _solution(solution, tell)
            if missing := [p.name for p in paths if p.stem not in found] if found else []:
                tell(Fault(solution, f"has no line for {some(missing)}", "get the file again"))
            ids, how = [found.get(path.stem, "") for path in paths], SOLUTION
        else:
            ids, how = _by_name([path.name for path in paths], folder, tell), "labelled by name"
        splits["valid"] = _files(f"val/, {how}", folder, *_labelled(paths, ids, classes, folder, tell))
    _tell_of_test(base, tell)
    tell_of_tables(root, tell, [SOLUTION, *OTHERS])
    return Data(str(root), "ImageNet as on Kaggle", human(classes, _words(top / MAPPING, " ")), splits)


def _tell_of_test(root: Path, tell: Tell) -> None:
    if (root / "test").is_dir():
        tell(Note(root / "test", "has no class folders, so nothing says what it shows", "it is not used"))


def _solution(path: Path, tell: Tell) -> dict[str, str]:
    """Picture -> WordNet id: the first word of its line's second column."""
    try:
        rows = list(csv.reader(decoded(path.read_bytes()).splitlines()))
    except (OSError, ValueError, csv.Error):
        rows = []
    found = {row[0]: row[1].split()[0] for row in rows[1:] if len(row) >= 2 and row[1].split()}
    if not found or not all(WORDNET.fullmatch(one) for one in found.values()):
        tell(Fault(path, "is not Kaggle's table (ImageId,PredictionString)", "get the file again"))
        return {}
    return found


def _words(path: Path, gap: str) -> dict[str, str]:
    """WordNet id -> its first word, from lines of an id, a gap and words with commas; none where there is no file."""
    if not path.is_file():
        return {}
    try:
        lines = decoded(path.read_bytes()).splitlines()
    except (OSError, ValueError):  # names are a convenience
        return {}
    return {one: words.split(",")[0].strip() for one, _, words in (line.partition(gap) for line in lines) if words}


def is_tiny(root: Path) -> bool:
    """Whether this is Tiny ImageNet as Stanford packs it, the file of annotations there or lost."""
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        return False
    inner = [one.name for one in subfolders(root / "val")]
    if {*inner} - {IMAGES} and not holds_pictures(root / "val" / IMAGES, 0):
        return False  # a script has sorted the pictures into class folders
    lone = inner == [IMAGES]
    return (root / "val" / ANNOTATIONS).is_file() or (lone and not (root / "train" / IMAGES).exists())


def tiny(root: Path, tell: Tell = refuse) -> Data:
    """train/CLASS/images/*, val/images/* with val_annotations.txt, names in words.txt."""
    classes, train = folder_split(root / "train", "train/", {".jpeg", ".jpg", ".png"}, tell)
    file, folder = root / "val" / ANNOTATIONS, root / "val" / IMAGES
    try:
        lines = decoded(file.read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        fault = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        tell(Fault(file, f"{fault}, and nothing else says what the pictures beside it show", "get the file again"))
        lines = []
    rows = [line.split("\t") for line in lines if line.strip()]
    if not all(len(row) >= 2 for row in rows):
        tell(Fault(file, "has lines without a file and a class", "get the file again"))
        rows = [row for row in rows if len(row) >= 2]
    paths = [folder / Path(row[0]).name for row in rows]
    labelled = _labelled(paths, [row[1] for row in rows], classes, root / "val", tell)
    valid = _files(f"val/, {ANNOTATIONS}", folder, *labelled)
    _tell_of_test(root, tell)
    tell_of_tables(root, tell)
    names = human(classes, _words(root / "words.txt", "\t"))
    return Data(str(root), "Tiny ImageNet", names, {"train": train, "valid": valid}, square="squash")


# -- official archives --------------------------------------------------------------------------------------------


def _archives(root: Path) -> dict[str, Path]:
    folder, wanted = (root, (TRAIN_TAR, VALID_TAR)) if root.is_dir() else (root.parent, (root.name,))
    there = {"train": folder / TRAIN_TAR, "valid": folder / VALID_TAR}
    return {split: path for split, path in there.items() if path.name in wanted and path.is_file()}


def _unpacked(root: Path) -> list[str]:
    """The folders of splits beside the archives that have pictures."""
    return [one.name for one in subfolders(root) if split_word(one.name) and holds_pictures(one)]


def is_official(root: Path) -> bool:
    """Whether this is a folder of the official archives, or one of them; one alone beside folders of pictures is what
    they were unpacked from."""
    count = len(_archives(root))
    return count == 2 or (count == 1 and not _unpacked(root))


def official(root: Path, tell: Tell = refuse, quiet: bool = True) -> Data:
    """ILSVRC2012_img_train.tar, a tar of a tar a class, and ILSVRC2012_img_val.tar, flat; neither is unpacked."""
    archives, splits, classes = _archives(root), {}, list(labels.imagenet())
    if "train" in archives:
        classes, splits["train"] = _train_archive(archives["train"], tell, quiet)
    if "valid" in archives:
        path = archives["valid"]
        found = tars.archive_members(path, tell)
        ids = _by_name([one.name for one in found], path, tell)
        splits["valid"] = _in_archive(path, *_labelled(found, ids, classes, path, tell))
    if beside := _unpacked(root):
        tell(Note(root, f"has folders beside its archives ({some(beside)})", "they are not used"))
    words = "ImageNet's official archives"
    return Data(str(root), words, classes, splits, list(archives.values()))


def _train_archive(path: Path, tell: Tell, quiet: bool) -> tuple[list[str], Split]:
    with tars.opened(path) as file, Progress(f"listing {path.name}", path.stat().st_size, "bytes", quiet=quiet) as bar:
        outer = list(tars.members(file, str(path), tell=tell))
        if wrong := sorted(Path(one.name).stem for one in outer if not WORDNET.fullmatch(Path(one.name).stem)):
            what = f"has members that are no archives of a class ({some(wrong)})"
            tell(Fault(path, what, "get the original"))
            outer = [one for one in outer if Path(one.name).stem not in wrong]
        classes = sorted(Path(one.name).stem for one in outer)
        found, numbers = [], []
        for one in sorted(outer, key=lambda one: Path(one.name).stem):
            inner = [
                tars.ArchiveMember(f"{Path(one.name).stem}/{picture.name}", picture.start, picture.size)
                for picture in tars.members(file, f"{path} ({one.name})", one.start, one.size, tell)
            ]
            found += inner
            numbers += [classes.index(Path(one.name).stem)] * len(inner)
            bar.update(one.size)
    return classes, _in_archive(path, found, np.array(numbers, np.int64))


def _in_archive(path: Path, found: list[tars.ArchiveMember], indices: np.ndarray) -> Split:
    return Split(path.name, indices, lambda i: tars.read(path, *found[i][1:]), lambda i: found[i].name)


LAYOUTS = (
    Layout(30, "ImageNet as downloaded or unpacked", is_official, official, shows=True),
    Layout(31, "", is_kaggle, kaggle),
    Layout(32, "", is_tiny, tiny),
    Layout(33, "", is_flat, flat),
)
