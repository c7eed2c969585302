"""safetensors: this project's own, with JSON in the header for everything but the weights, and other programs'.

The mean is in the header too, so that the tensors are a module's state_dict to the letter and stock loaders take them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.files import write_bytes
from alexnet.base.hints import Hints
from alexnet.networks import variants as v
from alexnet.weights import int8, state
from alexnet.weights.base import (
    Lazy,
    Weights,
    from_facts,
    mean_in,
    metadata_object,
    state_shapes,
    taken,
    with_mean,
)
from alexnet.weights.registry import Reader, Writer

KEY = "alexnet"  # of the header's metadata; one alone, because safetensors writes several in any order
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
SHARDS = "weight_map"  # in the index of a folder whose weights are in several files
MOST_SHARDS = 1000


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as safetensors do, the header's length and its brace; or is the index of several."""
    if file.name.endswith(".index.json"):
        return head.lstrip()[:1] == b"{"
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a safetensors file of this project, or of another program by the names of its tensors."""
    if file.name.endswith(".index.json"):
        return state.weights(file, _shards(file), hints, state.config_beside(file))
    try:
        metadata, tensors = _described(file)
        if KEY not in metadata:
            return state.weights(file, tensors, hints, state.config_beside(file))
        given = metadata_object(metadata[KEY])
        if "mean" in given:
            mean = mean_in(given)
        elif max(tensors["mean"].shape, default=0) > 1 << 13:
            raise ValueError(f"its mean has the shape {tensors['mean'].shape}")
        else:
            mean = tensors.pop("mean").take()
        return from_facts(given, {**_whole(file, given, tensors, mean), "mean": mean})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"MODEL {file} is not a whole file of AlexNet weights ({first_line(error)}); copy it again or train anew."
        ) from None


def _described(file: Path) -> tuple[dict[str, str], dict[str, Lazy]]:
    """The metadata of a file, and its tensors, of which nothing is read."""

    def take(name: str) -> Tensor:
        try:
            with safe_open(str(file), framework="pt") as again:
                return again.get_tensor(name)
        except (SafetensorError, OSError, TypeError, RuntimeError) as error:
            raise AlexNetError(
                f"MODEL {file}: {name!r:.60} cannot be read ({first_line(error)}); copy it again."
            ) from None

    found: dict[str, Lazy] = {}
    with safe_open(str(file), framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118, it is no dictionary
            one = opened.get_slice(name)
            dtype = DTYPES.get(str(one.get_dtype()), str(one.get_dtype()))
            found[name] = Lazy(tuple(one.get_shape()), dtype, partial(take, name))
        return opened.metadata() or {}, found


def _whole(file: Path, given: Mapping[str, Any], tensors: dict[str, Lazy], mean: Tensor) -> dict[str, Tensor]:
    """The tensors, once their shapes are the network's; 8-bit ones with their scale made float again."""
    variant = v.changed(v.variant(str(given["variant"])), given["changes"])
    sizes = len(given["classes"]), int(mean.shape[0]), int(given["preprocess"]["input"])
    needed = state_shapes(variant, *sizes)
    small = {name for name, one in tensors.items() if one.dtype == "int8"}
    for name in small:
        rows = tensors[name + int8.SCALE]  # a KeyError says that it is missing
        shape = needed.get(name, ((0,), True))[0]
        if rows.shape != shape[:1] or rows.dtype != "float32" or tensors[name].shape != shape:
            raise ValueError(f"{name} has a scale of shape {rows.shape} for {tensors[name].shape}")
    scales = {name + int8.SCALE for name in small}
    floats = {
        name: Lazy(one.shape, "float32", partial(_widened, tensors, name)) if name in small else one
        for name, one in tensors.items()
        if name not in scales
    }
    return taken(file, variant, needed, floats, sizes[0])


def _widened(tensors: Mapping[str, Lazy], name: str) -> Tensor:
    return int8.widened({n: tensors[n].take() for n in (name, name + int8.SCALE)})[name]


def _shards(file: Path) -> dict[str, Lazy]:
    """The tensors of several files in one folder, as their index lists them."""
    try:
        if file.stat().st_size > 1 << 26:
            raise ValueError(f"it has {file.stat().st_size:,} bytes")
        places = metadata_object(file.read_text("utf-8"))[SHARDS]
        names = {str(name) for name in places.values()}
        if len(names) > MOST_SHARDS or any(Path(name).name != name for name in names):
            raise ValueError("it names files that are not beside it")
        if any(name.endswith(".bin") for name in names):
            from alexnet.weights import torch_file

            parts = {name: torch_file.contents(file.with_name(name)) for name in sorted(names)}
        else:
            parts = {name: _described(file.with_name(name))[1] for name in sorted(names)}
        return {str(key): parts[name][key] for key, name in places.items() if isinstance(parts[name][key], Lazy)}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise AlexNetError(
            f"MODEL {file} does not list whole files of weights beside it ({first_line(error)}); copy the folder again."
        ) from None


def write(weights: Weights, file: Path, eight_bits: bool = False) -> list[Path]:
    """Write a file; the files made."""
    write_bytes(file, to_bytes(weights, eight_bits))
    return [file]


def to_bytes(weights: Weights, eight_bits: bool = False) -> bytes:
    """The contents of a file; with `eight_bits` its weights are whole numbers (int8.py)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    if eight_bits:
        tensors = int8.narrowed(tensors)
    return save(tensors, {KEY: json.dumps(with_mean(weights))})


READER = Reader(
    40, ".safetensors", "this project's own, and other programs' by the names of the tensors", recognises, read,
    state.HINTS,
)  # fmt: skip
WRITER = Writer(10, ".safetensors", "this project's own, with all that belongs to the weights", write, ("eight_bits",))
