"""Commands that train in processes of their own, and how far their runs have come."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from alexnet.base import run_files
from alexnet.base.metrics import read
from together import Command

SETS = [
    *("--set", "variant=alexnet32", "--set", "epochs=2", "--set", "batch_size=7", "--set", "learning_rate=0.002"),
    *("--set", "precision=float32", "--set", "log_every=1", "--set", "workers=1"),
]


def with_sets(*changes: str) -> list[str]:
    """SETS with those KEY=VALUE instead of their own, or besides."""
    by_key = {one.partition("=")[0]: one for one in (*SETS[1::2], *changes)}
    return [word for one in by_key.values() for word in ("--set", one)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "alexnet", *map(str, arguments)]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read(folder / run_files.METRICS) if line["kind"] == "step"]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen | Command) -> None:
    for _ in range(6000):
        if len(losses(folder)) >= step or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not start")
