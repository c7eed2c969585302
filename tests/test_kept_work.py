"""Benchmarks that keep what they made: it answers for the same settings, data and models alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data
from alexnet.training import loop
from conftest import TINY, coloured, write_folders

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A benchmark by its name; `call` runs it with words."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def call(name: str, *words: object):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        __import__(name).main()

    return call


def test_ways_of_training_are_kept_by_their_settings_and_data(benchmark, folders, tmp_path, monkeypatch):
    words = ["--recipe", "author_2012", *(word for one in TINY for word in ("--set", one)), "--set", "max_steps=1"]
    words += ["--device", "cpu", "--arm", "as it is"]
    steps: list[int] = []
    step = loop._step
    monkeypatch.setattr(loop, "_step", lambda *given: steps.append(1) or step(*given))
    longer, smoother = ("--set", "max_steps=2"), ("--set", "label_smoothing=0.1")
    for added, expected in ((), 1), ((), 0), (longer, 2), (smoother, 1), ((), 0):
        steps.clear()
        benchmark("arms", folders, tmp_path / "out", *words, *added)
        assert len(steps) == expected, added
    other = write_folders(tmp_path / "other", 7)
    with pytest.raises(AlexNetError, match="give the data that it was started with"):
        benchmark("arms", other, tmp_path / "out", *words)


@pytest.fixture
def transferred(benchmark, tmp_path, monkeypatch):
    """benchmarks/transfer.py without its trainings: calls it, and gives the folders that it would train in."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import transfer

    folders: list[str] = []
    monkeypatch.setattr(transfer, "PASSES", {2: 1})
    monkeypatch.setattr(transfer, "draw", lambda *given: None)
    monkeypatch.setattr(transfer, "learned", lambda m, d, w, e, folder, device: folders.append(folder.name))
    asked = lambda folder, data, device: SimpleNamespace(images=len(data.split("valid")), top1_error=0.5)  # noqa: E731
    monkeypatch.setattr(transfer, "evaluate", asked)

    def call(model: str, *words: object) -> list[str]:
        folders.clear()
        benchmark("transfer", model, tmp_path / "out", *words, "--each", 2)
        return list(folders)

    return call


def test_what_transfer_has_measured_is_of_the_same_model_data_and_test_pictures(transferred, tmp_path):
    def lines() -> list[dict]:
        return [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]

    data = write_folders(tmp_path / "few" / "train", 4).parent
    write_folders(data / "val", 3, first=100)
    first = transferred("models/a", data, "--test", 2)
    assert len(first) == len(lines()) == 3
    assert transferred("models/a", data, "--test", 2) == []
    assert transferred("models/a", data, "--test", 1) == first
    assert [one["test_pictures"] for one in lines()] == [3, 3, 3]
    others = transferred("models/b", data, "--test", 1)
    assert len(set(first + others)) == len(lines()) == 6
    kept = [{key: value for key, value in one.items() if key != "identity"} for one in lines()]  # as lines were once
    (tmp_path / "out" / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kept))
    assert transferred("models/b", data, "--test", 1) == []
    assert transferred("models/a", data, "--test", 3) == first
    coloured("red", 9).save(data / "train" / "red" / "another.png")
    assert transferred("models/a", data, "--test", 3) == first
    assert len(lines()) == 6
    with pytest.raises(SystemExit):
        transferred("models/a", data, write_folders(tmp_path / "x" / "few", 4), "--test", 3)


def test_packs_of_two_qualities_are_kept_for_one_data_set_and_one_version(benchmark, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import quality

    monkeypatch.setattr(quality, "make_packs", lambda *given: {"raw": Path(), "jpeg": Path()})
    monkeypatch.setattr(quality, "psnr", lambda raw, jpeg: 0.0)
    monkeypatch.setattr(quality, "conclude", lambda errors: None)
    words = [tmp_path / "out", "--seeds", 0]
    benchmark("quality", tmp_path / "data", *words)
    benchmark("quality", tmp_path / "data", *words)
    with pytest.raises(SystemExit, match="holds runs with"):
        benchmark("quality", tmp_path / "others", *words)
    monkeypatch.setattr(quality, "version", lambda package: "0")
    with pytest.raises(SystemExit, match="or another folder"):
        benchmark("quality", tmp_path / "data", *words)


def test_fewer_pictures_to_pack_are_not_packed_with_those_of_before(benchmark, tmp_path):
    data = write_folders(tmp_path / "data", 2)
    for count in (30, 20):
        benchmark("data", "inputs", data, tmp_path / "made", "--pictures", count)
    packed = {name: len(split) for name, split in find_data(tmp_path / "made" / "jpeg").splits.items()}
    assert sum(packed.values()) == 20
    for name, expected in ("full", 20), ("small", packed["train"]):
        assert len(list((tmp_path / "made" / name).rglob("*.jpg"))) == expected, name
