"""Which variant a file of another program is, by what its layers compute, and what --variant may say beside that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from alexnet.base.errors import AlexNetError
from alexnet.networks import variants as v
from alexnet.weights.base import note

# Of some variants the first that computes what the file's layers compute; else None, and the first difference.
Recognise = Callable[[Iterable[v.Variant]], tuple[v.Variant | None, str]]


def variant_of(file: Path, asked: str | None, recognise: Recognise) -> v.Variant:
    """The variant that the file's layers compute, or the one that was asked for.

    That one is refused where the file is another that is known here; where it is none, the difference is said.
    """
    if not asked:
        found, why = recognise(v.VARIANTS.values())
        if found is None:
            raise AlexNetError(
                f"MODEL {file} is none of the networks known here: {why}; name one with --variant (alexnet convert) if "
                "it is meant to be the same."
            )
        return found
    chosen = v.variant(asked)
    found, why = recognise([chosen])
    if found is None:
        other, _ = recognise(v.VARIANTS.values())
        if other is not None:
            raise AlexNetError(f"MODEL {file} is of {other.name}, and --variant says {asked}; leave it out.")
        note(f"{file.name} is read as {asked}, which was asked for, though {why}")
    return chosen
