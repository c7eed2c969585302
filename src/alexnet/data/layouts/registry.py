"""What is this DATA? One function a layout, one table at the foot; all give splits of readable, labelled pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.data.dataset import Data, Split, lacking, some, stratified
from alexnet.data.faults import Fault, Note, Tell, refuse
from alexnet.data.layouts.cifar import cifar, is_cifar
from alexnet.data.layouts.folders import advice, class_folders, files_below, subfolders
from alexnet.data.layouts.imagenet import flat, human, is_flat, is_kaggle, is_official, is_tiny, kaggle, official, tiny
from alexnet.data.layouts.parquet import is_parquet, parquet
from alexnet.data.layouts.webdataset import is_address, is_webdataset, webdataset
from alexnet.data.packs.reading import is_pack, pack

__all__ = ["Data", "Split", "files_below", "find", "stratified"]

HELD_OUT = 0.1  # share of each class held out where DATA has no validation split


def find(path: str | Path, quiet: bool = True, tell: Tell = refuse, whole: bool = False) -> Data:
    """Look at DATA and return what it is; without a validation split a tenth of each class is held out.

    With `whole` nothing is, and one class or one picture of each is enough: it is for evaluation on every picture.

    Long listings show progress unless `quiet`. Faults of its structure are told to `tell`; where it returns, what is at
    fault is left out, and nothing is held out.
    """
    name, root, told, notes = str(path), Path(path), list[Fault](), list[str]()

    def note(fault: Fault) -> None:
        if isinstance(fault, Note):
            notes.append(str(fault).removesuffix("."))
        else:
            told.append(fault)
        tell(fault)

    if name == "digits" and not _exists(root):
        data = digits()
    elif is_address(name) and not _exists(root):
        data = webdataset(name, note, quiet)
    elif not _exists(root):
        raise AlexNetError(f"DATA {name} does not exist; give {EXPECTED}.")
    else:
        if root.is_dir():
            _check_folder(root)
        layout = next((read for recognises, read in LAYOUTS if recognises(root)), None)
        if layout is None:
            here = advice(root)
            raise AlexNetError(
                f"DATA {name} is none of the known layouts{f' but {here}' if here else ''}; give {EXPECTED}."
            )
        data = layout(root, note, quiet) if layout in SHOWING else layout(root, note)
    if all(one in labels.imagenet() for one in data.classes):
        data = replace(data, classes=human(data.classes))
    data = replace(data, classes=labels.distinct(data.classes))
    if told or whole:
        return replace(data, notes=notes)
    if set(data.splits) == {"train"}:
        data = _hold_out(data)
    _check(data, tell)
    return replace(data, notes=[*notes, *lacking(data)])


def _exists(root: Path) -> bool:
    try:
        os.stat(root)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise AlexNetError(f"DATA {root} cannot be looked at ({error.strerror}); see to its permissions.") from None
    return True


def _check_folder(root: Path) -> None:
    try:
        there = [one for one in os.listdir(root) if not one.startswith(".")]
    except OSError as error:
        raise AlexNetError(
            f"DATA {root} cannot be listed ({error.strerror}); give a folder that you may read."
        ) from None
    if not there:
        raise AlexNetError(f"DATA {root} is an empty folder; give {EXPECTED}.")


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
    return Data("digits", "handwritten digits", [str(n) for n in range(10)], splits, whole=everything)


def _hold_out(data: Data) -> Data:
    whole = data.splits["train"]
    kept, out = stratified(whole.labels, HELD_OUT) if len(whole) else (np.arange(0), np.arange(0))
    note = f"of {whole.origin}, which has no validation split"
    splits = {"train": whole.take(kept, f"nine tenths {note}"), "valid": whole.take(out, "the other tenth")}
    return replace(data, splits=splits, whole=whole)


def _check(data: Data, tell: Tell) -> None:
    """Refuse what cannot be used."""
    if len(data.classes) < 2:
        what = f"has one class ({some(data.classes)})"
        tell(Fault(data.path, what, f"a classifier needs two or more ({WHOLE}): give {EXPECTED}"))
    for name, split in data.splits.items():
        if not len(split) and data.whole is not None and len(data.whole):
            what = "has one picture of each class, of which none can be held out"
            tell(Fault(data.path, what, f"give two or more of each ({WHOLE})"))
        elif not len(split):
            tell(Fault(data.path, f"has no pictures in its split {name}", f"give {EXPECTED}"))
    seen = {name: set(np.unique(split.labels).tolist()) for name, split in data.splits.items()}
    for name in seen:
        if extra := seen[name] - seen.get("train", seen[name]):
            what = f"has other classes in {name} than in train ({data.names(extra)} only in {name})"
            tell(Fault(data.path, what, "give pictures of every class to both"))


WHOLE = "alexnet evaluate takes it as it is by --split all"
EXPECTED = (
    "a folder of class folders (with or without train/ and val/ above them), ImageNet as downloaded or unpacked, a "
    "folder of parquet files with the columns image and label, CIFAR's python archives, WebDataset shards, a pack, or "
    "the word digits"
)

LAYOUTS: list[tuple[Callable[[Path], bool], Callable[..., Data]]] = [
    (is_pack, lambda root, _: pack(root)),
    (is_parquet, parquet),
    (is_official, official),
    (is_kaggle, kaggle),
    (is_tiny, tiny),
    (is_flat, flat),
    (is_cifar, cifar),
    (is_webdataset, webdataset),
    (lambda root: root.is_dir() and bool(subfolders(root)), class_folders),
]
SHOWING = {official, webdataset}  # these take long and show progress
