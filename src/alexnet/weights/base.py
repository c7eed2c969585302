"""What every format is read into, and the one place where it is held against what a network needs."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.hints import IMAGEFOLDER, NUMERIC
from alexnet.base.text import counted
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.networks.shapes import check_size, output_shape, weight_shapes

VERSION = 2  # of the facts in a file's metadata; 1 had the mean among the tensors
LARGEST = 4096  # side of stored pictures: 50 MB each
MOST_CLASSES = 1_000_000
ASSUMED = "assumed"
MOST_PACKED = 100  # times that an archive of weights, which are nearly noise, gets smaller
TINY, HUGE = 1e-6, 1e6  # what pixels may be divided by


@dataclass(frozen=True)
class Weights:
    """`tensors` are named conv1.weight … fc8.bias; `changes` are those of `build`: dropout and so on.

    `naming` is empty where the file names its classes, ASSUMED where it does not, else an order that was asked for.
    """

    variant: str
    tensors: dict[str, Tensor]
    classes: list[str]
    preprocess: Preprocess
    changes: dict[str, Any]
    origin: str
    trained: dict[str, Any] = field(default_factory=dict)  # of a run: step, digest of its data and what it held out
    naming: str = ""

    def built(self) -> v.Variant:
        """The variant with the changes made."""
        return v.changed(v.variant(self.variant), self.changes)


@dataclass(frozen=True)
class Lazy:
    """A tensor as its file describes it, of which nothing has been read: that is what `take` does."""

    shape: tuple[int, ...]
    dtype: str  # as torch names it
    take: Callable[[], Tensor]


# -- facts ------------------------------------------------------------------------------------------------------


def facts(weights: Weights) -> dict[str, Any]:
    """Everything but the tensors, as plain data for a file's metadata."""
    return {
        "version": VERSION,
        "variant": weights.variant,
        "changes": weights.changes,
        "classes": weights.classes,
        "preprocess": weights.preprocess.facts(),
        "origin": weights.origin,
        **({"trained": weights.trained} if weights.trained else {}),
        **({"naming": weights.naming} if weights.naming else {}),
    }


def with_mean(weights: Weights) -> dict[str, Any]:
    """`facts` with the mean among them, as text."""
    mean = weights.preprocess.mean.cpu().contiguous()
    text = base64.b64encode(mean.numpy().astype("<f4").tobytes()).decode()
    return {**facts(weights), "mean": {"shape": list(mean.shape), "float32": text}}


def mean_in(given: Mapping[str, Any]) -> Tensor:
    """The mean that `with_mean` put in. Raises KeyError, TypeError, ValueError."""
    return image(given["mean"]["float32"], given["mean"]["shape"])


def image(text: str, shape: Any) -> Tensor:
    """An image of floats in text. Raises TypeError, ValueError."""
    if not isinstance(shape, list) or len(shape) != 3 or not all(_whole(side, 1, LARGEST) for side in shape):
        raise ValueError(f"its mean has the shape {shape!s:.60}")
    return torch.from_numpy(np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(shape).copy())


def metadata_object(text: str) -> dict[str, Any]:
    """The JSON object in a file's metadata. Raises ValueError."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("its facts are nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"its facts are a {type(found).__name__}")
    return found


def from_facts(given: Mapping[str, Any], tensors: dict[str, Tensor]) -> Weights:
    """Weights from their facts and tensors, of which `mean` is the mean. Raises KeyError, TypeError, ValueError."""
    version = given.get("version", 1)
    if not _whole(version, 1, VERSION):
        raise ValueError(f"its version is {version!r}, this program reads up to {VERSION}")
    kinds = {"variant": str, "changes": dict, "classes": list, "preprocess": dict, "origin": str, "trained": dict}
    for key, kind in kinds.items():
        if not isinstance(given.get(key, {}) if key == "trained" else given[key], kind):
            raise ValueError(f"its {key} is a {type(given[key]).__name__}")
    if not all(isinstance(name, str) for name in given["classes"]):
        raise ValueError("a class has a name that is no text")
    sizes = given["preprocess"]
    for key in ("stored", "input"):
        if not _whole(sizes[key], 1, LARGEST):
            raise ValueError(f"{key} is {sizes[key]!r}, not a whole number from 1 to {LARGEST}")
    scale = sizes["scale"]
    if not isinstance(scale, list) or not all(type(x) in (int, float) for x in scale):
        raise ValueError("its scale is no list of numbers")
    preprocess = Preprocess.from_facts(sizes, tensors.pop("mean"))
    changes, origin, trained = dict(given["changes"]), given["origin"], dict(given.get("trained", {}))
    naming = given.get("naming", "")
    if naming not in ("", ASSUMED, IMAGEFOLDER, NUMERIC):
        raise ValueError(f"its naming is {naming!r:.40}")
    return Weights(given["variant"], tensors, given["classes"], preprocess, changes, origin, trained, naming)


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


# -- checks -----------------------------------------------------------------------------------------------------


def checked(file: Path, found: Weights) -> Weights:
    """What a reader made of a file, once it is known to be a whole network; whatever is not is named."""
    try:
        variant = found.built()
        check_preprocess(found.preprocess)
        check_size(variant, len(found.classes), found.preprocess.channels, found.preprocess.input)
        if len(found.classes) > MOST_CLASSES:
            raise ValueError(counted(len(found.classes), "class"))
    except (AlexNetError, ValueError, TypeError) as error:
        raise AlexNetError(f"MODEL {file} does not fit together ({first_line(error).rstrip('.')}).") from None
    preprocess = found.preprocess
    needed = state_shapes(variant, len(found.classes), preprocess.channels, preprocess.input)
    lazy = {name: Lazy(tuple(x.shape), str(x.dtype).removeprefix("torch."), partial(_same, x)) for name, x in
            found.tensors.items()}  # fmt: skip
    tensors = taken(file, variant, needed, lazy, len(found.classes))
    check_finite(file, {**tensors, "mean": preprocess.mean})
    return replace(found, tensors=tensors)


def check_preprocess(given: Preprocess) -> None:
    """Refuse sizes, scales and means that belong to no picture. Raises ValueError."""
    mean, scale = given.mean, given.scale
    if not (_whole(given.stored, 1, LARGEST) and _whole(given.input, 1, given.stored)):
        raise ValueError(f"crops of {given.input} are taken from pictures of {given.stored}, at most {LARGEST}")
    if mean.dtype != torch.float32 or mean.is_sparse or mean.is_meta or mean.dim() != 3 or not mean.shape[0]:
        raise ValueError(f"its mean has the shape {tuple(mean.shape)} and is of {mean.dtype}")
    if tuple(mean.shape[1:]) not in ((1, 1), (given.stored, given.stored)):
        raise ValueError(f"its mean has the shape {tuple(mean.shape)} beside pictures of {given.stored}")
    if given.order not in {1: ("L",), 3: ("RGB",)}.get(mean.shape[0], ("RGB", "L")):
        raise ValueError(f"the order of its {mean.shape[0]} colours is {given.order!r:.40}")
    if len(scale) not in (1, mean.shape[0]) or not all(math.isfinite(x) and TINY <= x <= HUGE for x in scale):
        raise ValueError(f"it divides {mean.shape[0]} colours by {list(scale)!r:.80}")


def state_shapes(
    variant: v.Variant, classes: int, channels: int, input: int
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape of every tensor of the network by name, and whether it is of floating point."""
    shapes = weight_shapes(variant, classes, channels, input)
    found = {name: (shape, True) for name, shape in shapes.items()}
    shape: tuple[int, ...] = (channels, input, input)
    for record in variant.layers:
        shape = output_shape(record, shape, classes)
        if isinstance(record, v.BatchNorm):
            for what in ("weight", "bias", "running_mean", "running_var"):
                found[f"{record.name}.{what}"] = (shape[:1], True)
            found[f"{record.name}.num_batches_tracked"] = ((), False)
    return found


