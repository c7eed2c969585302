"""`alexnet export`: a network with its preprocessing as .onnx, OpenVINO's .xml or torch's .pt2, and what that changed.

Every format takes uint8 pictures (batch, stored, stored, C) as stored, for any batch, and gives float32 `logits` and
`prob`, (batch, classes) each: crop, mean and scale are inside.
"""

from __future__ import annotations

import copy
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new, writing
from alexnet.base.progress import Progress
from alexnet.base.text import counted
from alexnet.data.held_out import as_trained
from alexnet.data.layouts.registry import Data, find_data
from alexnet.data.loader import Pictures
from alexnet.data.preprocess import Preprocess
from alexnet.engines import exported, onnx, openvino
from alexnet.engines.base import Whole, package, quiet
from alexnet.engines.choosing import made_up_batch
from alexnet.engines.loading import load_classifier
from alexnet.inference.evaluation import opened
from alexnet.inference.matching import match_classes, with_names
from alexnet.inference.scoring import PLACES, count, log_probabilities
from alexnet.networks.layers import GroupedLinear
from alexnet.weights import onnx_writer
from alexnet.weights.base import Weights
from alexnet.weights.classifier import Classifier, Engine, check_names, described, weights_of

ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
WEIGHTS = {"fp16": "16-bit weights", "w8": "8-bit weights", "int8": "8-bit weights and activations"}
CALIBRATION = 256  # pictures on which the ranges of activations are measured
BATCH = 64


@dataclass(frozen=True)
class Change:
    """Errors (fractions) and loss (nats), first of the model (in torch, or its engine), then of the export."""

    images: int
    top1_error: tuple[float, float]
    top5_error: tuple[float | None, float | None]  # None of five classes or fewer
    loss: tuple[float, float]
    same_top1: float  # share of pictures on which both have the same class first


@dataclass(frozen=True)
class Export:
    """The files made and their size, the pictures that they take, images/s by batch at that moment, and where DATA was
    given the change of error."""

    files: list[str]
    bytes: int
    weights: str
    takes: str
    threads: int
    images_per_second: dict[int, float]
    change: Change | None

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def export(
    model: str | Path | Classifier,
    out: str | Path,
    format: str,
    weights: str | None = None,
    data: str | Path | None = None,
    split: str = "valid",
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
) -> Export:
    """Write `model` as `out` in `format` (onnx, openvino, pt2); measure its speed, and its error on a split of DATA.

    `weights` is None (float32), fp16, w8 (8-bit weights, nothing to calibrate) or int8 (activations too, calibrated on
    DATA's training pictures; in a .pt2 the same as w8).
    """
    weights = _form(format, weights, data is not None)
    calibrated = weights == "int8"
    files = _places(Path(out), format)
    one = model if isinstance(model, Classifier) else load_classifier(model)
    if one.exported:
        raise AlexNetError(f"MODEL {model} is an export already; give the model that it was exported from.")
    if one.device.type != "cpu":  # where exports are made and run
        one = replace(one, model=copy.deepcopy(one.model).cpu())
    found = None if data is None else find_data(data, quiet)
    if found is not None:
        found = as_trained(found, one.trained) or found
    pictures = calibration(one, found) if calibrated and found is not None else []
    if found is not None:
        one = with_names(one, found)
        match_classes(found, found.split(split), one.classes)  # before the work
    made = _written(one, files, format, weights, pictures)
    rates = {batch: _rate(made.engine, batch) for batch in (1, BATCH)} if made.engine else {}
    change = None if found is None else _change(one, made, found, split, say, quiet)
    size, form = sum(path.stat().st_size for path in files), WEIGHTS[weights] if weights else "float32"
    return Export(
        [str(path) for path in files], size, form, _takes(one.preprocess), torch.get_num_threads(), rates, change
    )


def _form(format: str, weights: str | None, with_data: bool) -> str | None:
    """The form of the weights, which a format may narrow; what does not fit together is an error."""
    if format not in ENDINGS or (weights is not None and weights not in WEIGHTS):
        raise AlexNetError(
            f"export was given the format '{format}' and weights '{weights}'; formats are {', '.join(ENDINGS)}, "
            f"weights {', '.join(WEIGHTS)}."
        )
    if format == "pt2" and weights == "int8":
        return "w8"
    if weights == "int8" and not with_data:
        raise AlexNetError(
            "int8 needs --data, pictures on which the ranges of activations are measured; give it, or --weights w8, "
            "which needs none."
        )
    return weights


