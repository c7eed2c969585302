"""cuda-convnet's checkpoints of 2011 to 2014: pickles of Python 2, of which nothing is run (docs/facts.md 10).

Layers without weights are passed over to find, for each layer with weights, those that it sees. Layers at the same
distance from the pictures are the towers of one layer of ours: their blocks are put together in the towers' order.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base import restricted_pickle
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.weights.base import ASSUMED, MOST_PACKED, Weights, check_finite, check_shapes, note
from alexnet.weights.caffe_mean import given_mean
from alexnet.weights.recognising import variant_of
from alexnet.weights.registry import Reader

KINDS = {"conv": v.Conv, "local": v.Local, "fc": v.FC}
MOST_INPUTS = 16
PICKLES = (b"\x80\x02}", b"\x80\x03}", b"\x80\x04\x95", b"(dp")  # beginnings of those that hold a dictionary
NORMS = {"cmrnorm": v.LRN, "rnorm": v.WithinMapNorm}
# Means of R, G, B, of ILSVRC-2012 at 256 x 256 and of CIFAR-10, for checkpoints without their own (docs/facts.md 5.2).
MEAN_RGB, CIFAR_RGB = (127.305, 119.715, 104.913), (125.269, 122.933, 113.863)


@dataclass
class Stage:
    """One layer of ours: its towers' records, and for each of them the towers that its blocks of weights see."""

    kind: str
    towers: list[dict[str, Any]] = field(default_factory=list)
    sees: list[list[int]] = field(default_factory=list)


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as a pickle does, or is a zip archive with one, which is none of torch's."""
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if len(archive.namelist()) != 1:
                return False
            with archive.open(archive.namelist()[0]) as opened:
                head = opened.read(8)
    return head.startswith(PICKLES)


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a checkpoint; its mean is the hint's, in R, G, B order, or the data's channel means."""
    contents = _unzipped(file) if zipfile.is_zipfile(file) else restricted_pickle.load(file, objects=True)
    if isinstance(contents, restricted_pickle.Inert):
        raise AlexNetError(
            f"MODEL {file} is refused: it holds more than weights (it wants to run {contents.kind}); nothing was run: "
            "give the file as its makers publish it."
        )
    records, stages = _found(file, contents)
    chosen = variant_of(file, hints.variant, partial(_recognised, stages, records))
    weighted = [record for record in chosen.layers if isinstance(record, v.Weighted)]
    kinds = [KINDS.get(stage.kind) for stage in stages]
    if kinds != [type(record) for record in weighted]:
        raise AlexNetError(
            f"MODEL {file} has the layers {', '.join(_title(stage) for stage in stages)}; {chosen.name} has "
            f"{', '.join(record.name for record in weighted)}: give weights of that network."
        )
    tensors: dict[str, Tensor] = {}
    for record, stage in zip(weighted, stages, strict=True):
        try:
            weight, bias = _joined(stage)
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise AlexNetError(
                f"MODEL {file}: the matrices of {_title(stage)} do not fit together ({error})."
            ) from None
        tensors[f"{record.name}.weight"] = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
        tensors[f"{record.name}.bias"] = torch.from_numpy(np.ascontiguousarray(bias, np.float32))
    channels = tensors[f"{weighted[0].name}.weight"].shape[-3]
    classes = tensors[f"{weighted[-1].name}.bias"].numel()
    if hints.mean:
        image = given_mean(hints.mean, channels, chosen.stored, chosen.input)
    else:
        data, means = ("CIFAR-10", CIFAR_RGB) if chosen.classes == 10 else ("ILSVRC-2012", MEAN_RGB)
        note(f"{file.name} carries no mean, so the channel means of {data} are used: R, G, B = {means}")
        image = torch.tensor(means).reshape(3, 1, 1)
    check_shapes(file, chosen, tensors, classes, channels, chosen.input)
    check_finite(file, tensors)
    preprocess = Preprocess(chosen.stored, chosen.input, "RGB", (1.0,), image)
    names = labels.challenge_names(classes)
    return Weights(chosen.name, tensors, names, preprocess, {}, f"cuda-convnet checkpoint: {file.name}", naming=ASSUMED)


def _found(file: Path, contents: Any) -> tuple[list[dict[str, Any]], list[Stage]]:
    """All layers of a checkpoint, and those with weights in order."""
    try:
        layers = contents["model_state"]["layers"]
        records = layers if isinstance(layers, list) else list(layers.values())
        if not all(isinstance(one, dict) and isinstance(one["name"], str) for one in records):
            raise TypeError("a layer that is no dictionary with a name")
        return records, _stages(records)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise AlexNetError(
            f"MODEL {file} is a pickle, but no checkpoint of cuda-convnet ({type(error).__name__}: {error!s:.120}); "
            "give one that holds model_state with its layers."
        ) from None


def _unzipped(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        member = archive.infolist()[0]
        if member.file_size > min(restricted_pickle.LIMIT // 2, MOST_PACKED * member.compress_size + (1 << 26)):
            raise AlexNetError(f"MODEL {file} unpacks to {member.file_size:,} bytes, more than any checkpoint has.")
        try:
            contents = archive.read(member)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError) as error:
            raise AlexNetError(f"MODEL {file} is not a whole archive ({error}); copy it again.") from None
    return restricted_pickle.loads(contents, str(file), objects=True)


def _sources(records: list[dict[str, Any]]) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """What tells what a record sees, in its order: layers with weights, or data."""
    by_name = {record["name"]: record for record in records}
    known: dict[str, list[dict[str, Any]] | None] = {}  # None while it is looked for

    def inputs(record: dict[str, Any]) -> list[dict[str, Any]]:
        given = record.get("inputs", [])
        return [records[x] if isinstance(x, int) else by_name[x] for x in given]

    def sources(record: dict[str, Any]) -> list[dict[str, Any]]:
        name = record["name"]
        if name not in known:
            known[name] = None
            found: list[dict[str, Any]] = []
            for one in inputs(record):
                found += [one] if one["type"] in KINDS or one["type"] == "data" else sources(one)
                if len(found) > MOST_INPUTS:
                    raise KeyError(f"{name} sees more than {MOST_INPUTS} layers")
            known[name] = found
        there = known[name]
        if there is None:
            raise KeyError(f"{name} sees itself")
        return there

    return sources


def _stages(records: list[dict[str, Any]]) -> list[Stage]:
    """The layers with weights by their distance from the pictures."""
    sources = _sources(records)
    depth: dict[str, int] = {}

    def far(record: dict[str, Any], seen: tuple[str, ...] = ()) -> int:
        name = record["name"]
        if name in seen:
            raise KeyError(f"{name} sees itself")
        if name not in depth:
            behind = [far(one, (*seen, name)) for one in sources(record) if one["type"] in KINDS]
            depth[name] = 1 + max(behind, default=0)
        return depth[name]

    weighted = sorted((r for r in records if r["type"] in KINDS), key=lambda r: (far(r), r["name"]))
    stages: list[Stage] = []
    tower: dict[str, int] = {}
    for record in weighted:
        if far(record) > len(stages):
            stages.append(Stage(record["type"]))
        stage = stages[-1]
        stage.sees.append([tower.get(one["name"], 0) for one in sources(record)])
        tower[record["name"]] = len(stage.towers)
        stage.towers.append(record)
    return stages


def _joined(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of one layer of ours: each tower's blocks along inputs, then the towers along outputs."""
    weights, biases = [], []
    for record, sees in zip(stage.towers, stage.sees, strict=True):
        blocks = [
            _block(record, number, restricted_pickle.numbers(one)) for number, one in enumerate(record["weights"])
        ]
        order = sorted(range(len(blocks)), key=lambda number: sees[number])  # fc7's second half lists (b, a)
        axis = {"conv": 1, "fc": 1, "local": 3}[stage.kind]
        weights.append(np.concatenate([blocks[number] for number in order], axis))
        bias = restricted_pickle.numbers(record["biases"]).reshape(-1)
        biases.append(bias.reshape(weights[-1].shape[:3]) if stage.kind == "local" else bias)
    return np.concatenate(weights), np.concatenate(biases)


