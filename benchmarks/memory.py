"""Memory of the commands for millions of pictures: the most that a process holds, by the number of pictures.

    python benchmarks/memory.py                                  # evaluate, predict and features
    python benchmarks/memory.py --counts 10000 100000 1000000 --only predict
    python benchmarks/memory.py --counts 10000 100000 --processes 2

WebDataset shards of 10,000 pictures in 22,000 classes each, of which one is made and linked as often as needed, through
a network of two layers. Each row is a run of its own of the command line; the slope is between the last two rows.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

SHARD, CLASSES = 10_000, 22_000
COMMANDS = ("evaluate", "predict", "features")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--counts", nargs="+", type=int, default=[SHARD, 10 * SHARD, 100 * SHARD])
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make(place, max(given.counts) // SHARD)
        for command in given.only:
            print(f"| {command} | MB a process | seconds |", flush=True)
            rows: list[tuple[int, list[float]]] = []
            for count in given.counts:
                began = time.monotonic()
                held = measure(command, count, place, given.processes)
                rows.append((count, held))
                cells = " ".join(f"{one / 1e6:,.1f}" for one in held)
                print(f"| {count:,} | {cells} | {time.monotonic() - began:,.0f} |", flush=True)
            (few, first), (many, last) = rows[-2:] if len(rows) > 1 else (rows[0], rows[0])
            slopes = [(b - a) / max(1, many - few) for a, b in zip(first, last, strict=True)]
            print(f"slope: {', '.join(f'{one:,.1f}' for one in slopes)} bytes a picture", flush=True)


def make(folder: Path, shards: int) -> None:
    """The network, and the shards, all of which are one file."""
    import numpy as np
    import torch
    from PIL import Image

    from alexnet.data.preprocess import Preprocess
    from alexnet.networks.model import seeded_build
    from alexnet.weights.classifier import Classifier

    known()
    preprocess = Preprocess(16, 14, "RGB", (64.0,), torch.full((3, 1, 1), 120.0))
    names = [f"class {number}" for number in range(CLASSES)]
    model = seeded_build(0, "two_layers", CLASSES, 3, 14).eval()
    Classifier(model, preprocess, names).save(folder / "net.safetensors")
    draw, one = np.random.default_rng(0), folder / "one.tar"
    with tarfile.open(one, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(SHARD):
            file = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "BMP")
            label = str(number * 7919 % CLASSES if number else CLASSES - 1)
            for end, contents in (("bmp", file.getvalue()), ("cls", label.encode())):
                entry = tarfile.TarInfo(f"sample_{number:08}.{end}")
                entry.size = len(contents)
                archive.addfile(entry, io.BytesIO(contents))
    (folder / "shards").mkdir()
    for number in range(shards):
        os.link(one, folder / "shards" / f"val-{number:06}.tar")


def known() -> None:
    """Let the program know the network."""
    from alexnet.networks import variants as v

    layers = (
        v.Conv("conv1", 8, 5, stride=4, pad=2, std="he"), v.ReLU("relu1"), v.FC("fc7", 16, std="he"), v.ReLU("relu7"),
        v.FC("fc8", None), v.Softmax("prob"),
    )  # fmt: skip
    v.VARIANTS["two_layers"] = v.Variant("two_layers", "for this measurement", 16, 14, layers, 64.0)


def measure(command: str, count: int, folder: Path, processes: int) -> list[float]:
    """The most bytes that each process of the command has held."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(processes):
        shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "RANK": str(rank)}
        shared |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = [sys.executable, __file__, "work", command, str(count), str(folder)]
        started.append(subprocess.Popen(words, env={**os.environ, **shared}, stdout=subprocess.PIPE, text=True))
    said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        raise SystemExit(f"{command} failed")
    return [float(one.split()[-1]) for one in said]


def work(command: str, count: int, folder: Path) -> None:
    """Be the command."""
    from alexnet.cli import run

    known()
    net, out, first = folder / "net.safetensors", folder / "out", os.environ["RANK"] == "0"
    last = count // SHARD - 1
    shards = [folder / "shards" / f"val-{number:06}.tar" for number in range(last + 1)]
    pattern, table, rows = f"{folder}/shards/val-{{000000..{last:06}}}.tar", f"{out}.csv", f"{out}.npy"
    words = {
        "evaluate": ["evaluate", net, pattern, "--per-class", table],
        "predict": ["predict", net, *shards, "--output", table],
        "features": ["features", net, *shards, "--layer", "fc7", "--output", rows],
    }[command]
    with open(os.devnull, "w") as quiet, redirect_stdout(quiet):
        status = run(list(map(str, words)))
    if status:
        raise SystemExit(status)
    if first:
        for one in folder.glob("out*"):
            one.unlink()
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
