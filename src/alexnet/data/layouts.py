"""What is this DATA? One function a layout, one table at the foot; all give splits of readable, labelled pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from alexnet.data.pictures import Source, Unreadable, decode
from alexnet.errors import AlexNetError

VALID = ("val", "valid", "validation", "test")  # the first of these with labels is the split `valid`
HELD_OUT = 0.1  # share of each class held out where DATA has no validation split
SPLIT_SEED = 2012
LITTER = {"Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Split:
    """Pictures with labels: `read(i)` gives the i-th as file path, encoded bytes or PIL image, `name(i)` its name."""

    origin: str  # what it was called where it was found
    labels: np.ndarray  # int64 (n,)
    read: Callable[[int], Source]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray, origin: str) -> Split:
        """Some of the pictures, in the order of `rows`."""
        return Split(origin, self.labels[rows], lambda i: self.read(int(rows[i])), lambda i: self.name(int(rows[i])))


@dataclass(frozen=True)
class Data:
    """What was found: layout in words, class names in the order of their indices, and the splits train and valid."""

    path: str
    layout: str
    classes: list[str]
    splits: dict[str, Split]

    def split(self, name: str) -> Split:
        """The split `train` or `valid`, each name of VALID meaning `valid`; `all` is every split, one after another."""
        if name == "all":
            return _joined(list(self.splits.values()))
        wanted = "valid" if name in VALID else name
        if wanted not in self.splits:
            there = " and ".join(self.splits)
            raise AlexNetError(f"{self.path} has no split '{name}'; it has {there}: name one of those, or other data.")
        return self.splits[wanted]

    def summary(self) -> str:
        """One line for people: layout, classes, and which split was taken from where."""
        parts = [f"{name} {len(s):,} pictures ({s.origin})" for name, s in self.splits.items()]
        return f"{self.path}: {self.layout}, {len(self.classes)} classes, {', '.join(parts)}"


def find(path: str | Path) -> Data:
    """Look at DATA and return what it is; without a validation split a tenth of each class is held out."""
    name, root = str(path), Path(path)
    if name == "digits" and not root.exists():
        data = digits()
    elif not root.exists():
        raise AlexNetError(f"DATA {name} does not exist; give {EXPECTED}.")
    else:
        if root.is_dir() and not any(True for _ in _visible(root)):
            raise AlexNetError(f"DATA {name} is an empty folder; give {EXPECTED}.")
        layout = next((read for recognises, read in LAYOUTS if recognises(root)), None)
        if layout is None:
            raise AlexNetError(f"DATA {name} is none of the known layouts; give {EXPECTED}.")
        data = layout(root)
    if set(data.splits) == {"train"}:
        data = _hold_out(data)
    _check(data)
    return data


def stratified(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to keep and to hold out: the same for the same labels, at least one of each class in both."""
    generator = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    held = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(len(rows) * share)), len(rows) - 1)
        held.append(generator.permutation(rows)[:count])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


# -- layouts ----------------------------------------------------------------------------------------------------


def digits() -> Data:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; a fifth is held out."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    everything = Split(
        "scikit-learn",
        bunch.target.astype(np.int64),
        lambda i: Image.fromarray(pixels[i]),
        lambda i: f"digit {i}",
    )
    kept, out = stratified(everything.labels, 0.2)
    splits = {"train": everything.take(kept, "four fifths"), "valid": everything.take(out, "one fifth")}
    return Data("digits", "handwritten digits", [str(n) for n in range(10)], splits)


def class_folders(root: Path) -> Data:
    """root/CLASS/* or root/{train,val}/CLASS/*: classes are the folders' names, sorted."""
    if not _split_folders(root):
        classes, split = _folder_split(root, "whole folder")
        return Data(str(root), "class folders", classes, {"train": split})
    found = {folder: _folder_split(root / folder, f"{folder}/") for folder in _split_folders(root)}
    splits = {("train" if folder == "train" else "valid"): split for folder, (_, split) in found.items()}
    classes = next(iter(found.values()))[0]
    for other, (names, _) in found.items():
        if names != classes:
            first = next(iter(found))
            raise AlexNetError(
                f"{root} has other classes in {other}/ than in {first}/ ({_difference(names, classes)}); "
                "make the class folders of both the same."
            )
    return Data(str(root), "class folders", classes, splits)


