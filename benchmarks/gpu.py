"""Every GPU figure by one command: python benchmarks/gpu.py --minutes 8 --out DIR [--data TINY_IMAGENET]

From a checkout, PYTHONPATH=src. Parts run in order of worth, each in a process of its own with its own limit of time,
and each figure is written as it comes (DIR/PART.jsonl); a part that fails is noted and passed over. At its end stands a
table beside what is demanded. --part NAME runs one alone; --small --device cpu tries the script: few, small steps,
whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import peers
import torch

from alexnet.base.device import tf32
from alexnet.base.metrics import read
from alexnet.base.run_files import METRICS
from alexnet.data.loader import Batch
from alexnet.networks import fast
from alexnet.networks.model import seeded_build
from alexnet.training import bench
from alexnet.training.loop import train

Figures = Iterator[tuple[str, object]]


def correct(given) -> Figures:
    """Logits and the worst gradient against float64 on the CPU, by precision, as norms of differences / norms."""
    for name, side in (("alexnet32", 28),) if given.small else (("alexnet32", 28), ("alexnet2012", 224)):
        model = seeded_build(0, name, 10, 3, side).double()
        x = 30 * torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1)).double()
        truth = _outputs(model, x)
        for precision in ("float32", "tf32", "bfloat16"):
            there = seeded_build(0, name, 10, 3, side).to(given.device).to(memory_format=torch.channels_last)
            with (
                tf32(precision == "tf32"),
                torch.autocast(given.device, torch.bfloat16, enabled=precision == "bfloat16"),
            ):
                got = _outputs(there, x.float().to(given.device))
            logits, gradient = _errors(got, truth)
            yield f"{name} {precision}, logits", logits
            yield f"{name} {precision}, worst gradient", gradient
        with fast.plain(), torch.autocast(given.device, torch.bfloat16):
            got = _outputs(there, x.float().to(given.device))
        yield f"{name} bfloat16, stock operators, worst gradient", _errors(got, truth)[1]


def _outputs(model, x) -> list[torch.Tensor]:
    """Logits and the gradients of their mean square."""
    model.eval().zero_grad()
    y = model(x)
    (y if y.dtype == torch.float64 else y.float()).square().mean().backward()
    return [y.detach(), *(p.grad for p in model.parameters())]


def _errors(got: list[torch.Tensor], truth: list[torch.Tensor]) -> tuple[float, float]:
    """Of the logits, and of the gradient that is furthest off."""
    logits, *gradients = [float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(got, truth, strict=True)]
    return logits, max(gradients)


def exact(given) -> Figures:
    """Whether a deterministic run repeats, and goes on after a stop, bit for bit."""
    sets = [
        "variant=alexnet32",
        "epochs=1",
        "deterministic=true",
        "max_steps=12",
        "checkpoint_every=6",
        "batch_size=32",
    ]
    last = []
    with tempfile.TemporaryDirectory() as folder:
        for name, stops in (("a", [12]), ("b", [12]), ("parts", [5, 12])):
            run = Path(folder) / name
            for number, stop in enumerate(stops):
                end = [f"max_steps={stop}"]
                if number:
                    train("digits", run, None, end, resume=True, device=given.device)
                else:
                    train("digits", run, "digits", [*sets, *end], device=given.device)
            last.append((run / "model.safetensors").read_bytes())
    yield "repeated run is the same, bit for bit", last[0] == last[1]
    yield "resumed run is the same, bit for bit", last[0] == last[2]


PEERS = (("torchvision", peers.torchvision_alexnet), ("stock 2012", peers.two_towers))


def steps(given) -> Figures:
    """Whole steps on data that is ready, augmentation included in ours; peers at their best, in turns."""
    sizes = [4] if given.small else [512, 128]
    for size in sizes:
        for name in ("alexnet_owt", "alexnet2012"):
            yield f"{name}, batch {size}", _ours(given, name, size)
        for name, build in PEERS:
            for mode in ("",) if given.small or size < 512 else ("", "default"):
                yield f"{name}, batch {size}, {'compiled' if mode else 'eager'}", _peer(given, build, size, mode)
    for size in () if given.small else (256, 1024):
        yield f"alexnet64, batch {size}", _ours(given, "alexnet64", size)
    for name, build in () if given.small else PEERS:  # compiling so takes minutes, and may end the part
        yield f"{name}, batch 512, max-autotune", _peer(given, build, 512, "max-autotune")


def _ours(given, variant: str, size: int) -> float:
    sets = [f"precision={given.precision}", f"variant={variant}", f"batch_size={size}"]
    sets += ["epochs=1000000"]  # each of one step, so that the recipe stays where it begins
    with bench.prepared(sets, given.device, pictures=size) as run:
        one = bench.one_batch(run)
        ready = Batch(one.pictures.to(given.device), one.labels.to(given.device), one.rows, one.size)
        return _rate(given, size, partial(bench.train_step, run, ready))


def _peer(given, build, size: int, mode: str) -> float:
    work = peers.stepper(build(), given.device, size, getattr(torch, given.precision), channels_last=True, compile=mode)
    return _rate(given, size, work)


def _rate(given, size: int, work) -> float:
    """Images/s: the median of five stretches of 20 steps, after a warm-up that compiles and captures."""
    count, device, taken = (1 if given.small else 20), torch.device(given.device), []
    for number in range(6):
        began = time.perf_counter()
        for _ in range(count):
            work()
        bench.synchronise(device)
        if number:
            taken.append((time.perf_counter() - began) / count)
    return size / sorted(taken)[2]


def breakdown(given) -> Figures:
    """Where a step of alexnet2012 spends its time, ms by kernel; and what products and copies alone would allow."""
    sets = [f"precision={given.precision}", f"batch_size={4 if given.small else 512}"]
    with bench.prepared(sets, given.device, pictures=4 if given.small else 512) as run:
        batch = bench.one_batch(run)
        yield "floor, images/s", bench.floor_rate(run)
        for _ in range(6):
            bench.train_step(run, batch)
        activity = torch.profiler.ProfilerActivity
        on_gpu = given.device == "cuda"
        with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profile:
            for _ in range(3):
                bench.train_step(run, batch)
            bench.synchronise(run.world.device)
        key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        for row in sorted(profile.key_averages(), key=lambda row: -getattr(row, key))[:30]:
            yield f"{row.key[:70]} x {row.count // 3}", getattr(row, key) / 3e3


def loop(given) -> Figures:
    """The training loop's reading and steps together: pictures read from a pack, and lying on the GPU."""
    from alexnet.data import loader
    from alexnet.data.packs.writing import pack

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = bench.made_up_data(64, 3, (120, 90)).split("train")
        for number in range(64 if given.small else 2048):
            place = root / "photographs" / f"class{number % 16}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(made.read(number % 64))
        pack(root / "photographs", root / "pack", 256)
        size, count = (4, 4) if given.small else (512, 100)
        for variant in ("alexnet2012", "alexnet_owt"):
            sets = [f"precision={given.precision}", f"variant={variant}", f"batch_size={size}"]
            rates = []
            for name, share in (("from a pack", 0.0), ("on the device", loader.DEVICE_SHARE)):
                loader.DEVICE_SHARE = share
                with bench.prepared(sets, given.device, data=root / "pack") as run:
                    step = partial(bench.train_step, run)
                    bench.seconds_a_batch(run, 6, step)  # kernels are built, and the step is captured
                    rates.append(size / bench.seconds_a_batch(run, count, step))
                yield f"{variant} {name}, images/s", rates[-1]
        yield "the tutorial's loop, torchvision's net, images/s", _tutorial(given, root / "photographs")


