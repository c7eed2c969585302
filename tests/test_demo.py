"""The first thing that a newcomer runs."""

from __future__ import annotations

import re

from alexnet import checkpoint


def test_the_demo_reads_97_percent_of_held_out_digits_and_leaves_its_run(alexnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = alexnet("demo")
    assert status == 0
    right = re.search(r"held-out digits: ([\d.]+) % right of 359", out)
    assert right
    assert float(right[1]) >= 97
    assert len(re.findall(r"^ +[\d.]+ %  \d  ", out, re.MULTILINE)) == 15  # three digits, five classes each
    assert "left" in err or "epoch 12/12" in err
    photographs = out[out.index("scikit-learn's two photographs") :]
    assert all(f"\n  {name}.jpg\n" in photographs for name in ("china", "flower"))
    assert len(re.findall(r"^ +[\d.]+ %  [A-Za-z]", photographs, re.MULTILINE)) == 10
    for name in (checkpoint.LAST, checkpoint.METRICS, "curves.png", "filters.png"):
        assert (tmp_path / "runs" / "demo" / name).stat().st_size > 1000


def test_a_second_demo_takes_the_next_free_folder(tmp_path, monkeypatch):
    from alexnet.demo import _free_folder

    monkeypatch.chdir(tmp_path)
    assert _free_folder() == "runs/demo"
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo-2").mkdir()
    assert _free_folder() == "runs/demo-3"