def parquet(root: Path) -> Data:
    """Hugging Face style: image {bytes, path}, label; class names in the schema's metadata; split in the file name."""
    files = _parquet_files(root)
    named: dict[str, list[Path]] = {}
    for file in files:
        prefix = file.name.removesuffix(".parquet").split("-")[0]
        named.setdefault(prefix if prefix in ("train", *VALID) else "train", []).append(file)
    splits: dict[str, Split] = {}
    classes: list[str] | None = None
    for name in ("train", *VALID):
        if name not in named or ("valid" in splits and name in VALID):
            continue
        split, names = _parquet_split(sorted(named[name]), name)
        if (split.labels < 0).all() and name in VALID:
            continue  # a test split as published, without labels
        splits["train" if name == "train" else "valid"] = split
        classes = classes or names
    if not splits:
        raise AlexNetError(f"{root} has parquet files but no labels in them; give a split with labels.")
    if classes is None:
        classes = [str(n) for n in range(1 + max(int(s.labels.max()) for s in splits.values()))]
    for split in splits.values():
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
        if len(wrong):
            row = int(wrong[0])
            raise AlexNetError(
                f"{root}: label {split.labels[row]} of {split.name(row)} ({split.origin}, row {row}) is outside the "
                f"class list, 0 to {len(classes) - 1}; mend the label or the class names in the schema."
            )
    return Data(str(root), "parquet", classes, splits)


# -- class folders ----------------------------------------------------------------------------------------------


def _visible(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.name not in LITTER)


def _subfolders(root: Path) -> list[Path]:
    return [p for p in _visible(root) if p.is_dir()]


def _split_folders(root: Path) -> list[str]:
    """`train` and the first folder of VALID that has class folders; none where `train` is itself a class."""
    there = {p.name for p in _subfolders(root)}
    if there - {"train", *VALID} and not ("train" in there and _subfolders(root / "train")):
        return []
    valid = next((name for name in VALID if name in there and _subfolders(root / name)), None)
    return [name for name in ("train", valid) if name in there]


def walk(folder: Path) -> Iterator[Path]:
    """Every visible file below a folder, in order, links followed; only one directory's names are held."""
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(files) if not name.startswith(".") and name not in LITTER)


def files_below(folder: Path) -> list[Path]:
    """`walk` as a list."""
    return list(walk(folder))


def _folder_split(root: Path, origin: str) -> tuple[list[str], Split]:
    folders = _subfolders(root)
    if not folders:
        raise AlexNetError(f"{root} has no class folders; give {EXPECTED}.")
    paths: list[Path] = []
    labels: list[int] = []
    empty = []
    for label, folder in enumerate(folders):
        found = files_below(folder)
        if not _any_picture(found):
            empty.append(folder.name)
        paths += found
        labels += [label] * len(found)
    if empty:
        raise AlexNetError(
            f"{root} has class folders without a picture ({_some(empty)}); put pictures there or remove them."
        )
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


SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


# -- parquet ----------------------------------------------------------------------------------------------------


def _parquet_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    for folder in (root, root / "data"):
        if folder.is_dir() and (found := [p for p in _visible(folder) if p.suffix == ".parquet"]):
            return found
    return []


