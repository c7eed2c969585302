"""Whether the default quality of a jpeg pack costs anything: small nets trained from raw and from jpeg, and PSNR.

    python benchmarks/quality.py TINY_IMAGENET FOLDER           # stopped, the same command goes on
    python benchmarks/quality.py TINY_IMAGENET FOLDER --seeds 1 --classes 4 --pictures 400 --epochs 1    # a trial

The pictures of the first classes are packed at the size that the net sees, raw and as JPEGs: at 32 pixels a JPEG's
blocks are larger beside what they show than at 256, so this is harder on it than ImageNet is. Both are judged on the
raw validation pictures. One thread; FOLDER keeps packs and runs, and a finished run is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from alexnet import evaluate, train
from alexnet.data.dataset import Data, Split
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.reading import HEADER
from alexnet.data.packs.writing import QUALITY, pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=12_000, help="to train on, of all classes together")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--quality", type=int, default=QUALITY)
    parser.add_argument("--variant", default="alexnet32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = {key: value for key, value in vars(arguments).items() if key not in ("folder", "seeds")}
    wanted["data"] = str(Path(arguments.data).resolve())
    facts = {"python": platform.python_version(), "torch": version("torch"), "pillow": version("pillow"), **wanted}
    folder = settled(arguments.folder, facts)
    print(json.dumps(facts), flush=True)
    packs = make_packs(arguments, folder)
    print(f"PSNR of jpeg against raw: {psnr(packs['raw'], packs['jpeg']):.2f} dB", flush=True)
    errors: dict[str, list[float]] = {name: [] for name in packs}
    for seed in range(arguments.seeds):
        for name, path in packs.items():  # in turn, so that a run that is stopped has pairs
            errors[name].append(error(arguments, folder, path, packs["raw"], name, seed))
    conclude(errors)


def settled(folder: Path, wanted: dict) -> Path:
    """The folder, which serves one choice of settings, data and versions only."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.exists() and json.loads(file.read_text()) != wanted:
        raise SystemExit(
            f"{folder} holds runs with {file.read_text()}; give the same settings, data and versions, or another folder"
        )
    file.write_text(json.dumps(wanted))
    return folder


def make_packs(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The same pictures as a raw and as a jpeg pack."""
    paths = {name: folder / name for name in ("raw", "jpeg")}
    if not all((path / HEADER).exists() for path in paths.values()):
        data = subset(find_data(arguments.data), arguments.classes, arguments.pictures)
        print(data.summary(), flush=True)
        for name, path in paths.items():
            if not (path / HEADER).exists():
                pack(data, path, arguments.size, name, arguments.quality, workers=1)
    return paths


def subset(data: Data, classes: int, pictures: int) -> Data:
    """The first classes, as many pictures of each in training, all in validation."""

    def some(split: Split, most: int | None) -> Split:
        rows = [np.flatnonzero(split.labels == label)[:most] for label in range(classes)]
        return split.take(np.sort(np.concatenate(rows)), split.origin)

    splits = {"train": some(data.split("train"), pictures // classes), "valid": some(data.split("valid"), None)}
    return replace(data, classes=data.classes[:classes], splits=splits)


def psnr(raw: Path, jpeg: Path) -> float:
    """Of the validation pictures, in dB."""
    from alexnet.data.pictures import decode

    one, other = find_data(raw).split("valid"), find_data(jpeg).split("valid")
    squares = [
        np.square(np.asarray(decode(one.read(i))).astype(float) - np.asarray(decode(other.read(i)))).mean()
        for i in range(len(one))
    ]
    return float(10 * np.log10(255**2 / np.mean(squares)))


def error(arguments: argparse.Namespace, folder: Path, data: Path, judged: Path, name: str, seed: int) -> float:
    """Top-1 error in % of one run, which is made, gone on with, or known already."""
    run = folder / f"{name}{seed}"
    result = run.with_suffix(".json")
    if not result.exists():
        began = time.process_time()
        sets = [f"variant={arguments.variant}", f"epochs={arguments.epochs}", f"seed={seed}", "precision=float32"]
        sets += [f"stored={arguments.size}", "warmup=1", "checkpoint_every=50"]
        train(data, run, "cifar10", sets, resume=True, device="cpu")
        found = evaluate(run, judged, device="cpu")
        facts = {"top1_error": found.top1_error, "images": found.images, "cpu_seconds": time.process_time() - began}
        part = result.with_suffix(".part")
        part.write_text(json.dumps(facts))
        os.replace(part, result)
    facts = json.loads(result.read_text())
    print(f"{name} seed {seed}: {facts}", flush=True)
    return 100 * facts["top1_error"]


def conclude(errors: dict[str, list[float]]) -> None:
    """Both errors, their spread and their difference."""
    for name, values in errors.items():
        print(f"{name}: {statistics.mean(values):.2f} % ({min(values):.2f} to {max(values):.2f})")
    pairs = [jpeg - raw for raw, jpeg in zip(errors["raw"], errors["jpeg"], strict=True)]
    spread = max(max(values) - min(values) for values in errors.values())
    print(f"jpeg less raw: {statistics.mean(pairs):+.2f} points in the mean ({min(pairs):+.2f} to {max(pairs):+.2f})")
    print(f"that is {'within' if abs(statistics.mean(pairs)) <= spread else 'beyond'} the spread, {spread:.2f} points")


if __name__ == "__main__":
    main()