def _tutorial(given, photographs: Path) -> float:
    """Images/s of one epoch's steps, after as many as its workers read ahead."""
    for one in list(photographs.glob("*/*.jpg")):
        for number in range(0 if given.small else 8):  # an epoch is long enough then: each begins with new workers
            os.link(one, one.with_name(f"{one.stem}-{number}.jpg"))
    size, workers = (4, 1) if given.small else (256, os.cpu_count() or 1)
    with tf32(True):  # as torch has it unless it is told otherwise
        steps = peers.tutorial(photographs, given.device, size, workers)
        for _ in range(2 + 2 * workers):
            next(steps)
        bench.synchronise(torch.device(given.device))
        began = time.perf_counter()
        seen = sum(next(steps) for _ in range(2 if given.small else 20))
        bench.synchronise(torch.device(given.device))
        return seen / (time.perf_counter() - began)


def tiny(given) -> Figures:
    """Tiny ImageNet by the recipe of that name: error against seconds."""
    if given.data is None:
        yield "left out", "no --data TINY_IMAGENET"
        return
    with tempfile.TemporaryDirectory() as folder:
        sets = ["epochs=1", "max_steps=4"] if given.small else ["epochs=45", "batch_size=256", "learning_rate=0.02"]
        result = train(given.data, Path(folder) / "run", "tiny_imagenet", sets, device=given.device)
        yield "seconds", result.seconds
        yield "top-1 error", result.top1_error
        yield "images/s, without evaluation", result.images_per_second
        seconds = 0.0
        for line in (one for one in read(Path(folder) / "run" / METRICS) if one["kind"] == "epoch"):
            seconds += 100_000 / line["images_per_second"]
            if line["valid_top1_error"] <= 0.55:
                yield "seconds of training to 45 % top-1 accuracy", seconds
                break


