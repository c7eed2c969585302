"""Which of DATA's pictures are held out: a share or a fold of each class, a function of names alone and of no order.

Of a share, those of the class' own files; of a fold, also how many pictures the classes before it have, for each class
goes on where the one before ended, so that folds are even.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.data.dataset import Data, Split, joined, lacking
from alexnet.data.identity import digest


@dataclass(frozen=True)
class HeldOut:
    """A share `valid` of each class, or the fold number `fold` of `folds`; as it stands, what DATA itself holds out."""

    valid: float = 0.0
    folds: int = 0
    fold: int = 1

    def checked(self) -> HeldOut:
        """Itself, if its values go together."""
        if self.valid and self.folds:
            raise AlexNetError(f"valid = {self.valid:g} and folds = {self.folds} were given; give one of them.")
        if self.folds == 1:
            raise AlexNetError("folds was given 1; it takes 2 or more, of which one is held out.")
        if self.fold > max(1, self.folds):
            many = f"of {self.folds} folds" if self.folds else "without a number of folds"
            raise AlexNetError(f"fold was given {self.fold} {many}; give folds, and a fold from 1 to that number.")
        return self


def recipe_held_out(recipe: Any) -> HeldOut:
    """What a recipe holds out."""
    return HeldOut(recipe.valid, recipe.folds, recipe.fold).checked()


def divided(data: Data, held: HeldOut) -> Data:
    """DATA with other pictures held out: of all of them where none stood apart, else of those to train on.

    Those that stood apart for validation are then the split `test`; where there is one already, they are divided with
    those to train on. A class keeps one picture at least to be trained on.
    """
    if held == HeldOut():
        return data
    base = data.whole or data.splits.get("train")
    if base is not None and {"valid", "test"} <= set(data.splits):
        base = joined({name: data.splits[name] for name in ("train", "valid")})
    if base is None or not len(base):
        raise AlexNetError(f"{data.path} has no pictures to train on, so none can be held out of them; leave it out.")
    out = np.zeros(len(base), bool)
    place = 0
    for label in np.unique(base.labels):
        rows = _by_name(base, np.flatnonzero(base.labels == label))
        if held.folds:
            chosen = (place + np.arange(len(rows))) % held.folds == held.fold - 1
            place += len(rows)
        else:
            chosen = np.arange(len(rows)) < max(1, round(len(rows) * held.valid))
        chosen[-1] &= not chosen.all()
        out[rows[chosen]] = True
    if not out.any():
        raise AlexNetError(
            f"{data.path} has too few pictures for any to be held out, as each class keeps one to be trained on; give "
            "more pictures, or fewer folds."
        )
    kept, what = np.flatnonzero(~out), f"a share of {held.valid:g}"
    if held.folds:
        what = f"fold {held.fold} of {held.folds}"
    splits = {
        "train": base.take(kept, f"the rest of {base.origin}"),
        "valid": base.take(np.flatnonzero(out), f"{what} of {base.origin}"),
    }
    apart = data.splits.get("test", data.splits.get("valid") if data.whole is None else None)
    if apart is not None:
        splits["test"] = apart
    chosen = replace(data, splits=splits, whole=None)
    untrue = lacking(data)
    return replace(chosen, notes=[note for note in data.notes if note not in untrue] + lacking(chosen))


def _by_name(split: Split, rows: np.ndarray) -> np.ndarray:
    """The rows in an order that their names alone decide."""
    names = [split.name(row).encode("utf-8", "surrogateescape") for row in rows.tolist()]
    return rows[sorted(range(len(rows)), key=lambda i: (hashlib.sha256(names[i]).digest(), names[i], i))]


def counts(data: Data) -> dict[str, list[int]]:
    """Pictures of each class, in train and valid."""
    classes = len(data.classes)
    return {
        name: np.bincount(data.splits[name].labels, minlength=classes).tolist()
        for name in ("train", "valid")
        if name in data.splits
    }


def recorded(trained: Mapping[str, Any]) -> tuple[HeldOut, str] | None:
    """What a network's training held out, and the digest of its data, from the facts in its file; None without."""
    keys = {"valid": float, "folds": int, "fold": int, "digest": str}
    if not all(isinstance(trained.get(key), kind) for key, kind in keys.items()):
        return None
    held = HeldOut(trained["valid"], trained["folds"], trained["fold"])
    return (held, trained["digest"]) if 0 <= held.valid < 1 and held.folds >= 0 and held.fold >= 1 else None


def as_trained(data: Data, trained: Mapping[str, Any]) -> Data | None:
    """DATA with those pictures held out that a network's training held out; None where it trained on other data."""
    known = recorded(trained)
    if known is None:
        return None
    if digest(data) == known[1]:  # they are held out already
        return data
    try:
        there = divided(data, known[0])
    except AlexNetError:
        return None
    return there if digest(there) == known[1] else None
