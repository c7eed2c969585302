"""benchmarks/transfer.py: three ways to learn from few pictures, each measured once."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from alexnet.base.errors import AlexNetError
from alexnet.training import loop
from conftest import write_folders

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_each_way_is_measured_once_drawn_and_put_in_a_table(tmp_path, tiny_run, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import transfer

    for split, count, first in (("train", 4, 0), ("val", 3, 100)):
        write_folders(tmp_path / "few" / split, count, first=first)
    monkeypatch.setattr(transfer, "PASSES", {2: 1, 100: 1})
    words = [tiny_run, tmp_path / "out", tmp_path / "few", "--each", 2, 100, "--test", 2, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["transfer.py", *map(str, words)])
    transfer.main()
    lines = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [(one["way"], one["each"], one["test_pictures"]) for one in lines] == [(way, 2, 6) for way in transfer.WAYS]
    assert all(0 <= one["top1_error"] <= 1 for one in lines)
    table = (tmp_path / "out" / "README.md").read_text()
    assert all(f"| few | 2 | {way} |" in table for way in transfer.WAYS)
    assert (tmp_path / "out" / "figure.png").stat().st_size > 5000
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "line", lambda *given: pytest.fail("measured again"))
        transfer.main()
    (tmp_path / "out" / "runs.jsonl").unlink()
    monkeypatch.setattr(loop, "_step", lambda *given: pytest.fail("trained again"))
    transfer.main()
    again = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [one["top1_error"] for one in again] == [one["top1_error"] for one in lines]
    (tmp_path / "elsewhere").mkdir()
    words[0] = shutil.copytree(tiny_run, tmp_path / "elsewhere" / tiny_run.name)
    monkeypatch.setattr(sys, "argv", ["transfer.py", *map(str, words)])
    with pytest.raises(AlexNetError, match="was started from MODEL"):
        transfer.main()
