"""A function that lists itself as a picture of a run is drawn when one has ended; None leaves no file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from alexnet.training import plots


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
