"""ImageNet as its owners hold it: official archives, folders with a flat val/, Kaggle's, and Tiny ImageNet's own.

Class indices are places among the sorted WordNet ids. The labels of the 50,000 validation pictures are known by their
names, so that no devkit is needed.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet import labels
from alexnet.data import tars
from alexnet.data.folders import files_below, folder_split, subfolders, visible
from alexnet.data.split import VALID, Data, Split, some
from alexnet.errors import AlexNetError
from alexnet.progress import Progress

TRAIN_TAR, VALID_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
VALID_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
WORDNET = re.compile(r"n\d{8}")
KAGGLE, SOLUTION, MAPPING = Path("ILSVRC/Data/CLS-LOC"), "LOC_val_solution.csv", "LOC_synset_mapping.txt"
ANNOTATIONS = "val_annotations.txt"


def human(ids: Sequence[str], words: dict[str, str] | None = None) -> list[str]:
    """Names of WordNet ids: ImageNet's, else those of `words`, else the ids; no name comes twice."""
    names = [labels.imagenet().get(one) or (words or {}).get(one, one) for one in ids]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({one})" for name, one in zip(names, ids, strict=True)]


def _indices(ids: Sequence[str], classes: Sequence[str], what: str) -> np.ndarray:
    """Class indices of WordNet ids; ids that are no class of the training pictures are an error."""
    place = {one: number for number, one in enumerate(classes)}
    if unknown := sorted(set(ids) - place.keys()):
        raise AlexNetError(
            f"{what} has pictures of classes that are not trained on ({some(unknown)}); give those classes to the "
            "training pictures, or leave these out."
        )
    return np.array([place[one] for one in ids], np.int64)


def _by_name(names: Sequence[str], what: str) -> list[str]:
    """WordNet ids of ImageNet's validation pictures by their file names."""
    known, table = list(labels.imagenet()), labels.validation()
    found = []
    for name in names:
        match = VALID_NAME.fullmatch(Path(name).name)
        if match is None or not 1 <= int(match[1]) <= len(table):
            raise AlexNetError(
                f"{what} has a file {name} that is none of ImageNet's validation pictures, "
                "ILSVRC2012_val_00000001.JPEG to 00050000; take it away, or sort the pictures into class folders."
            )
        found.append(known[table[int(match[1]) - 1]])
    return found


def _files(origin: str, paths: list[Path], root: Path, indices: np.ndarray) -> Split:
    return Split(origin, indices, lambda i: paths[i], lambda i: str(paths[i].relative_to(root)))


# -- folders ------------------------------------------------------------------------------------------------------


def flat_folder(root: Path) -> str | None:
    """The folder of ImageNet's validation pictures, where they lie in it without class folders."""
    for name in VALID:
        folder = root / name
        if folder.is_dir() and not subfolders(folder) and any(VALID_NAME.fullmatch(p.name) for p in visible(folder)):
            return name
    return None


def is_flat(root: Path) -> bool:
    """Whether this is a folder with train/CLASS/* and ImageNet's validation pictures flat beside it."""
    return root.is_dir() and flat_folder(root) is not None and bool(subfolders(root / "train"))


def flat(root: Path) -> Data:
    """train/CLASS/*, and a validation folder as it was unpacked, labelled by the pictures' names."""
    folder = root / (flat_folder(root) or "val")
    classes, train = folder_split(root / "train", "train/")
    paths = files_below(folder)
    ids = _by_name([path.name for path in paths], str(folder))
    valid = _files(f"{folder.name}/, flat, labelled by name", paths, folder, _indices(ids, classes, str(folder)))
    return Data(str(root), "ImageNet with a flat validation folder", classes, {"train": train, "valid": valid})


def is_kaggle(root: Path) -> bool:
    """Whether this is what Kaggle's archive unpacks to."""
    return (root / KAGGLE / "train").is_dir()


def kaggle(root: Path) -> Data:
    """ILSVRC/Data/CLS-LOC/{train,val}; validation labels of LOC_val_solution.csv, else by the pictures' names."""
    classes, train = folder_split(root / KAGGLE / "train", "train/")
    folder, solution = root / KAGGLE / "val", root / SOLUTION
    splits = {"train": train}
    if folder.is_dir():
        paths = files_below(folder)
        if solution.is_file():
            found = _solution(solution)
            if missing := [p.name for p in paths if p.stem not in found]:
                raise AlexNetError(f"{solution} has no line for {some(missing)}; get the file again.")
            ids, how = [found[path.stem] for path in paths], SOLUTION
        else:
            ids, how = _by_name([path.name for path in paths], str(folder)), "labelled by name"
        splits["valid"] = _files(f"val/, {how}", paths, folder, _indices(ids, classes, str(folder)))
    return Data(str(root), "ImageNet as on Kaggle", human(classes, _words(root / MAPPING, " ")), splits)


