"""The 1,000 classes of ILSVRC-2012: WordNet ids and names, in the order of the sorted ids (spec 10, 11 no. 29)."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def _rows() -> list[list[str]]:
    text = (resources.files("alexnet") / "data" / "imagenet.tsv").read_text("utf-8")
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


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
    """Names for weights whose labels are the challenge's numbers less 1, as cuda-convnet's are (spec 5.6)."""
    return [imagenet()[devkit()[n + 1]] for n in range(count)] if count == 1000 else names(count)


def position(classes: list[str]) -> dict[str, int]:
    """Index of each class by name, and by WordNet id too where the names are ImageNet's."""
    index = {name: number for number, name in enumerate(classes)}
    if classes == list(imagenet().values()):
        index |= {wordnet: number for number, wordnet in enumerate(imagenet())}
    return index
