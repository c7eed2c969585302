"""A function that lists itself as a picture of a run is drawn when one has ended; None leaves no file."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from alexnet.base.run_files import METRICS
from alexnet.training import plots
from alexnet.training.plots import draw_curves


def test_what_lists_itself_is_drawn_into_the_runs_folder_told_the_epoch_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PICTURES", {})

    @plots.picture("black.png")
    def draw_black(run, kept):
        return Figure(figsize=(run.inches, kept), facecolor="black")

    @plots.picture("none.png")
    def draw_nothing(run, kept):
        return None

    plots.save_all(SimpleNamespace(folder=tmp_path, inches=2), 3)
    assert [file.name for file in tmp_path.iterdir()] == ["black.png"]
    with Image.open(tmp_path / "black.png") as picture:
        assert picture.size == (2 * 130, 3 * 130)
        assert not np.asarray(picture.convert("RGB")).any()


def test_the_kept_epoch_is_marked_where_its_line_is_there(tmp_path):
    """It is not after metrics.jsonl was moved away, or its last lines were lost."""
    errors = {f"{split}_{what}": 0.5 for split in ("train", "valid") for what in ("loss", "top1_error")}
    step = {"kind": "step", "step": 1, "epoch": 1.0, "loss": 2.0, "top1_error": 0.5}
    epoch = {"kind": "epoch", "step": 1, "epoch": 2, "valid_top5_error": None, **errors}
    (tmp_path / METRICS).write_text(f"{json.dumps(step)}\n{json.dumps(epoch)}\n")
    for kept, marks in ((2, ["weights kept: epoch 2, 50.00 %"]), (1, [])):
        figure = draw_curves(SimpleNamespace(folder=tmp_path), kept)
        labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
        assert [label for label in labels if "kept" in label] == marks
