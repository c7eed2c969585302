"""The whole training step of alexnet2012 on a CPU against the same net from stock layers, in turns, as ratios.

python benchmarks/step.py bfloat16|memory|float32|evaluation|small [--rounds 3] [--batch-size 128] [--json FILE]

Every contender runs in a process of its own, as a user's script would, one after the other, `rounds` times over; its
figure is the median over rounds of the median of its steps, its spread the lowest and the highest round. Ours is the
training loop's own step, with augmentation; a peer gets its batch ready as floats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from alexnet.networks import fast
from alexnet.training import bench

NONORM = "variant=alexnet2012_nonorm"
GROUPS = {  # contender: its arguments; the first is what the others are compared with
    "bfloat16": {
        "stock, channels_last": "stock bfloat16 channels_last",
        "stock, NCHW": "stock bfloat16 contiguous",
        "alexnet2012": "ours precision=bfloat16",
        "alexnet2012_nonorm": f"ours precision=bfloat16 {NONORM}",
        "alexnet2012 without a compiler": "hidden precision=bfloat16",
    },
    "memory": {  # how much of it is memory that is not given back, which a stock script could have too
        "stock": "stock bfloat16 channels_last",
        "stock that keeps its memory": "stock bfloat16 channels_last kept",
        "alexnet2012": "ours precision=bfloat16",
    },
    "float32": {
        "stock, channels_last": "stock float32 channels_last",
        "stock, NCHW": "stock float32 contiguous",
        "alexnet2012": "ours precision=float32",
        "alexnet2012_nonorm": f"ours precision=float32 {NONORM}",
    },
    "evaluation": {
        "alexnet2012_nonorm, float32": f"evaluate precision=float32 {NONORM}",
        "alexnet2012, float32": "evaluate precision=float32",
        "alexnet2012_nonorm, bfloat16": f"evaluate precision=bfloat16 {NONORM}",
        "alexnet2012, bfloat16": "evaluate precision=bfloat16",
    },
    "small": {
        "alexnet32, plain forms": "plain precision=bfloat16 variant=alexnet32",
        "alexnet32": "ours precision=bfloat16 variant=alexnet32",
    },
}


def work(kind: str, words: list[str], batch_size: int) -> float:
    """Seconds a batch of one contender, in this process."""
    cpu = torch.device("cpu")
    if kind == "stock":
        import peers

        if "kept" in words:
            fast.keep_memory()
        step = peers.stepper(
            peers.two_towers(), "cpu", batch_size, getattr(torch, words[0]), words[1] == "channels_last"
        )
        return bench.seconds(step, cpu)
    with bench.prepared([f"batch_size={batch_size}", *words], "cpu", pictures=batch_size) as run:
        if kind == "evaluate":
            run.model.eval()
            pictures, preprocess = bench.one_batch(run).pictures, run.preprocess

            def forward() -> None:
                images = preprocess.normalise(preprocess.central(pictures)).contiguous(
                    memory_format=torch.channels_last
                )
                with torch.no_grad(), torch.autocast("cpu", run.precision, enabled=run.precision != torch.float32):
                    run.model(images)

            return bench.seconds(forward, cpu)
        batch = bench.one_batch(run)
        if kind == "plain":
            with fast.plain():
                return bench.seconds(lambda: bench.train_step(run, batch), cpu)
        return bench.seconds(lambda: bench.train_step(run, batch), cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", choices=[*GROUPS, "work"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.group == "work":
        print(work(given.words[0], given.words[1:], given.batch_size))
        return
    contenders, rates = GROUPS[given.group], {name: [] for name in GROUPS[given.group]}
    for _ in range(given.rounds):
        for name, words in contenders.items():
            environment = {**os.environ, "CXX": "hidden"} if words.startswith("hidden") else None
            command = [sys.executable, __file__, "work", *words.split(), "--batch-size", str(given.batch_size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            rates[name].append(given.batch_size / float(done.stdout.split()[-1]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians.values()))
    print(f"\n{given.group}, batch {given.batch_size}, {given.rounds} rounds, {machine()}")
    for name, rate in medians.items():
        low, high = min(rates[name]), max(rates[name])
        print(f"| {name} | {rate:,.1f} images/s | {low:,.1f} to {high:,.1f} | {rate / first:.2f} x |")
    if "alexnet2012_nonorm" in medians:
        share = 1 - medians["alexnet2012"] / medians["alexnet2012_nonorm"]
        print(f"all normalisations together: {100 * share:.1f} % of the step")
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "batch_size": given.batch_size, "rates": rates}))


def machine() -> str:
    return f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
