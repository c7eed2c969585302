"""What a network takes for what: figures of each class, and the matrix drawn."""

from __future__ import annotations

import csv
import io
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.inference import confusion
from alexnet.inference.confusion import Tally, answers


def test_precision_recall_and_f1_are_those_of_scikit_learn(tmp_path):
    from sklearn.metrics import precision_recall_fscore_support

    source = np.random.default_rng(0)
    labels, given = source.integers(0, 6, 90), source.integers(0, 6, 90)
    labels[labels == 5] = 0  # no picture of class 5,
    given[given == 4] = 1  # and nothing taken for class 4
    scores = torch.nn.functional.one_hot(torch.from_numpy(given), 6).float() * 3
    tally = Tally([f"class {n}" for n in range(6)])
    tally.add(answers(scores.log_softmax(1), torch.from_numpy(labels), np.arange(90)))
    tally.write_classes(tmp_path / "c.csv")
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    known = precision_recall_fscore_support(labels, given, labels=range(6), zero_division=np.nan)
    for row, precision, recall, f1, images in zip(rows, *known, strict=True):
        values = [float(row[key]) if row[key] else math.nan for key in ("precision", "recall", "f1")]
        assert values == pytest.approx([precision, recall, f1], nan_ok=True)
        assert int(row["images"]) == images
    assert [int(row["answers"]) for row in rows] == np.bincount(given, minlength=6).tolist()
    assert (rows[4]["precision"], rows[5]["recall"]) == ("", "")


def test_of_very_many_classes_all_is_counted_but_pairs(tmp_path):
    names = [f"class {n}" for n in range(20_000)]
    with pytest.raises(AlexNetError, match="a confusion matrix of 20,000 classes is too large"):
        Tally(names, pairs=True)
    tally = Tally(names, pictures=True)
    tally.add(answers(torch.randn(3, 20_000).log_softmax(1), torch.tensor([5, 6, 19_999]), np.arange(3)))
    tally.write_classes(tmp_path / "c.csv")
    tally.write_pictures(tmp_path / "p.csv", str)
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [row["images"] for row in rows].count("1") == 3
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("classes", [2, 12, 130])
def test_the_confusion_matrix_is_drawn_with_names_of_any_kind(tmp_path, classes):
    odd = ["caf\udce9", "a\nb", "$x$", "<i>", "木", "a very long name indeed, and longer"]
    tally = Tally([odd[n] if n < len(odd) else f"class {n}" for n in range(classes)], pairs=True)
    tally.confusion += torch.diag(torch.arange(classes)) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tally.write_confusion(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert min(picture.size) > max(200, 2 * classes)
        assert np.unique(np.asarray(picture.convert("L"))).size > 5


def test_a_confusion_matrix_of_very_many_classes_is_drawn_by_cells_of_several(monkeypatch):
    monkeypatch.setattr(confusion, "DRAWN", 50)
    matrix = np.zeros((1000, 1000), np.int32)
    matrix[:500, :500] = 1  # the first half is taken for any of the first half
    matrix[np.arange(500, 1000), np.arange(500, 1000)] = 9
    drawn = Image.open(io.BytesIO(confusion.draw_confusion(matrix, [str(n) for n in range(1000)]))).convert("L")
    assert max(drawn.size) < 2000
    inside = np.asarray(drawn)[150:-150, 150:-150]
    middle = len(inside) // 2
    assert inside[middle + 50 :, : middle - 50].min() > 245  # of neither half in the other
    assert inside[: middle - 50, : middle - 50].mean() > inside[middle + 50 :, middle + 50 :].mean()
