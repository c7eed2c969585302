"""kill -9 of a random worker at random moments, with torchrun's restarts on: does every run end as the run left alone?

    python benchmarks/kills.py                 # 20 kills over data, hybrid and towers
    python benchmarks/kills.py --kills 40 --seed 1

Each run is torchrun's own agent with restarts and two or three processes on the CPU, forked from one that has imported
torch (tests/elastic.py). Moments are drawn from meeting, training, evaluation and the run's pictures, counted from when
all workers are there. A kill counts when the process was there and died by it. The end is compared bit for bit:
weights, losses and every line of metrics.jsonl but for times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet.base.run_files import BEST, LAST, METRICS

ELASTIC = Path(__file__).parent.parent / "tests" / "elastic.py"
sys.path.insert(0, str(ELASTIC.parent))
WAYS = (("hybrid", 3), ("towers", 2), ("data", 3))
A_RUN = 7  # kills, at most
WINDOW = 0.3  # of the time of a run left alone, which has the agent's own start in it
SETS = (
    "variant=alexnet32", "epochs=2", "batch_size=12", "learning_rate=0.002", "precision=float32", "log_every=1",
    "workers=1", "dropout=0.5", "checkpoint_every=10", "timeout=60",
)  # fmt: skip
PICTURES = {"train": 150, "val": 30}
TIMES = ("time", "seconds", "images_per_second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=18)
    given = parser.parse_args()
    dice, left = random.Random(given.seed), given.kills
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root / "data")
        print("| way | processes | kills: of process, after s | restarts said | as the run left alone |", flush=True)
        print("| --- " * 5 + "|", flush=True)
        alone = {}
        number = 0
        while left:
            way, processes = WAYS[number % len(WAYS)]
            if way not in alone:
                began, out = time.monotonic(), root / f"alone-{way}"
                start(root / "data", out, way, processes).communicate()
                alone[way] = (out, time.monotonic() - began)
            number += 1
            row, kills = killed(
                root / "data", root / f"run{number}", way, processes, alone[way], min(left, A_RUN), dice
            )
            left -= kills
            print(row, flush=True)


def make(folder: Path) -> None:
    """Class folders of noise around a colour."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, count in PICTURES.items():
        for label in range(3):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 120, (32, 32, 3), np.uint8) + np.uint8(100) * (np.arange(3) == label)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / str(label) / f"{number}.png")


def start(data: Path, out: Path, way: str, processes: int) -> subprocess.Popen:
    words = [sys.executable, str(ELASTIC), str(processes), "30", "train", str(data), "--out", str(out)]
    words += ["--device", "cpu", *(word for one in (*SETS, f"parallel={way}") for word in ("--set", one))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with open(f"{out}.said", "w") as said:
        return subprocess.Popen(words, env=environment, stdout=said, stderr=said)


def killed(
    data: Path, out: Path, way: str, processes: int, alone: tuple[Path, float], kills: int, dice: random.Random
) -> tuple[str, int]:
    """A row of the table, and how many kills hit."""
    expected, seconds = alone
    process, told = start(data, out, way, processes), list[str]()
    for _ in range(kills):
        while process.poll() is None and len(workers(process.pid)) < processes:
            time.sleep(0.02)
        wait = dice.uniform(0, WINDOW * seconds)
        end = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        there = workers(process.pid)
        if process.poll() is not None or not there:
            break  # the run has ended first
        rank = dice.randrange(len(there))
        os.kill(there[rank], signal.SIGKILL)
        told.append(f"{rank} at {wait:.1f}")
        while process.poll() is None and set(there) & set(workers(process.pid)):
            time.sleep(0.02)
    process.wait()
    said = Path(f"{out}.said").read_text()
    restarts = said.count("torchrun has started the processes again")
    same = process.returncode == 0 and differs(expected, out) == []
    if not same:
        print(said, differs(expected, out), file=sys.stderr, flush=True)
    return f"| {way} | {processes} | {', '.join(told)} | {restarts} | {'yes' if same else 'NO'} |", len(told)


def workers(agent: int) -> list[int]:
    """The processes that the agent's fork server has started and that live, in order of their start."""
    from elastic import children

    servers = [one for one in children(agent) if b"forkserver" in Path(f"/proc/{one}/cmdline").read_bytes()]
    return sorted(one for server in servers for one in children(server))


def differs(expected: Path, found: Path) -> list[str]:
    """What of a run is not as the other's."""
    wrong = []
    for name in (LAST, BEST):
        if not (found / name).exists() or (found / name).read_bytes() != (expected / name).read_bytes():
            wrong.append(name)
    if lines(expected) != lines(found):
        wrong.append(METRICS)
    return wrong


def lines(run: Path) -> list[dict]:
    if not (run / METRICS).exists():
        return []
    rows = map(json.loads, (run / METRICS).read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


if __name__ == "__main__":
    main()
