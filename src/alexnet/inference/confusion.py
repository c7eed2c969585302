"""What a net takes each class and each picture for: counted while evaluating, and written as tables and a picture."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet.base import tables
from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new, write_bytes, write_whole
from alexnet.base.text import counted, printable

MOST = 10_000  # classes of which every pair can be counted
ANSWERS = 5  # of a picture, in its table
SPOOL = 1 << 24  # bytes of them that are kept in memory


class Answers(NamedTuple):
    """Of a batch's pictures, on the CPU: rows and labels (n,), their labels' probabilities, the first answers and
    theirs (n, 5)."""

    rows: Tensor
    labels: Tensor
    own: Tensor
    top: Tensor
    values: Tensor


class Tally:
    """Counts by class: `counts` int64 (4, classes) are pictures, answers, right ones, and labels among the first five.

    With `pairs` `confusion` too, int64 (labels, answers); with `pictures` each picture's answers.
    """

    def __init__(self, classes: list[str], pairs: bool = False, pictures: bool = False) -> None:
        if pairs:
            check_pairs(classes)
        self.classes = classes
        self.counts = torch.zeros(4, len(classes), dtype=torch.int64)
        self.confusion = torch.zeros(len(classes), len(classes) if pairs else 0, dtype=torch.int64)
        # Of every picture, so that they take no memory.
        self._answers = tempfile.SpooledTemporaryFile(SPOOL) if pictures else None  # noqa: SIM115, lives as long

    def add(self, answers: Answers) -> None:
        """Count a batch."""
        if self._answers is not None:
            for values in answers:
                np.save(self._answers, values.numpy())
        _, labels, _, top, _ = answers
        hit, count = top == labels[:, None], len(self.classes)
        for line, some in zip(self.counts, (labels, top[:, 0], labels[hit[:, 0]], labels[hit.any(1)]), strict=True):
            line += torch.bincount(some, minlength=count)
        if self.confusion.numel():
            pairs = labels * count + top[:, 0]
            self.confusion.view(-1).index_add_(0, pairs, torch.ones_like(pairs))

    def write_classes(self, file: Path) -> None:
        """A row a class: its pictures and answers, its errors, precision, recall and F1; empty where there is none."""
        few = len(self.classes) <= ANSWERS
        columns = {
            "label": str, "images": int, "answers": int, "top1_error": float, "top5_error": float, "precision": float,
            "recall": float, "f1": float,
        }  # fmt: skip
        rows = (
            (
                name, n, given, _share(n - hit, n), None if few else _share(n - five, n), _share(hit, given),
                _share(hit, n), _share(2 * hit, n + given),
            )
            for name, n, given, hit, five in zip(self.classes, *self.counts.tolist(), strict=True)
        )  # fmt: skip
        tables.write(file, columns, rows)

    def write_confusion(self, file: Path) -> None:
        """The matrix, labels down, answers across: .csv, .npy (int64) or, as a picture, .png."""
        MATRICES[file.suffix](file, self.confusion.numpy(), self.classes)

    def write_pictures(self, file: Path, name: Callable[[int], str]) -> None:
        """A row a readable picture, in order: file, its class and that one's probability, the five first answers."""
        places = min(ANSWERS, len(self.classes))
        columns: dict[str, type] = {"file": str, "truth": str, "truth_probability": float}
        for place in range(1, places + 1):
            columns |= {f"label{place}": str, f"probability{place}": float}
        tables.write(file, columns, self._pictures(name))

    def worst(self, count: int) -> list[tuple[int, int, int, float, float]]:
        """The mistakes that the network is surest of: row of the split, label, answer, its probability, the label's."""
        found: list[tuple[int, int, int, float, float]] = []
        for rows, labels, own, top, values in self._batches():
            columns = (rows, labels, top[:, 0], values[:, 0], own)
            wrong = top[:, 0] != labels
            found += zip(*(column[wrong].tolist() for column in columns), strict=True)
            found = sorted(found, key=lambda one: -one[3])[:count]
        return found

    def _batches(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The answers, in order."""
        if self._answers is None:
            return
        end = self._answers.seek(0, os.SEEK_END)
        self._answers.seek(0)
        while self._answers.tell() < end:
            yield tuple(np.load(self._answers) for _ in Answers._fields)

    def __del__(self) -> None:
        if answers := getattr(self, "_answers", None):
            answers.close()

    def _pictures(self, name: Callable[[int], str]) -> Iterator[Sequence[Any]]:
        for batch in self._batches():
            for row, label, probability, places, five in zip(*(column.tolist() for column in batch), strict=True):
                answers = [x for i, p in zip(places, five, strict=True) for x in (self.classes[i], tables.seven(p))]
                yield name(row), self.classes[label], tables.seven(probability), *answers


def answers(log_probabilities: Tensor, labels: Tensor, rows: np.ndarray) -> Answers:
    """What a batch is answered: (n, classes) and (n,), of the pictures `rows` of the split."""
    values, top = (x.cpu() for x in log_probabilities.topk(min(ANSWERS, log_probabilities.shape[1]), dim=1))
    own = log_probabilities.gather(1, labels[:, None])[:, 0].cpu()
    return Answers(torch.from_numpy(rows), labels.cpu(), own.exp(), top, values.exp())


def check_pairs(classes: list[str]) -> None:
    """Refuse a confusion matrix that no memory holds."""
    if len(classes) > MOST:
        raise AlexNetError(
            f"a confusion matrix of {counted(len(classes), 'class')} is too large, up to {MOST:,} can be counted; "
            "leave it out, --per-class counts each class."
        )


def check_outputs(
    per_class: str | Path | None, confusion: str | Path | None, pictures: str | Path | None = None
) -> None:
    """Refuse files of other kinds, and those that exist, before any work."""
    given = (
        ("--per-class", per_class, tables.WRITERS),
        ("--confusion", confusion, MATRICES),
        ("--pictures", pictures, tables.WRITERS),
    )
    taken: dict[str, str] = {}
    for option, file, suffixes in given:
        if file:
            if other := taken.setdefault(os.path.abspath(file), option).removeprefix(option):
                raise AlexNetError(f"{other} and {option} were both given {file}; give each a file of its own.")
            check_new(option, Path(file), suffixes)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


NAMED, COUNTED = 40, 20  # classes whose names, whose counts fit into a confusion matrix


PIXELS = 3  # of a confusion matrix' cell, at least
DRAWN = 1000  # cells each way


def draw_confusion(matrix: np.ndarray, classes: list[str]) -> bytes:
    """A confusion matrix (labels, answers) as a PNG: shares of each row as colours, names and counts where they fit."""
    from matplotlib.figure import Figure

    count = len(classes)
    if count > DRAWN:  # neighbouring classes share a cell: a picture with a cell of each would take gigabytes
        first = np.arange(0, count, -(-count // DRAWN))
        matrix = np.add.reduceat(np.add.reduceat(matrix, first, 0), first, 1)
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    side = 2.5 + min(8.0, 0.32 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    ends = (-0.5, count - 0.5)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", extent=(*ends, *ends[::-1]))
    axes.set(xlabel="answer", ylabel="class")
    if count <= NAMED:
        names = [printable(name) for name in classes]
        short = [name if len(name) < 24 else name[:22] + "…" for name in names]
        axes.set_xticks(range(count), short, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(count), short, fontsize=8, parse_math=False)
    if count <= COUNTED:
        for y, x in np.argwhere(matrix):
            colour = "white" if shares[y, x] > 0.5 else "black"
            axes.text(x, y, f"{matrix[y, x]}", ha="center", va="center", fontsize=7, color=colour)
    file = io.BytesIO()
    with warnings.catch_warnings():  # a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="png", dpi=max(110, PIXELS * len(matrix) / min(8.0, 0.32 * count)))
    return file.getvalue()


def _csv(file: Path, matrix: np.ndarray, classes: list[str]) -> None:
    rows = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    tables.write_lists(file, ["label", *classes], rows)


MATRICES: Mapping[str, Callable[[Path, np.ndarray, list[str]], None]] = {
    ".csv": _csv,
    ".npy": lambda file, matrix, classes: write_whole(file, lambda out: np.save(out, matrix)),
    ".png": lambda file, matrix, classes: write_bytes(file, draw_confusion(matrix, classes)),
}
