"""What pre-training pays with few pictures: a network fine-tuned, probed, and trained from scratch, on parts of a set.

    python benchmarks/transfer.py MODEL OUT DATA ... [--each 10 100 1000] [--test 200]

Of each class of DATA the first so many training pictures are learned from and the first --test test pictures asked.
Both trainings pass equally many pictures, with the recipe `finetune`: the epochs of PASSES for a set of ten classes,
and more for fewer classes, so that there are as many pictures. From scratch all layers have the recipe's full rate, and
the probe has its own recipe. Nothing is chosen by the test pictures: the last weights count. One seed; networks are
kept in OUT/work, so that it goes on where it was stopped; what runs.jsonl has of the same MODEL, data and test pictures
is kept and not measured again. OUT gets runs.jsonl, figure.png and README.md.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

import alexnet
from alexnet.base import metrics
from alexnet.base.device import choose_device, device_name
from alexnet.base.run_files import METRICS
from alexnet.data.identity import identity
from alexnet.data.layouts.registry import Data, find_data
from alexnet.inference.evaluation import evaluate
from alexnet.reproduction.running import commit, versions
from alexnet.training.finetuning import finetune
from alexnet.training.loop import train
from alexnet.training.recipe import override, resolve

PASSES = {10: 20, 100: 10, 500: 2, 1000: 1}  # epochs for so many pictures of each of ten classes
KEYS = ("model", "data", "way", "each")
WAYS = {"fine-tuned": "finetune", "probe": "probe", "from scratch": "finetune"}


def part(data: Data, split: str, each: int) -> Data:
    """The first so many pictures of each class, in both splits the same ones, and of valid one a class."""
    labels = data.split(split).labels

    def first(count: int) -> np.ndarray:
        return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(len(data.classes))]))

    whole = data.split(split)
    splits = {"train": whole.take(first(each), f"first {each} a class of {whole.origin}")}
    splits["valid"] = splits["train"] if split == "valid" else whole.take(first(1), "one a class")
    return replace(data, splits=splits)


def learned(model: str, data: Data, way: str, each: int, folder: Path, device: str) -> None:
    """Train in `folder`, or go on; a finished run of another recipe, MODEL or data is refused there too."""
    recipe = override(resolve(WAYS[way]), {"stop_after": 0, "class_weights": False})
    if way != "probe":
        epochs = max(PASSES[each] * 10 // len(data.classes), 1)
        recipe = replace(recipe, epochs=epochs, warmup=epochs / 10)
    if way == "from scratch":
        variant = alexnet.load(model, "cpu").model.variant.name
        train(data, folder, replace(recipe, rate_below=1.0, variant=variant), resume=True, device=device, say=print)
    else:
        finetune(model, data, folder, recipe, resume=True, device=device, say=print)


def line(model: str, place: str, way: str, each: int, out: Path, tested: int, device: str) -> dict:
    """What came of one way with so many pictures a class."""
    data = find_data(place)
    folder = out / "work" / f"{Path(model).name}-{Path(place).name}-{each}-{way.replace(' ', '-')}"
    learned(model, part(data, "train", each), way, each, folder, device)
    result = evaluate(folder, part(data, "valid", tested), device=device)
    epochs = [one for one in metrics.read(folder / METRICS) if one["kind"] == "epoch"]
    return {
        "model": model, "data": Path(place).name, "identity": identity(data), "way": way, "each": each,
        "epochs": len(epochs), "seed": 0,
        "test_pictures": result.images, "top1_error": result.top1_error,
        "device": device_name(choose_device(device)), "versions": versions(), "commit": commit(),
    }  # fmt: skip


def measured(one: dict, made: list, data: Data, tested: int) -> bool:
    """Whether a line is of these: model, name of the data, way and pictures a class, and of the same test pictures."""
    if [one[key] for key in KEYS] != made:
        return False
    now, asked = identity(data), len(part(data, "valid", tested).split("valid"))
    return one.get("identity", now) == now and one["test_pictures"] == asked  # older lines have none


def half(one: dict) -> float:
    """Half the 95 % interval of an error over the test pictures, in points."""
    p = one["top1_error"]
    return 196 * math.sqrt(p * (1 - p) / one["test_pictures"])


def draw(lines: list[dict], path: Path) -> None:
    """A panel a data set: test error by pictures a class, a line a way."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(one["data"] for one in lines))
    figure = Figure(figsize=(4.2 * len(sets), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for (way, style), mark in zip(
            {"fine-tuned": "-", "probe": "--", "from scratch": ":"}.items(), "osD", strict=True
        ):
            some = sorted(
                (one for one in lines if (one["data"], one["way"]) == (name, way)), key=lambda one: one["each"]
            )
            at, errors = [one["each"] for one in some], [100 * one["top1_error"] for one in some]
            axes.errorbar(at, errors, [half(one) for one in some], ls=style, marker=mark, ms=4, capsize=3, label=way)
        axes.set(xscale="log", xlabel="training pictures a class", title=name)
        axes.set_xticks(list(PASSES), [f"{each:,}" for each in PASSES])
        axes.minorticks_off()
        axes.set_xlim(7, 1400)
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test error, % (bar: 95 %)")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130, facecolor="white")


def page(lines: list[dict], model: str) -> str:
    """The same as a table."""
    text = [f"# What pre-training pays: `{model}`, fine-tuned, probed, and the same network from scratch", ""]
    text += [
        "By `python benchmarks/transfer.py`, whose first lines say how; one seed, intervals over test pictures.",
        "",
    ]
    text += ["![test error by pictures a class](figure.png)", ""]
    text += ["| data | pictures a class | way | epochs | test error, % (95 %) | test pictures |"]
    text += ["| --- | --- | --- | --- | --- | --- |"]
    for one in lines:
        text.append(
            f"| {one['data']} | {one['each']:,} | {one['way']} | {one['epochs']} | {100 * one['top1_error']:.1f} "
            f"(± {half(one):.1f}) | {one['test_pictures']:,} |"
        )
    made = sorted({f"{one['device']}; torch {one['versions']['torch']}; commit {one['commit']}" for one in lines})
    return "\n".join([*text, "", f"{' and '.join(made)}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--each", type=int, nargs="+", default=[10, 100, 1000], choices=list(PASSES))
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    if len({Path(place).name for place in asked.data}) < len(asked.data):
        parser.error("two DATA have one name, by which OUT knows them; rename one")
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "runs.jsonl"
    lines = [json.loads(one) for one in file.read_text("utf-8").splitlines()] if file.exists() else []
    for each in asked.each:
        for place in asked.data:
            data = find_data(place)
            if each > np.bincount(data.split("train").labels).min():
                print(f"{place} has not {each} pictures of every class: left out")
                continue
            for way in WAYS:
                made = [asked.model, Path(place).name, way, each]
                if any(measured(one, made, data, asked.test) for one in lines):
                    continue
                new = line(asked.model, place, way, each, asked.out, asked.test, asked.device)
                lines = [*(one for one in lines if [one[key] for key in KEYS] != made), new]
                print(f"{place}, {each} a class, {way}: {100 * lines[-1]['top1_error']:.1f} %", flush=True)
                lines.sort(key=lambda one: (one["data"], one["each"], list(WAYS).index(one["way"])))
                file.write_text("".join(json.dumps(one) + "\n" for one in lines))
                draw(lines, asked.out / "figure.png")
                (asked.out / "README.md").write_text(page(lines, asked.model))


if __name__ == "__main__":
    main()