PARTS = {part.__name__: part for part in (correct, exact, steps, breakdown, loop, tiny)}
WORTH = {"correct": 2, "exact": 1, "steps": 5, "breakdown": 1, "loop": 2, "tiny": 4}  # shares of the time
DEMANDS: tuple[tuple[str, float, str | float, str | float], ...] = (  # what is demanded, and of which figures a ratio
    ("alexnet_owt / torchvision at its best, batch 512", 1.15, "alexnet_owt, batch 512", "torchvision, batch 512"),
    ("alexnet2012 / stock layers at their best, batch 512", 3.0, "alexnet2012, batch 512", "stock 2012, batch 512"),
    ("alexnet2012, batch 128 / batch 512", 0.75, "alexnet2012, batch 128", "alexnet2012, batch 512"),
    ("alexnet2012 from a pack / on the device", 0.95, "alexnet2012 from a pack", "alexnet2012 on the device"),
    ("alexnet_owt from a pack / on the device", 0.95, "alexnet_owt from a pack", "alexnet_owt on the device"),
    ("alexnet64, batch 256, images/s", 150_000, "alexnet64, batch 256", 1.0),
    (
        "bfloat16 gradients of alexnet2012, from float64: stock operators / ours",
        1.0,
        "alexnet2012 bfloat16, stock operators, worst",
        "alexnet2012 bfloat16, worst",
    ),
    ("Tiny ImageNet, 60 s / training to 45 % top-1 accuracy", 1.0, 60.0, "seconds of training to 45 %"),
)


def work(given) -> None:
    """One part, its figures written and printed as they come."""
    with open(given.out / f"{given.part}.jsonl", "w", encoding="utf-8") as file:
        for name, value in PARTS[given.part](given):
            print(f"| {name} | {f'{value:,.4g}' if isinstance(value, float) else value} |", flush=True)
            file.write(json.dumps([name, value]) + "\n")
            file.flush()


def everything(given) -> None:
    """Every part in a process of its own and within its share of the time; then the table of demands."""
    device = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    print(f"{device}, torch {torch.__version__}, Python {sys.version.split()[0]}, {given.precision}")
    end, found = time.monotonic() + 60 * given.minutes, {}
    parts = [part for part in PARTS if part != "tiny" or given.data]
    for number, part in enumerate(parts):
        limit = (end - time.monotonic()) * WORTH[part] / sum(WORTH[one] for one in parts[number:])
        print(f"\n{part}, at most {limit:.0f} s: {(PARTS[part].__doc__ or '').splitlines()[0]}", flush=True)
        file = given.out / f"{part}.jsonl"
        file.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--part", part, *sys.argv[1:]]
        try:
            status = subprocess.run(command, timeout=limit, env={**os.environ, "PYTHONUNBUFFERED": "1"}).returncode
        except subprocess.TimeoutExpired:
            status = "the time is over"
        if status:
            print(f"{part} did not end well: {status}")
        if file.exists():
            found |= dict(map(json.loads, file.read_text("utf-8").splitlines()))
    print("\n| demand | at least | here |")
    for name, least, *pair in DEMANDS:
        above, below = (
            max((v for k, v in found.items() if k.startswith(one)), default=0.0) if isinstance(one, str) else one
            for one in pair
        )
        here = f"{above / below:,.2f}" if above and below else "not measured"
        print(f"| {name} | {least:,} | {here} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--part", choices=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--data", help="Tiny ImageNet, for the part tiny")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    work(given) if given.part else everything(given)


if __name__ == "__main__":
    main()
