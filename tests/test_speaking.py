"""One sentence of an error, whoever of the processes meets it, and however early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from platform import node

import pytest

from alexnet.base import speaking

SELF = f"process 1 of 2, on {node()}: no"
FIRST_LATE = """
import os, sys, time
from alexnet.cli import run
time.sleep(3 if os.environ["RANK"] == "0" else 0)
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("rank", "torchrun", "known", "ended", "said"),
    [
        (0, True, {}, False, "no"),
        (0, False, {"agreed": True}, False, "no"),
        (1, False, {}, False, SELF),
        (1, False, {"agreed": True}, False, ""),
        (1, True, {}, False, SELF),  # the first has not met it: perhaps it waits for this one
        (1, True, {}, True, ""),  # the first has said it
        (1, True, {"agreed": True}, False, ""),
        (1, True, {"lost": True}, False, "no"),
    ],
)
def test_who_says_an_error(monkeypatch, rank, torchrun, known, ended, said):
    monkeypatch.setattr(speaking, "PATIENCE", 20 if ended else 0.05)
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2} | ({"TORCHELASTIC_RUN_ID": "x"} if torchrun else {})
    for name, value in facts.items():
        monkeypatch.setenv(name, str(value))
    end = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    if ended:
        end.start()
    try:
        assert speaking.told("no", **known) == said
    finally:
        end.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("recipes", "nosuch"), ("train", "--nosuch")])
def test_torchrun_does_not_end_the_first_before_it_has_spoken(tmp_path, words):
    script = tmp_path / "script.py"
    script.write_text(FIRST_LATE)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    ran = subprocess.run([*start, *words], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert ran.stderr.count("alexnet: ") == 1, ran.stderr
    assert "alexnet: process" not in ran.stderr
    assert ran.stderr.count("Usage: ") == ("--nosuch" in words)
