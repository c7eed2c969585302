"""Ways of training against each other on the same budget: the errors of each, and how much better it is than the first.

    python benchmarks/arms.py TINY_IMAGENET OUT --recipe modern --set variant=alexnet32 --set epochs=10 \\
        --arm "as it is" --arm "no smoothing: label_smoothing=0" --arm "whole crops: crop_area=1" [--seeds 2]

All ways have the same seeds, so the same initial weights and order of pictures; the last weights count, one view.
Errors are of whole pictures without dropout, on the training pictures too: where both are high, a way underfits.
Networks are kept in OUT by their settings, so that it goes on where it was stopped, and other DATA is refused there;
OUT/arms.md is written anew after each.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alexnet.base.device import choose_device, device_name
from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data
from alexnet.inference.evaluation import evaluate
from alexnet.reproduction.intervals import paired
from alexnet.reproduction.running import commit, hits, versions
from alexnet.training.loop import train
from alexnet.training.recipe import resolve, to_toml


@dataclass(frozen=True)
class Arm:
    """A way of training: its name, the data, and KEY=VALUE settings on top of those that all have."""

    name: str
    data: Path
    sets: tuple[str, ...] = ()


def compare(arms: Sequence[Arm], recipe: str, sets: Sequence[str], seeds: int, out: Path, device: str) -> None:
    """Train every arm with every seed, and write OUT/arms.md after each."""
    for twice in [one.name for number, one in enumerate(arms) if one.name in [other.name for other in arms[:number]]]:
        raise AlexNetError(f"--arm '{twice}' was given twice; give each way a name of its own.")
    recipes = {arm.name: resolve(recipe, [*sets, *arm.sets]) for arm in arms}  # a wrong key is told before any training
    right: dict[str, list[np.ndarray]] = {arm.name: [] for arm in arms}
    fitted: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            data, chosen = find_data(arm.data, quiet=True), replace(recipes[arm.name], seed=seed)
            settings = hashlib.sha256(to_toml(chosen).encode()).hexdigest()[:10]
            folder = out / f"{arm.name.replace(' ', '-')}-{settings}-{seed}"
            train(data, folder, chosen, resume=True, device=device, say=print)  # of a finished one it compares the data
            right[arm.name].append(hits([folder], data, 1, device)[0])
            fitted[arm.name].append(evaluate(folder, data, "train", device=device).top1_error)
            text = table(arms, right, fitted) + f"\nrecipe {recipe}, {' '.join(sets)}; {made(device)}.\n"
            (out / "arms.md").write_text(text, encoding="utf-8")
    print(text)


def table(arms: Sequence[Arm], right: dict[str, list[np.ndarray]], fitted: dict[str, list[float]]) -> str:
    """As Markdown: training and validation error by seed, and the gain over the first arm with its 95 % interval."""
    lines = ["| way | settings | training error, % | validation error, % | better than the first, points |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for arm in arms:
        if hit := right[arm.name]:
            gain = paired(100 * (np.stack(hit).astype(float) - np.stack(right[arms[0].name][: len(hit)])))
            errors = ", ".join(f"{100 - 100 * one.mean():.2f}" for one in hit)
            trained = ", ".join(f"{100 * one:.2f}" for one in fitted[arm.name])
            told = "" if arm is arms[0] else f"{gain.mean:.2f} ({gain.low:.2f} to {gain.high:.2f})"
            lines.append(f"| {arm.name} | {' '.join(arm.sets)} | {trained} | {errors} | {told} |")
    return "\n".join(lines) + "\n"


def made(device: str) -> str:
    """Device, versions and commit, in words."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{device_name(choose_device(device))}; {packages}; commit {commit()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--arm", action="append", required=True, metavar='"NAME: KEY=VALUE …"')
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    parts = [arm.partition(":") for arm in asked.arm]
    arms = [Arm(name.strip(), asked.data, tuple(sets.split())) for name, _, sets in parts]
    compare(arms, asked.recipe, asked.sets, asked.seeds, asked.out, asked.device)


if __name__ == "__main__":
    main()
