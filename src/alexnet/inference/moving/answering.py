"""What a network sees in moving pictures: five classes a frame, and the same smoothed over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.base import tables
from alexnet.base.errors import AlexNetError, check_least
from alexnet.inference.moving.reading import Frame
from alexnet.inference.prediction import ClassProbability, probabilities, ranked
from alexnet.inference.scoring import VIEWS
from alexnet.weights.classifier import Classifier

SMOOTH = 0.5  # seconds
# Of a table: a row a frame and rank; names as in the JSON of pictures.
COLUMNS: dict[str, type] = {
    "file": str, "frame": int, "time": float, "rank": int, "label": str, "index": int, "probability": float,
    "smoothed_label": str, "smoothed_index": int, "smoothed_probability": float,
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A frame's most probable classes, by itself and smoothed, best first."""

    file: str
    frame: int
    time: float
    classes: list[ClassProbability]
    smoothed: list[ClassProbability]

    def as_json(self) -> dict[str, Any]:
        """An entry of `results`."""
        return {
            "file": self.file, "frame": self.frame, "time": tables.seven(self.time),
            "classes": [c.as_json() for c in self.classes], "smoothed": [c.as_json() for c in self.smoothed],
        }  # fmt: skip

    def rows(self) -> Iterator[list[Any]]:
        """Of a table, under COLUMNS."""
        for own, other in zip(self.classes, self.smoothed, strict=True):
            yield [
                self.file, self.frame, tables.seven(self.time), own.rank, own.label, own.index,
                tables.seven(own.probability), other.label, other.index, tables.seven(other.probability),
            ]  # fmt: skip


class Smoother:
    """Probabilities averaged over the past, which counts exp(-age / seconds): s ← s + (1 - exp(-Δt / seconds))(p - s).

    It begins with the first frame's; 0 seconds is no smoothing.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.time = 0.0
        self.value: Tensor | None = None

    def __call__(self, time: float, given: Tensor) -> Tensor:
        """The average after a frame, float64 (classes,), on the CPU."""
        given = given.cpu().double()  # Apple's GPUs have no float64
        if self.value is None or not self.seconds:
            self.value = given
        else:
            share = -math.expm1(-max(0.0, time - self.time) / self.seconds)
            self.value = self.value + share * (given - self.value)
        self.time = time
        return self.value


def answers(
    classifier: Classifier, name: str, frames: Iterable[Frame], topk: int = 5, every: int = 1, smooth: float = SMOOTH,
    batch_size: int = 16, views: int = 1, whole: bool = False,
) -> Iterator[tuple[Frame | None, Answer | None]]:  # fmt: skip
    """An entry a frame, in order, with the answer of every `every`-th, from the first; the others have None.

    `smooth` is the Smoother's seconds. `batch_size` frames are classified at a time. With `whole` the frames come too,
    and as many times `every` are held; without, None stands for each, and none is held.
    """
    for option, given, least in (
        ("every", every, 1),
        ("topk", topk, 1),
        ("batch size", batch_size, 1),
        ("smooth", smooth, 0),
    ):
        check_least(option, given, least)
    if views not in VIEWS:
        raise AlexNetError(f"views was given {views}; it takes {' or '.join(map(str, VIEWS))}.")
    smoother, waiting, pixels = Smoother(smooth), list[tuple[Frame | None, tuple[int, float] | None]](), list[Tensor]()

    def flush() -> Iterator[tuple[Frame | None, Answer | None]]:
        found = iter(probabilities(classifier, torch.stack(pixels), views) if pixels else ())
        for frame, place in waiting:
            yield frame, _answer(classifier, name, *place, next(found), smoother, topk) if place else None
        waiting.clear()
        pixels.clear()

    for count, frame in enumerate(frames):
        asked = count % every == 0
        kept = frame if whole else None
        if not asked and not waiting:
            yield kept, None
            continue
        waiting.append((kept, (frame.number, frame.time) if asked else None))
        if asked:
            pixels.append(classifier.preprocess.pixels(frame.picture))
        if len(pixels) == batch_size:
            yield from flush()
    yield from flush()


def _answer(
    classifier: Classifier, name: str, frame: int, time: float, found: Tensor, smoother: Smoother, topk: int
) -> Answer:
    smoothed = smoother(time, found)
    both = [ranked(classifier, one[None], topk)[0] for one in (found, smoothed)]
    return Answer(name, frame, time, *both)


def write_table(path: Path, found: Iterable[Answer]) -> None:
    """A row a frame and rank, under COLUMNS: .csv, .jsonl or .parquet by the name's end; whole or not at all."""
    tables.write(path, COLUMNS, (row for one in found for row in one.rows()))
