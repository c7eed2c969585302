"""Features: what layers make of pictures, several layers in one pass, as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alexnet.base.device import choose_device, send
from alexnet.base.distributed import World, alone
from alexnet.base.errors import AlexNetError, nearest_names
from alexnet.base.progress import Progress
from alexnet.base.turns import Dealt, in_turns
from alexnet.data.pictures import Source
from alexnet.data.sources import Named, Sources, name_of
from alexnet.data.stream import named_batches
from alexnet.engines.loading import load_classifier
from alexnet.networks.fast.cpu import rows
from alexnet.networks.model import AlexNet, for_pictures
from alexnet.networks.shapes import layer_facts
from alexnet.weights.classifier import Classifier

Pool = Literal["mean", "max"]
POOLS = ("mean", "max")
# A picture alone goes to another convolution of torch than two. Of AVX-512 and of other engines that is not known.
FEWEST, OF_OTHERS = 2, 4
WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"
TORCHVISION = (*(f"features.{n}" for n in range(13)), *(f"classifier.{n}" for n in range(7)))  # as alexnet_owt's


@dataclass(frozen=True)
class Features:
    """A picture's features by layer, float32: (units,) or maps (C, H, W); or, with `error`, why there are none."""

    file: str
    values: dict[str, np.ndarray]
    error: str | None = None


@dataclass(frozen=True)
class FeatureBatch:
    """Names in order, each with None or why it cannot be read; of the readable ones float32 (n, …) by layer."""

    names: list[str]
    errors: list[str | None]
    values: dict[str, np.ndarray]
    pixels: Tensor | None  # uint8 (n, C, S, S), as the network's preprocessing was given them; none from elsewhere


def features(
    model: str | Path | Classifier,
    pictures: Source | Iterable[Source],
    layers: str | Sequence[str] = "fc7",
    pool: Pool | None = None,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    workers: int = 0,
    quiet: bool = True,
) -> Iterator[Features]:
    """The outputs of the layers of those names for each picture, one by one in order, in one pass in float32.

    `model` is a run folder, a file of weights, the name of published ones, or what `load` gives. `fc7` is before its
    ReLU, `relu7` after it; `pool` (mean or max) reduces maps (C, H, W) to (C,). `pictures` is one or an iterable of
    any length: paths (of pictures, folders, patterns, tar archives or parquet files), encoded bytes, open files, PIL
    images, uint8 arrays (H, W[, C]) or tensors (C, H, W), seen in the central view, a few batches at a time; one that
    cannot be read gives Features with `error`. `device` is for a model that is loaded here; what `load` gave stays
    where it is. Raises AlexNetError for a model that cannot be read and layers that it lacks.
    """
    classifier = model if isinstance(model, Classifier) else load_classifier(model, choose_device(device))
    names = check_layers(classifier.model, layers)
    if pool is not None and pool not in POOLS:
        raise AlexNetError(f"pool was given '{pool}'; it takes {' or '.join(POOLS)}, or None.")
    sources = pictures if isinstance(pictures, Sources) else Sources(pictures)
    with_progress = feature_batches(
        classifier, sources, names, pool, batch_size, workers, total=sources.total, quiet=quiet
    )
    return (one for batch in with_progress for one in _singly(batch))


def _singly(batch: FeatureBatch) -> Iterator[Features]:
    row = 0
    for name, error in zip(batch.names, batch.errors, strict=True):
        if error is None:
            yield Features(name, {layer: values[row] for layer, values in batch.values.items()})
            row += 1
        else:
            yield Features(name, {}, error)


def feature_batches(
    classifier: Classifier, named: Iterable[Named], layers: Sequence[str], pool: Pool | None, batch_size: int,
    workers: int = 0, total: int | None = None, done: int = 0, quiet: bool = True, world: World | None = None,
) -> Iterator[FeatureBatch]:  # fmt: skip
    """`features` by batches; `total` and `done` are for the progress that is shown.

    Of several processes in a `world` each takes batches in turns, and the first gives all.
    """
    preprocess, world = classifier.preprocess, world or alone()
    dealt = Dealt(named, batch_size, world, name_of)
    where, stored = classifier.device, preprocess.stored
    batches = named_batches(dealt, stored, preprocess.channels, batch_size, workers, preprocess.squared, where)

    def work() -> Iterator[FeatureBatch]:
        for batch in batches:
            crops = preprocess.central(send(batch.pixels, where))
            values = outputs(classifier.model, preprocess.normalise(crops), layers, pool)
            yield FeatureBatch(batch.names, batch.errors, values, batch.pixels if world.size == 1 else None)

    with Progress("features", total, "pictures", done=done, quiet=quiet) as progress:
        for made in in_turns(world, work(), dealt):
            yield made
            progress.update(len(made.names))


@torch.inference_mode()
def outputs(model: AlexNet, images: Tensor, layers: Sequence[str], pool: Pool | None = None) -> dict[str, np.ndarray]:
    """What layers make of preprocessed pictures (N, C, input, input), N from 0: float32 (N, …) by name, C-ordered."""
    if not len(images):
        return {name: np.empty((0, *row_shape(model, name, pool)), np.float32) for name in layers}

    def keep(output: Tensor) -> Tensor:
        if pool and output.dim() == 4:
            output = output.mean((2, 3)) if pool == "mean" else output.amax((2, 3))
        # A copy, so that a later layer that works in place changes nothing.
        return output.float().cpu().clone(memory_format=torch.contiguous_format)

    with for_pictures(model), rows.alike():
        found = model.activations(filled(images).contiguous(memory_format=torch.channels_last), layers, keep=keep)
    return {name: found[name][: len(images)].numpy() for name in layers}


def filled(pictures: Tensor, engine: object = None) -> Tensor:
    """The pictures, and the last once more until they are a multiple of some.

    Few pictures may take other paths than many and then be rounded otherwise: so what a network makes of a picture is
    the same to the bit, whatever is asked with it (for products networks/fast/cpu/rows.py sees to that).
    """
    some = FEWEST if engine is None and pictures.device.type == "cpu" and not WIDE else OF_OTHERS
    room = -len(pictures) % some
    return torch.cat([pictures, pictures[-1:].expand(room, -1, -1, -1)]) if room else pictures


def check_layers(model: AlexNet, layers: str | Sequence[str]) -> list[str]:
    """The layers, or the one, each once; a name that the network lacks is an error that offers the nearest."""
    layers = [layers] if isinstance(layers, str) else layers
    there = [record.name for record in model.variant.layers]
    for name in layers:
        if name not in there:
            if name in TORCHVISION and model.variant.name == "alexnet_owt":
                raise AlexNetError(f"torchvision's {name} is called {there[TORCHVISION.index(name)]} here; give that.")
            if "," in name:
                raise AlexNetError(f"'{name}' are several layers; name each by itself: --layer A --layer B.")
            near = nearest_names(name, there, 3)
            raise AlexNetError(
                f"{model.variant.name} has no layer '{name}'; the nearest are {', '.join(near)}, and all are "
                f"{', '.join(there)}: name one of those, as in --layer {near[0]}."
            )
    if not layers:
        raise AlexNetError(f"no layer was named; give one or more of {', '.join(there)}.")
    return list(dict.fromkeys(layers))


def row_shape(model: AlexNet, layer: str, pool: Pool | None = None) -> tuple[int, ...]:
    """The shape of one picture's features."""
    facts = layer_facts(model.variant, model.classes, model.channels, model.input)
    shape = tuple(next(row.output for row in facts if row.name == layer))
    return shape[:1] if pool else shape