def _takes(preprocess: Preprocess) -> str:
    """What pictures an export takes, in words: how they become squares is not inside it."""
    side = preprocess.stored
    how = {
        "crop": f"the shorter side brought to {side}, then the centre",
        "squash": f"both sides brought to {side}",
        "torchvision": f"torchvision's Resize({side}) and CenterCrop({side})",
    }[preprocess.square]
    return f"uint8 pictures (batch, {side}, {side}, {preprocess.channels}): {how}"


def export_table(result: Export) -> str:
    """The result for people."""
    rates = ", ".join(f"{rate:,.1f} images/s at batch {batch}" for batch, rate in result.images_per_second.items())
    lines = [
        f"{' and '.join(result.files)}: {result.bytes:,} bytes, {result.weights}",
        f"takes {result.takes}",
        f"at this moment on this machine, {counted(result.threads, 'thread')}: {rates}",
    ]
    change = result.change
    if change is None:
        return "\n".join([*lines, "no error was measured; --data measures it"])
    for name, (before, after) in (("top-1 error", change.top1_error), ("top-5 error", change.top5_error)):
        if before is None or after is None:
            continue
        lines.append(f"{name} {100 * before:.2f} % -> {100 * after:.2f} % ({100 * (after - before):+.2f} points)")
    lines.append(f"the same class first on {100 * change.same_top1:.2f} % of {counted(change.images, 'picture')}")
    return "\n".join(lines)


def calibration(one: Classifier, data: Data) -> list[np.ndarray]:
    """Some of DATA's training pictures, always the same: uint8 (n, stored, stored, C) in batches."""
    pictures = Pictures(
        data.split("train"), one.preprocess.stored, one.preprocess.channels, square=one.preprocess.squared
    )
    try:
        order = np.random.default_rng(0).permutation(len(pictures))[:CALIBRATION]
        parts = [pictures.get(order[first : first + 16])[0] for first in range(0, len(order), 16)]
    finally:
        pictures.close()
    batches = [np.ascontiguousarray(part.transpose(0, 2, 3, 1)) for part in parts if len(part)]
    if not batches:
        raise AlexNetError(f"{data.path} has no training picture that can be read to calibrate on; check it.")
    return batches


def _places(out: Path, format: str) -> list[Path]:
    """The files that will be made; an ending that is missing is added, anything that is there is refused."""
    ending = ENDINGS[format]
    bare = [] if out.suffix else [out]  # a folder of that name may have been meant
    out = out if out.suffix else out.with_suffix(ending)
    files = [out, out.with_suffix(".bin")] if format == "openvino" else [out]
    check_new(f"OUT of --format {format}", out, [ending], [*files[1:], *bare])
    return files


def _written(
    one: Classifier, files: list[Path], format: str, weights: str | None, pictures: list[np.ndarray]
) -> Classifier:
    """Write the files, all or none, and open what was written as it will be used."""
    found = described(one) if format == "pt2" else weights_of(one)
    with (
        writing(files[0]),
        tempfile.TemporaryDirectory(prefix=".export-", dir=files[0].parent, ignore_cleanup_errors=True) as folder,
        writing(files[0]),  # once more, as it looks whether the disk is full, which it is until the folder goes
    ):
        parts = [Path(folder) / path.name for path in files]
        if format == "pt2":
            _torch(one, found, parts[0], weights)
        elif format == "onnx":
            parts[0].write_bytes(_onnx(found, weights, pictures))
        else:
            _openvino(found, parts[0], weights, pictures)
        for part, path in reversed(list(zip(parts, files, strict=True))):
            os.replace(part, path)
    if format == "pt2":
        return Classifier(one.model, one.preprocess, one.classes, one.origin, _program(files[0], one), "pt2")
    if format == "onnx":
        engine = onnx.make_engine(files[0], one.preprocess, weights or "float32")
        return Classifier(one.model, one.preprocess, one.classes, one.origin, engine, "onnx")
    return exported.load_export(files[0])


def _onnx(found: Weights, weights: str | None, pictures: list[np.ndarray]) -> bytes:
    package("onnxruntime", "onnx", "--format onnx")  # which runs what is written here
    if weights in ("w8", "int8"):
        contents = onnx_writer.to_bytes(found, preprocessing=True, form=WEIGHTS[weights])
        return onnx.weights8(contents) if weights == "w8" else onnx.int8(contents, pictures)
    return onnx_writer.to_bytes(found, preprocessing=True, half=weights == "fp16")


