"""The first thing that a newcomer runs."""

from __future__ import annotations

import re

import pytest

from alexnet.base import run_files
from alexnet.networks.variants import VARIANTS
from alexnet.training import demo
from alexnet.training.loop import train
from narrow import narrow


@pytest.mark.draws
@pytest.mark.parametrize("learns", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_demo_reads_held_out_digits_and_leaves_its_run(alexnet, tmp_path, monkeypatch, learns):
    """A quarter of its epochs has it read nine of ten; an eighth by a narrow network only takes the same path."""
    monkeypatch.chdir(tmp_path)
    if not learns:
        monkeypatch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
    sets = ["epochs=3"] if learns else ["max_steps=67"]
    monkeypatch.setattr(demo, "train", lambda *given, **more: train(*given, sets=sets, **more))
    status, out, err = alexnet("demo")
    assert status == 0
    right = re.search(r"held-out digits: ([\d.]+) % right of 359", out)
    assert right
    assert not learns or float(right[1]) >= 90
    assert len(re.findall(r"^ +[\d.]+ %  \d  ", out, re.MULTILINE)) == 15  # three digits, five classes each
    assert ("epoch 3/3" if learns else "epoch 1/12") in err
    photographs = out[out.index("scikit-learn's two photographs") :]
    assert all(f"\n  {name}.jpg\n" in photographs for name in ("china", "flower"))
    assert len(re.findall(r"^ +[\d.]+ %  [A-Za-z]", photographs, re.MULTILINE)) == 10
    for name in (run_files.LAST, run_files.METRICS, "curves.png", "filters.png"):
        assert (tmp_path / "runs" / "demo" / name).stat().st_size > 1000


def test_a_second_demo_takes_the_next_free_folder(tmp_path, monkeypatch):
    from alexnet.training.demo import _free_folder

    monkeypatch.chdir(tmp_path)
    assert _free_folder() == "runs/demo"
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo-2").mkdir()
    assert _free_folder() == "runs/demo-3"


def test_a_demo_into_a_folder_that_holds_a_run_says_what_the_demo_takes(refused, tmp_path):
    (tmp_path / run_files.LAST).write_bytes(b"")
    assert refused("demo", "--out", tmp_path).endswith(
        f"--out {tmp_path} already holds a run; give another folder, or leave --out out."
    )