def _block(record: dict[str, Any], number: int, matrix: np.ndarray) -> np.ndarray:
    """A stored matrix as torch has it: fc (out, in); conv (F, C, k, k); local (F, H', W', C, k, k)."""
    if record["type"] == "fc":
        return matrix.T
    channels, kernel = int(record["channels"][number]), int(record["filterSize"][number])
    if record["type"] == "conv":
        return matrix.reshape(channels // _groups(record, number), kernel, kernel, -1).transpose(3, 0, 1, 2)
    filters = int(record["filters"])
    side = math.isqrt(matrix.size // (channels * kernel * kernel * filters))
    return matrix.reshape(side, side, channels, kernel, kernel, filters).transpose(5, 0, 1, 2, 3, 4)


def _groups(record: dict[str, Any], number: int) -> int:
    groups = record.get("groups", 1)
    return int(groups[number] if isinstance(groups, list) else groups)


def _title(stage: Stage) -> str:
    return " + ".join(record["name"] for record in stage.towers)


def _recognised(
    stages: list[Stage], records: list[dict[str, Any]], variants: Iterable[v.Variant]
) -> tuple[v.Variant | None, str]:
    """Of those the variant with as many towers, the same kinds of layers, filters, and norms; else what is there."""
    towers = max(len(stage.towers) for stage in stages) if stages else 0
    kinds = [KINDS.get(stage.kind) for stage in stages]
    norms = {kind: sum(record["type"] == name for record in records) for name, kind in NORMS.items()}
    for variant in variants:
        weighted = [record for record in variant.layers if isinstance(record, v.Weighted)]
        split = max((record.groups for record in weighted if isinstance(record, v.Conv)), default=1)
        count = {kind: split * sum(isinstance(x, kind) for x in variant.layers) for kind in NORMS.values()}
        if split != towers or [type(record) for record in weighted] != kinds or count != norms:
            continue
        if any(
            record.filters != sum(len(restricted_pickle.numbers(x["biases"]).reshape(-1)) for x in stage.towers)
            for record, stage in zip(weighted, stages, strict=True)
            if isinstance(record, v.Conv)
        ):
            continue
        return variant, ""
    return None, (
        f"it has {towers} towers, the layers {', '.join(_title(stage) for stage in stages)}, {norms[v.LRN]} cross-map "
        f"and {norms[v.WithinMapNorm]} within-map norms"
    )


READER = Reader(
    20, "a checkpoint of cuda-convnet", "of 2011 to 2014: a pickle of Python 2", recognises, read,
    {"mean": ("cuda-convnet",)},
)  # fmt: skip
