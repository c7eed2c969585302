"""What a net takes each class for: errors by class and the confusion matrix, counted while evaluating, and written."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.errors import AlexNetError
from alexnet.files import write_whole

MOST = 10_000  # classes of which every pair can be counted


class Tally:
    """Counts by class: `confusion` int64 (labels, answers), and `within5` (labels,): the label among the first five."""

    def __init__(self, classes: list[str]) -> None:
        if len(classes) > MOST:
            raise AlexNetError(f"a confusion matrix of {len(classes):,} classes is too large; {MOST:,} can be counted.")
        self.classes = classes
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        self.within5 = torch.zeros(len(classes), dtype=torch.int64)

    def add(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch: (n, classes) and (n,)."""
        top = log_probabilities.topk(min(5, len(self.classes)), dim=1).indices.cpu()
        labels = labels.cpu()
        count = len(self.classes)
        pairs = torch.bincount(labels * count + top[:, 0], minlength=count * count)
        self.confusion += pairs.reshape(count, count)
        self.within5 += torch.bincount(labels[(top == labels[:, None]).any(1)], minlength=count)

    def write(self, per_class: str | Path | None, confusion: str | Path | None) -> None:
        """Write errors by class as .csv, and the matrix as .csv (labels down, answers across) or .npy (int64)."""
        if per_class:
            _write(Path(per_class), self._per_class())
        if confusion and Path(confusion).suffix == ".npy":
            matrix = self.confusion.numpy()
            write_whole(Path(confusion), lambda out: np.save(out, matrix))
        elif confusion:
            rows = zip(self.classes, self.confusion.tolist(), strict=True)
            _write(Path(confusion), [["label", *self.classes], *([name, *row] for name, row in rows)])

    def _per_class(self) -> list[list]:
        rows: list[list] = [["label", "images", "top1_error", "top5_error"]]
        counts, right = self.confusion.sum(1).tolist(), self.confusion.diag().tolist()
        for name, count, one, five in zip(self.classes, counts, right, self.within5.tolist(), strict=True):
            rows.append([name, count, *(1 - x / count if count else "" for x in (one, five))])
        return rows


def check_outputs(per_class: str | Path | None, confusion: str | Path | None) -> None:
    """Refuse files of other kinds, and those that exist, before any work."""
    for option, file, endings in (("--per-class", per_class, (".csv",)), ("--confusion", confusion, (".csv", ".npy"))):
        if file and Path(file).suffix not in endings:
            raise AlexNetError(f"{option} was given {file}; it writes {' or '.join(endings)}.")
        if file and Path(file).exists():
            raise AlexNetError(f"{option} {file} exists already; give another name, or move it away.")


def _write(file: Path, rows: list[list]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(file, lambda out: out.write(text.getvalue().encode()))
