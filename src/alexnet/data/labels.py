"""The 1,000 classes of ILSVRC-2012: WordNet ids and names, in the order of the sorted ids (facts.md 10, 11 no. 29).

And how names of any kind can be shown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from alexnet.base.errors import AlexNetError


def _lines(name: str) -> list[str]:
    text = (resources.files("alexnet") / "data" / name).read_text("utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


@cache
def _rows() -> list[list[str]]:
    return [line.split("\t") for line in _lines("imagenet.tsv")]


@cache
def validation() -> list[int]:
    """Class indices of ILSVRC2012_val_00000001 … 00050000."""
    digits = "".join(_lines("imagenet_validation.txt"))
    return [int(digits[i : i + 2], 36) for i in range(0, len(digits), 2)]


@cache
def devkit() -> dict[int, str]:
    """Number in the challenge's development kit, 1 to 1,000 -> WordNet id; the author's labels are these, less 1."""
    return {int(number): wordnet for wordnet, number, _ in _rows()}


@cache
def imagenet() -> dict[str, str]:
    """WordNet id -> name, 1,000 of them; the position is the class index of torchvision, Caffe and class folders."""
    return {wordnet: name for wordnet, _, name in _rows()}


def names(count: int) -> list[str]:
    """Names for weights that carry none: ImageNet's for 1,000 classes, else numbers."""
    return list(imagenet().values()) if count == 1000 else [str(n) for n in range(count)]


def challenge_names(count: int) -> list[str]:
    """Names for weights whose labels are the challenge's numbers less 1, as cuda-convnet's are (docs/facts.md 5.6)."""
    return [imagenet()[devkit()[n + 1]] for n in range(count)] if count == 1000 else names(count)


def are_imagenet(classes: list[str]) -> bool:
    """Whether these are the 1,000 classes of ILSVRC-2012, by name or by WordNet id."""
    return classes in (list(imagenet().values()), list(imagenet()))


def _word(name: str) -> str:
    """The first of several words for a class: tench of `tench, Tinca tinca`, great white shark of great_white_shark."""
    return name.split(",")[0].replace("_", " ").strip()


def distinct(classes: Sequence[str]) -> list[str]:
    """Names of which none stands twice: ImageNet's own for lists of its 1,000 classes as others spell them, in order.

    Such lists have `crane` and `maillot` twice. Elsewhere a name that stands twice gets its index.
    """
    own, given = list(imagenet().values()), [_word(name) for name in classes]
    if len(given) == len(own):
        other = [(a, b) for a, b in zip(own, given, strict=True) if a != b]
        # The four that are named after another, or numbered.
        if len(other) <= 4 and all(b and a.split()[0] == b.split()[0].rstrip("0123456789") for a, b in other):
            return own
    counts = Counter(classes)
    return [name if counts[name] == 1 else f"{name} (class {number})" for number, name in enumerate(classes)]


def position(classes: Sequence[str]) -> dict[str, int]:
    """Index of each class by name; where all are ImageNet's, by WordNet ids and by names, whichever they were given."""
    index = {name: number for number, name in enumerate(distinct(classes))}
    other = imagenet() | {name: wordnet for wordnet, name in imagenet().items()}
    known = [name if name in other else _word(name) for name in index]
    if all(name in other for name in known) and len(set(known)) == len(known):
        index |= {one: number for number, name in enumerate(known) for one in (name, other[name])}
    return index


def wordnet(classes: Sequence[str]) -> list[str | None]:
    """The WordNet id of each class, where all are called by ids or by ImageNet's names; else None."""
    ids = {name: one for one, name in imagenet().items()}
    own = [name if re.fullmatch(r"n\d{8}", name) else None for name in classes]
    known = [one or ids.get(name) or ids.get(_word(name)) for one, name in zip(own, distinct(classes), strict=True)]
    return known if all(known) else [None] * len(classes)


def places(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Where each of some names stands among a network's classes, by either naming; -1 where it is none of them."""
    index, given = position(classes), distinct(names)
    found = [index.get(name, -1) for name in given]
    if len(index) > len(classes):  # all are ImageNet's
        found = [n if n >= 0 else index.get(_word(name), -1) for n, name in zip(found, given, strict=True)]
    counts = Counter(found)
    return [n if counts[n] == 1 else -1 for n in found]


def reordered(first: list[str], second: list[str]) -> list[int] | None:
    """Where each class of a network stands among another's; None where the order is one, or the classes are others."""
    found = places(first, second)
    return found if sorted(found) == list(range(len(second))) != found else None


def read(file: Path) -> list[str]:
    """Names of classes in a file: one a line, or JSON, a list or an object from numbers."""
    try:
        text = file.read_text("utf-8-sig")
        if text.lstrip()[:1] in ("[", "{"):
            found = json.loads(text)
            if isinstance(found, dict):
                found = [found[str(number)] for number in range(len(found))]
            # torchvision's and Keras' lists of ImageNet have [WordNet id, name].
            lines = [str(one[-1] if isinstance(one, list) else one) for one in found]
        else:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise AlexNetError(
            f"--classes {file} cannot be read ({why!s:.100}); give a file with a name a line, in the order of the "
            "model's outputs, or the word imagefolder or numeric."
        ) from None
    if not lines:
        raise AlexNetError(f"--classes {file} is empty; give a name a line, in the order of the model's outputs.")
    return distinct(lines)