def _parquet_split(files: list[Path], origin: str) -> tuple[Split, list[str] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, groups, classes = [], [], None
    for file in files:
        try:
            opened = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise AlexNetError(f"{file} is not a whole parquet file ({error}); copy it again.") from None
        columns = opened.schema_arrow.names
        image = next((name for name in ("image", "img") if name in columns), None)
        if image is None or "label" not in columns:
            raise AlexNetError(
                f"{file} has the columns {', '.join(columns)}; it needs 'image' (bytes, path) and 'label'."
            )
        column = opened.read(columns=["label"])["label"]
        if not pa.types.is_integer(column.type):
            raise AlexNetError(f"{file}: column label is {column.type}; it must hold whole numbers from 0.")
        labels.append(column.fill_null(-1).to_numpy().astype(np.int64))
        groups += [
            (str(file), image, group, opened.metadata.row_group(group).num_rows)
            for group in range(opened.metadata.num_row_groups)
        ]
        classes = classes or _class_names(opened.schema_arrow)
    starts = np.cumsum([0] + [rows for *_, rows in groups])

    # 64 groups of some 1,000 small pictures each are about 100 MB; a shuffled pass over more reads them again.
    @lru_cache(maxsize=64)
    def group(number: int):
        file, image, index, _ = groups[number]
        return pq.ParquetFile(file).read_row_group(index, columns=[image])[image].combine_chunks()

    def cell(i: int) -> dict:
        number = int(np.searchsorted(starts, i, side="right")) - 1
        return group(number)[i - int(starts[number])].as_py() or {}

    def name(i: int) -> str:
        return cell(i).get("path") or f"row {i}"

    return Split(origin, np.concatenate(labels), lambda i: cell(i).get("bytes") or b"", name), classes


def _class_names(schema) -> list[str] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]


def _joined(splits: list[Split]) -> Split:
    """Splits one after another."""
    starts = np.cumsum([0] + [len(split) for split in splits])

    def place(i: int) -> tuple[Split, int]:
        number = int(np.searchsorted(starts, i, side="right")) - 1
        return splits[number], i - int(starts[number])

    def read(i: int) -> Source:
        split, row = place(i)
        return split.read(row)

    def name(i: int) -> str:
        split, row = place(i)
        return split.name(row)

    labels = np.concatenate([split.labels for split in splits])
    return Split(" and ".join(split.origin for split in splits), labels, read, name)


# -- checks -----------------------------------------------------------------------------------------------------


def _hold_out(data: Data) -> Data:
    whole = data.splits["train"]
    kept, out = stratified(whole.labels, HELD_OUT) if len(whole) else (np.arange(0), np.arange(0))
    note = f"of {whole.origin}, which has no validation split"
    splits = {"train": whole.take(kept, f"nine tenths {note}"), "valid": whole.take(out, "the other tenth")}
    return Data(data.path, data.layout, data.classes, splits)


def _check(data: Data) -> None:
    if len(data.classes) < 2:
        raise AlexNetError(
            f"DATA {data.path} has one class ({data.classes[0]}); a classifier needs two or more: give {EXPECTED}."
        )
    for name, split in data.splits.items():
        if not len(split):
            raise AlexNetError(f"DATA {data.path} has no pictures in its split {name}; give {EXPECTED}.")
    if {"train", "valid"} <= set(data.splits):
        seen = {name: {data.classes[i] for i in np.unique(s.labels)} for name, s in data.splits.items()}
        if extra := seen["valid"] - seen["train"]:
            raise AlexNetError(
                f"DATA {data.path} has other classes in valid than in train ({_some(sorted(extra))} only in valid); "
                "give pictures of every class to both."
            )


def _difference(names: Sequence[str], classes: Sequence[str]) -> str:
    more, fewer = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    return "; ".join([f"more: {_some(more)}"] * bool(more) + [f"missing: {_some(fewer)}"] * bool(fewer))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


EXPECTED = (
    "a folder of class folders (with or without train/ and val/ above them), a folder of parquet files with the "
    "columns image and label, or the word digits"
)

LAYOUTS: list[tuple[Callable[[Path], bool], Callable[[Path], Data]]] = [
    (lambda root: bool(_parquet_files(root)), parquet),
    (lambda root: root.is_dir() and bool(_subfolders(root)), class_folders),
]
