"""A column of a table that says which rows are to train on and which to hold out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet.data.dataset import some, split_word
from alexnet.data.faults import Fault, Note, Tell

COLUMNS = ("split", "set", "subset", "partition", "fold")


def split_columns(names: Sequence[str]) -> list[str]:
    """Those that may say splits, the likeliest first."""
    return [name for known in COLUMNS for name in names if name.lower() == known]


def kinds(file: Path, column: str, values: Sequence[str], tell: Tell) -> list[str | None] | None:
    """The split of each row, train, valid or test; None for all where no value says one.

    A row that says none among others that do is a fault, and None.
    """
    known = {value: word if (word := split_word(value)) in ("train", "valid", "test") else None for value in {*values}}
    odd = sorted(value for value, word in known.items() if word is None)
    if len(odd) == len(known):
        tell(Note(file, f"has a column {column} that says no split ({some(odd)})", "it is not used"))
        return None
    if odd:
        first = next(number for number, value in enumerate(values) if known[value] is None)
        what = f"has a column {column} that says the split of some rows and {odd[0]!r} of others (the first is row "
        tell(Fault(file, f"{what}{first + 1:,})", "write train, val or test in each row"))
    return [known[value] for value in values]
