"""cuda-convnet's checkpoints of 2011 to 2014: pickles of Python 2, of which nothing is run (docs/facts.md 10).

Layers without weights are passed over to find, for each layer with weights, those that it sees. Layers at the same
distance from the pictures are the towers of one layer of ours: their blocks are put together in the towers' order.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable
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
from alexnet.weights.base import ASSUMED, MOST_PACKED, Weights, note
from alexnet.weights.caffe_mean import given_mean
from alexnet.weights.convnet_layers import KINDS, Stage, changes_of, difference, stages_of
from alexnet.weights.recognising import variant_of
from alexnet.weights.registry import Reader
from alexnet.weights.torch_file import is_old

# Beginnings of pickles that hold a dictionary, or that people take for one of weights.
PICKLES = (b"(dp", *(b"\x80" + x for x in (b"\x02}", b"\x03}", b"\x02ccoll", b"\x03ccoll", b"\x04\x95", b"\x05\x95")))
# Means of R, G, B, of ILSVRC-2012 at 256 x 256 and of CIFAR-10, for checkpoints without their own (docs/facts.md 5.2).
MEAN_RGB, CIFAR_RGB = (127.305, 119.715, 104.913), (125.269, 122.933, 113.863)


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as a pickle does, or is a zip archive with one, which is none of torch's."""
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if len(archive.namelist()) != 1:
                return False
            with archive.open(archive.namelist()[0]) as opened:
                head = opened.read(32)
    return head.startswith(PICKLES) and not is_old(head)


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a checkpoint; its mean is the hint's, in R, G, B order, or the data's channel means."""
    contents = _unzipped(file) if zipfile.is_zipfile(file) else restricted_pickle.load(file, objects=True)
    if isinstance(contents, restricted_pickle.Inert):
        raise AlexNetError(
            f"MODEL {file} is refused: it holds more than weights (it wants to run {contents.kind}); nothing was run: "
            "give the file as its makers publish it."
        )
    stages, last, changes = _found(file, contents)
    chosen = variant_of(file, hints.variant, partial(_recognised, stages, last, changes))
    weighted = [record for record in chosen.layers if isinstance(record, v.Weighted)]
    kinds = [KINDS.get(stage.kind) for stage in stages]
    if kinds != [type(record) for record in weighted]:
        raise AlexNetError(
            f"MODEL {file} has the layers {', '.join(stage.title() for stage in stages)}; {chosen.name} has "
            f"{', '.join(record.name for record in weighted)}: give weights of that network."
        )
    tensors: dict[str, Tensor] = {}
    for record, stage in zip(weighted, stages, strict=True):
        try:
            weight, bias = _joined(stage)
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise AlexNetError(
                f"MODEL {file}: the matrices of {stage.title()} do not fit together ({error})."
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
    preprocess = Preprocess(chosen.stored, chosen.input, "RGB", (1.0,), image)
    names = labels.challenge_names(classes)
    kept = {key: value for key, value in changes.items() if v.changed(chosen, {key: value}) != chosen}
    origin = f"cuda-convnet checkpoint: {file.name}"
    return Weights(chosen.name, tensors, names, preprocess, kept, origin, naming=ASSUMED)


def _found(file: Path, contents: Any) -> tuple[list[Stage], Stage, dict[str, Any]]:
    """The layers with weights of a checkpoint in order, its last, and what they change of a variant."""
    try:
        layers = contents["model_state"]["layers"]
        records = layers if isinstance(layers, list) else list(layers.values())
        if not all(isinstance(one, dict) and isinstance(one[k], str) for one in records for k in ("name", "type")):
            raise TypeError("a layer that is no dictionary with a name and a type")
        return *stages_of(records), changes_of(records)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if _torchs(contents):
            raise AlexNetError(
                f"MODEL {file} is a pickle of PyTorch's tensors, made without torch.save; load it where it was made, "
                "and save it with torch.save."
            ) from None
        raise AlexNetError(
            f"MODEL {file} is a pickle, but no checkpoint of cuda-convnet ({type(error).__name__}: {error!s:.120}); "
            "give one that holds model_state with its layers."
        ) from None


def _torchs(contents: Any) -> bool:
    """Whether a dictionary, or one in it, holds PyTorch's tensors."""
    one = list(contents.values()) if isinstance(contents, dict) else []
    both = [*one, *(x for inner in one if isinstance(inner, dict) for x in inner.values())]
    return any(isinstance(x, restricted_pickle.Inert) and x.kind.startswith("torch.") for x in both)


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


def _recognised(
    stages: list[Stage], last: Stage, changes: dict[str, Any], variants: Iterable[v.Variant]
) -> tuple[v.Variant | None, str]:
    """Of those the variant that computes what the checkpoint's layers compute; else None, and the first difference."""
    towers = max((len(stage.towers) for stage in stages), default=0)
    kinds = [KINDS.get(stage.kind) for stage in stages]
    best = ((-1, -1), f"it has {towers} towers and the layers {', '.join(stage.title() for stage in stages)}")
    for variant in variants:
        weighted = [record for record in variant.layers if isinstance(record, v.Weighted)]
        split = max((record.groups for record in weighted if isinstance(record, v.Conv)), default=1)
        alone = all(record.towers == towers for record in variant.layers if isinstance(record, v.LRN))
        if split != towers or not alone or [type(record) for record in weighted] != kinds:
            continue
        if any(
            record.filters != sum(len(restricted_pickle.numbers(x["biases"]).reshape(-1)) for x in stage.towers)
            for record, stage in zip(weighted, stages, strict=True)
            if isinstance(record, v.Conv)
        ):
            continue
        found = difference(v.changed(variant, changes), stages, last)
        if not found[1]:
            return variant, ""
        best = max(best, found, key=lambda pair: pair[0])
    return None, best[1]


READER = Reader(
    20, "a checkpoint of cuda-convnet", "of 2011 to 2014: a pickle of Python 2", recognises, read,
    {"mean": ("cuda-convnet",)},
)  # fmt: skip