def taken(
    file: Path,
    variant: v.Variant,
    needed: Mapping[str, tuple[tuple[int, ...], bool]],
    given: Mapping[str, Lazy],
    classes: int,
    called: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """The tensors that the network needs, as float32; refused by name (`called` is the file's) before any is read."""
    extra = sorted(given.keys() - needed.keys())
    for name in [*needed, *extra]:
        shown = (called or {}).get(name, name)
        if name not in needed:
            raise AlexNetError(
                f"MODEL {file} has {shown} besides those of {variant.name}; give weights of that network."
            )
        if name not in given:
            if not needed[name][1]:
                continue  # the count of batches, which files of other programs leave out
            raise AlexNetError(f"MODEL {file} lacks {shown}, which {variant.name} has; give weights of that network.")
        (shape, floating), one = needed[name], given[name]
        if one.shape != shape:
            raise AlexNetError(
                f"MODEL {file} has {shown} of shape {_words(one.shape)}; {variant.name} with "
                f"{counted(classes, 'class')} has {shape}: give weights of that network."
            )
        if one.dtype not in (FLOATS if floating else WHOLE):
            raise AlexNetError(
                f"MODEL {file} has {shown} of {one.dtype}, not of {'floating point' if floating else 'whole numbers'}; "
                "save the weights as float32."
            )
    whole = {name: one for name, one in given.items() if needed[name][1]}
    tensors, lost = dict[str, Tensor](), list[str]()
    for name, one in whole.items():
        x = one.take().detach().cpu()
        tensors[name] = x.to(torch.float32).contiguous()
        if x.dtype == torch.float64 and not torch.equal(tensors[name].double(), x):
            lost.append((called or {}).get(name, name))
    _note_lost(file, lost)
    counts = {name for name, (_, floating) in needed.items() if not floating}
    return tensors | {name: given[name].take().long() if name in given else torch.tensor(0) for name in counts}


def as_float32(file: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays of numbers as tensors of float32; that digits are lost is said."""
    found = {name: np.array(x, np.float32, order="C") for name, x in arrays.items()}
    _note_lost(file, [name for name, x in arrays.items() if x.dtype == np.float64 and (found[name] != x).any()])
    return {name: torch.from_numpy(x) for name, x in found.items()}


def _note_lost(file: Path, names: list[str]) -> None:
    if names:
        more = f", and so {len(names) - 1} more" if names[1:] else ""
        note(f"{file.name}: {names[0]} is float64 and is taken as float32: digits are lost{more}")


def _same(x: Tensor) -> Tensor:
    return x


FLOATS = ("float32", "float16", "bfloat16", "float64")
WHOLE = ("int64", "int32")


def _words(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"{len(shape)} dimensions"


def check_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, by name."""
    for name, tensor in tensors.items():
        if tensor.numel() and not torch.isfinite(torch.stack(tensor.aminmax())).all():  # no copies, as isfinite makes
            raise AlexNetError(f"MODEL {file} has values in {name} that are not finite; copy it again or train anew.")


# -- words ------------------------------------------------------------------------------------------------------


def note(text: str) -> None:
    """One line on stderr about something that was assumed."""
    logging.getLogger("alexnet").warning(text)
