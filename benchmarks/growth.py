"""Time and memory of a step and of the loader against batch size, picture size and data set size, with their laws.

python benchmarks/growth.py batch|input|data [--variant alexnet2012] [--largest 1024]

Each row of `batch` and `input` is a process of its own; memory is the most that it held, less what a process holds
that has built the network. The law is the slope between the last two rows on logarithmic axes: 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from alexnet.data.loader import epoch_order
from alexnet.training import bench


def peak() -> float:
    """The most memory that this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(sets: list[str]) -> tuple[float, float]:
    """Seconds a step and MB above what was held before the first."""
    with bench.prepared(sets, "cpu", pictures=8) as run:
        size = run.recipe.batch_size
        pixels = torch.randint(0, 256, (size, run.preprocess.stored, run.preprocess.stored, 3), dtype=torch.uint8)
        labels = torch.zeros(size, dtype=torch.int64)
        before = peak()
        batch = bench.Batch(pixels.permute(0, 3, 1, 2), labels, np.arange(size), size)
        return bench.seconds(lambda: bench.train_step(run, batch), run.world.device), peak() - before


def rows(sets: list[str], key: str, values: list[int]) -> None:
    print(f"| {key} | seconds a step | MB |")
    seen: list[tuple[float, float, float]] = []
    for value in values:
        command = [sys.executable, __file__, "work", *sets, f"{key}={value}"]
        if key == "input":
            command.append(f"stored={-(-value * 8 // 7)}")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, held = map(float, done.stdout.split()[-2:])
        seen.append((value, seconds, held))
        print(f"| {value} | {seconds:.3f} | {held:,.0f} |", flush=True)
    law(seen)


def law(seen: list[tuple[float, float, float]]) -> None:
    (a, *first), (b, *last) = seen[-2:]
    slopes = [math.log(max(y, 1e-9) / max(x, 1e-9)) / math.log(b / a) for x, y in zip(first, last, strict=True)]
    print(f"slopes between the last two rows: time {slopes[0]:.2f}, memory {slopes[1]:.2f}")


def data() -> None:
    """The order of an epoch and what an index of so many pictures holds."""
    print("| pictures | seconds for an epoch's order | MB of order and labels |")
    seen: list[tuple[float, float, float]] = []
    for count in (1_000, 10_000, 100_000, 1_281_167, 15_000_000):
        began = time.perf_counter()
        positions = epoch_order(0, 0, count)
        seconds = time.perf_counter() - began
        held = (positions.nbytes + np.zeros(count, np.int64).nbytes + np.zeros(count, bool).nbytes) / 1e6
        seen.append((count, seconds, held))
        print(f"| {count:,} | {seconds:.4f} | {held:,.2f} |")
    law(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["batch", "input", "data", "work"])
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--variant", default="alexnet2012")
    parser.add_argument("--largest", type=int, default=1024)
    given = parser.parse_args()
    if given.what == "work":
        print(*work(given.sets))
    elif given.what == "batch":
        sizes = [size for size in (1, 4, 16, 64, 256, 1024) if size <= given.largest]
        rows([f"variant={given.variant}"], "batch_size", sizes)
    elif given.what == "input":
        from alexnet.networks.shapes import sizes as able
        from alexnet.networks.variants import variant

        span = able(variant(given.variant))
        rows(
            [f"variant={given.variant}", "batch_size=64"],
            "input",
            sorted({span.start, (span.start + span.stop) // 2, span.stop - 1}),
        )
    else:
        data()


if __name__ == "__main__":
    main()