def _openvino(found: Weights, file: Path, weights: str | None, pictures: list[np.ndarray]) -> None:
    graph = openvino.read(onnx_writer.to_bytes(found, preprocessing=True))
    if weights == "w8":
        graph = openvino.weights8(graph)
    elif weights == "int8":
        graph = openvino.int8(graph, pictures)
    facts = onnx_writer.metadata(found, WEIGHTS[weights] if weights else "float32")
    openvino.write(graph, file, weights == "fp16", facts)


class _Half(nn.Module):
    """A network whose weights are kept in 16 bits and widened as it runs."""

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole = whole
        for parameter in whole.model.parameters():
            parameter.data = parameter.data.half()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        wide = {name: x.float() for name, x in self.whole.named_parameters()}
        return torch.func.functional_call(self.whole, wide, pictures)


class _Towers(nn.Module):
    """A fully connected layer in groups as a linear layer each: torchao rounds the weights of those alone."""

    def __init__(self, layer: GroupedLinear) -> None:
        super().__init__()
        self.towers = nn.ModuleList()
        for weight, bias in zip(layer.weight.chunk(layer.groups), layer.bias.chunk(layer.groups), strict=True):
            tower = nn.Linear(weight.shape[1], len(weight), device="meta")
            tower.weight, tower.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
            self.towers.append(tower)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.towers, x.chunk(len(self.towers), 1), strict=True)
        return torch.cat([tower(part) for tower, part in parts], 1)


def _torch(one: Classifier, found: Weights, file: Path, weights: str | None) -> None:
    """torch.export's program, for a batch of any size; it runs without this package."""
    whole = Whole(copy.deepcopy(one.model), one.preprocess).eval().requires_grad_(False)
    example = torch.zeros(2, one.preprocess.stored, one.preprocess.stored, one.preprocess.channels, dtype=torch.uint8)
    check_names(whole(example)[0].shape[1], len(one.classes))
    module: nn.Module = whole
    if weights == "fp16":
        module = _Half(whole).eval()
    elif weights:
        quantization = package("torchao.quantization", "pt2", "8-bit weights for pt2")
        for name, layer in whole.model.named_children():
            if isinstance(layer, GroupedLinear):
                setattr(whole.model, name, _Towers(layer))
        with quiet():
            quantization.quantize_(module, quantization.Int8WeightOnlyConfig())
    facts = onnx_writer.metadata(found, weights or "float32")
    with torch.no_grad(), quiet():
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        contents = io.BytesIO()  # given a file, torch ends the process where the disk is full
        torch.export.save(program, contents, extra_files=facts)
    file.write_bytes(contents.getbuffer())


def _program(file: Path, one: Classifier) -> Engine:
    with quiet():
        module = torch.export.load(str(file)).module()

    @torch.inference_mode()
    def run(pictures: np.ndarray, output: str) -> np.ndarray:
        logits, prob = module(torch.from_numpy(pictures))
        return (logits if output == "logits" else prob).numpy()

    return Engine(f"torch {torch.__version__}, exported", one.preprocess, run)


def _rate(engine: Engine, batch: int) -> float:
    """Images/s: the median of some runs after a warm-up, a second or so in all."""
    pictures = made_up_batch(engine.preprocess, 1).repeat(batch, axis=0)
    taken: list[float] = []
    engine.run(pictures, "prob")
    while sum(taken) < 1 or len(taken) < 3:
        began = time.perf_counter()
        engine.run(pictures, "prob")
        taken.append(time.perf_counter() - began)
    return batch / statistics.median(taken)


def _change(
    one: Classifier, made: Classifier, data: Data, split: str, say: Callable[[str], object], quiet: bool
) -> Change:
    """Both on the same pictures, batch by batch."""
    sums, same = np.zeros((2, 4)), 0
    with opened([one, made], data, split, device="cpu", say=say, quiet=quiet) as task, torch.inference_mode():
        total = len(task.pictures[0])
        with Progress("measuring the error", total, quiet=quiet) as progress:
            for by_key, labels, size in task.batches(BATCH):
                if len(labels):
                    scores = [log_probabilities([member], [1.0], by_key, 1) for member in task.members]
                    sums += np.stack([count(score, labels).numpy() for score in scores])
                    same += int((scores[0].argmax(1) == scores[1].argmax(1)).sum())
                progress.update(size)
    images = int(sums[0, 0])
    if not images:
        raise AlexNetError(f"none of {counted(total, 'picture')} to measure the error on can be read; check them.")
    (_, a1, a5, al), (_, b1, b5, bl) = (sums / images).tolist()
    five = (a5, b5) if len(one.classes) > PLACES else (None, None)
    return Change(images, (a1, b1), five, (al, bl), same / images)