def _solution(path: Path) -> dict[str, str]:
    """Picture -> WordNet id: the first word of its line's second column."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    found = {row[0]: row[1].split()[0] for row in rows[1:] if len(row) >= 2 and row[1].split()}
    if not found or not all(WORDNET.fullmatch(one) for one in found.values()):
        raise AlexNetError(f"{path} is not Kaggle's table (ImageId,PredictionString); get the file again.")
    return found


def _words(path: Path, gap: str) -> dict[str, str]:
    """WordNet id -> its first word, from lines of an id, a gap and words with commas; none where there is no file."""
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8", "replace").splitlines()
    return {one: words.split(",")[0].strip() for one, _, words in (line.partition(gap) for line in lines) if words}


def is_tiny(root: Path) -> bool:
    """Whether this is Tiny ImageNet as Stanford packs it."""
    return (root / "train").is_dir() and (root / "val" / ANNOTATIONS).is_file()


def tiny(root: Path) -> Data:
    """train/CLASS/images/*, val/images/* with val_annotations.txt, names in words.txt."""
    classes, train = folder_split(root / "train", "train/", {".jpeg", ".jpg", ".png"})
    lines = (root / "val" / ANNOTATIONS).read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    if not all(len(row) >= 2 for row in rows):
        raise AlexNetError(f"{root / 'val' / ANNOTATIONS} has lines without a file and a class; get the file again.")
    paths = [root / "val" / "images" / Path(row[0]).name for row in rows]
    indices = _indices([row[1] for row in rows], classes, f"{root}/val")
    valid = _files(f"val/, {ANNOTATIONS}", paths, root / "val" / "images", indices)
    names = human(classes, _words(root / "words.txt", "\t"))
    return Data(str(root), "Tiny ImageNet", names, {"train": train, "valid": valid})


# -- official archives --------------------------------------------------------------------------------------------


def _archives(root: Path) -> dict[str, Path]:
    folder, wanted = (root, (TRAIN_TAR, VALID_TAR)) if root.is_dir() else (root.parent, (root.name,))
    there = {"train": folder / TRAIN_TAR, "valid": folder / VALID_TAR}
    return {split: path for split, path in there.items() if path.name in wanted and path.is_file()}


def is_official(root: Path) -> bool:
    """Whether this is a folder of the official archives, or one of them."""
    return bool(_archives(root))


def official(root: Path, quiet: bool = True) -> Data:
    """ILSVRC2012_img_train.tar, a tar of a tar a class, and ILSVRC2012_img_val.tar, flat; neither is unpacked."""
    archives, splits, classes = _archives(root), {}, list(labels.imagenet())
    if "train" in archives:
        classes, splits["train"] = _train_archive(archives["train"], quiet)
    if "valid" in archives:
        path = archives["valid"]
        found = tars.listed(path)
        ids = _by_name([one.name for one in found], str(path))
        splits["valid"] = _in_archive(path, found, _indices(ids, classes, str(path)))
    words = "ImageNet's official archives"
    return Data(str(root), words, classes, splits, list(archives.values()))


def _train_archive(path: Path, quiet: bool) -> tuple[list[str], Split]:
    with tars.opened(path) as file, Progress(f"listing {path.name}", path.stat().st_size, "bytes", quiet=quiet) as bar:
        outer = list(tars.members(file, str(path)))
        classes = sorted(Path(one.name).stem for one in outer)
        if wrong := [c for c in classes if not WORDNET.fullmatch(c)]:
            raise AlexNetError(f"{path} has members that are no archives of a class ({some(wrong)}); get the original.")
        found, numbers = [], []
        for one in sorted(outer, key=lambda one: Path(one.name).stem):
            inner = [
                tars.Member(f"{Path(one.name).stem}/{picture.name}", picture.start, picture.size)
                for picture in tars.members(file, f"{path} ({one.name})", one.start, one.size)
            ]
            found += inner
            numbers += [classes.index(Path(one.name).stem)] * len(inner)
            bar.update(one.size)
    return classes, _in_archive(path, found, np.array(numbers, np.int64))


def _in_archive(path: Path, found: list[tars.Member], indices: np.ndarray) -> Split:
    return Split(path.name, indices, lambda i: tars.read(path, *found[i][1:]), lambda i: found[i].name)
