"""What is this DATA? Each layout has a file in this folder; all give splits of readable, labelled pictures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.data.dataset import Data, Split, lacking, some, stratified
from alexnet.data.faults import Fault, Note, Tell, refuse
from alexnet.data.layouts.base import Layout, expected, layouts
from alexnet.data.layouts.folders import advice
from alexnet.data.layouts.imagenet import human
from alexnet.data.layouts.walking import files_below

__all__ = ["Data", "Split", "files_below", "find_data", "stratified"]

HELD_OUT = 0.1  # share of each class held out where DATA has no validation split


def find_data(path: str | Path, quiet: bool = True, tell: Tell = refuse, whole: bool = False) -> Data:
    """Look at DATA and return what it is; without a validation split a tenth of each class is held out.

    With `whole` nothing is, and one class or one picture of each is enough: it is for evaluation on every picture.

    Long listings show progress unless `quiet`. Faults of its structure are told to `tell`; where it returns, what is at
    fault is left out, and nothing is held out.
    """
    told, notes = list[Fault](), list[str]()

    def note(fault: Fault) -> None:
        if isinstance(fault, Note):
            notes.append(str(fault).removesuffix("."))
        else:
            told.append(fault)
        tell(fault)

    layout, given = _layout(path)
    data = layout.read(given, note, quiet) if layout.shows else layout.read(given, note)
    if not data.named and len(data.classes) == len(labels.imagenet()):
        taken = "they are taken for ImageNet's 1,000 classes, in the order of their sorted WordNet ids"
        note(Note(data.path, "has labels without names", taken))
    if all(one in labels.imagenet() for one in data.classes):
        data = replace(data, classes=human(data.classes))
    data = replace(data, classes=labels.distinct(data.classes))
    if told or whole:
        return replace(data, notes=notes)
    if set(data.splits) == {"train"}:
        data = _hold_out(data)
    _check(data, tell)
    return replace(data, notes=[*notes, *lacking(data)])


def _layout(path: str | Path) -> tuple[Layout, str | Path]:
    """What DATA is, and DATA as that takes it: a path, or a name that is none."""
    name, root = str(path), Path(path)
    if not _exists(root):
        layout = next((one for one in layouts() if one.is_name(name)), None)
        if layout is None:
            raise AlexNetError(f"DATA {name} does not exist; give {expected()}.")
        return layout, name
    if root.is_dir():
        _check_folder(root)
    layout = next((one for one in layouts() if one.recognises(root)), None)
    if layout is None:
        here = advice(root)
        if here:
            raise AlexNetError(f"DATA {name} is not read as it is ({here}).")
        raise AlexNetError(f"DATA {name} is none of the known layouts; give {expected()}.")
    return layout, root


def _exists(root: Path) -> bool:
    try:
        os.stat(root)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise AlexNetError(
            f"DATA {root} cannot be looked at ({error.strerror}); see to its place and permissions."
        ) from None
    return True


def _check_folder(root: Path) -> None:
    try:
        there = [one for one in os.listdir(root) if not one.startswith(".")]
    except OSError as error:
        raise AlexNetError(
            f"DATA {root} cannot be listed ({error.strerror}); give a folder that you may read."
        ) from None
    if not there:
        raise AlexNetError(f"DATA {root} is an empty folder; give {expected()}.")


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
        tell(Fault(data.path, what, f"a classifier needs two or more ({WHOLE}): give {expected()}"))
    for name, split in data.splits.items():
        if not len(split) and data.whole is not None and len(data.whole):
            what = "has one picture of each class, of which none can be held out"
            tell(Fault(data.path, what, f"give two or more of each ({WHOLE})"))
        elif not len(split):
            tell(Fault(data.path, f"has no pictures in its split {name}", f"give {expected()}"))
    seen = {name: set(np.unique(split.labels).tolist()) for name, split in data.splits.items()}
    for name in seen:
        if extra := seen[name] - seen.get("train", seen[name]):
            what = f"has other classes in {name} than in train ({data.names(extra)} only in {name})"
            tell(Fault(data.path, what, "give pictures of every class to both"))


WHOLE = "alexnet evaluate takes it as it is by --split all"
