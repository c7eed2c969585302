"""Dictionaries of Caffe's weights in .npy files: {layer: [weights, biases]}, as converters of models leave them.

np.save pickles such a dictionary; it is read as data, and nothing in it is run. Arrays are Caffe's own, or turned
round as TensorFlow has them: (k, k, in, out) and (in, out). TensorFlow's maps lie as rows, columns, maps, so the inputs
of the first fully connected layer are in that order (hwc) where the arrays are TensorFlow's, else in Caffe's (chw).
"""

from __future__ import annotations

import ast
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base import restricted_pickle
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.networks.shapes import weight_shapes
from alexnet.weights.base import ASSUMED, MOST_PACKED, Weights, as_float32, note
from alexnet.weights.caffe_mean import find_mean, npy_array, square_of_hints
from alexnet.weights.registry import Reader

MAGIC = b"\x93NUMPY"
FLAT = re.compile(r"(.+?)[._/](w|weight|weights|kernel|b|bias|biases)(?::0)?", re.IGNORECASE)


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as .npy files do, or is an archive of them."""
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        return bool(names) and all(name.endswith(".npy") for name in names)
    return head.startswith(MAGIC)


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a .npy dictionary: bvlc_alexnet's, or those of the variant named, in BGR as Caffe has them."""
    layers = _dictionary(file)
    chosen = v.variant(hints.variant or "bvlc_alexnet")
    if not hints.variant:
        note(f"{file.name} does not say of which network it is: taken for bvlc_alexnet (--variant names another)")
    records = [record for record in chosen.layers if isinstance(record, v.Weighted)]
    missing = [record.name for record in records if record.name not in layers]
    extra = sorted(layers.keys() - {record.name for record in records})
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]} besides"
        raise AlexNetError(
            f"MODEL {file} is another network than {chosen.name} (it {what}); give weights of that network."
        )
    arrays = {record.name: _pair(file, record.name, layers[record.name]) for record in records}
    classes = arrays[records[-1].name][1].size
    shapes = weight_shapes(chosen, classes, 3, chosen.input)
    turned = arrays[records[0].name][0].shape == tuple(shapes[f"{records[0].name}.weight"][i] for i in (2, 3, 1, 0))
    order = hints.order or ("hwc" if turned else "chw")
    if not hints.order:
        whose, how, other = (
            ("TensorFlow", "rows, columns, maps", "chw") if turned else ("Caffe", "maps, rows, columns", "hwc")
        )
        note(f"{file.name}: its arrays lie as {whose}'s, so fc6's inputs are taken for {how} (--order {other} if not)")
    tensors = as_float32(file, _tensors(records, arrays, shapes, turned, order))
    first = f"{records[0].name}.weight"
    tensors[first] = tensors[first].flip(1)
    mean = find_mean(file, hints.mean, 3, 256, chosen.input)
    preprocess = Preprocess(256, chosen.input, "RGB", (1.0,), mean, square_of_hints(file, hints))
    return Weights(
        chosen.name,
        tensors,
        labels.names(classes),
        preprocess,
        {},
        f".npy of Caffe weights: {file.name}",
        naming=ASSUMED,
    )


def _tensors(
    records: list[Any], arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], shapes: Mapping[str, tuple[int, ...]],
    turned: bool, order: str,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays as torch has them, from Caffe's way or TensorFlow's."""
    first_full = next(record.name for record in records if isinstance(record, v.FC))
    found: dict[str, np.ndarray] = {}
    for record in records:
        weight, bias = arrays[record.name]
        if isinstance(record, v.FC):
            weight = _full(weight, turned)
            if record.name == first_full and order == "hwc":
                weight = _maps_first(weight, shapes, records, record)
        elif turned and weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1)
        found[f"{record.name}.weight"], found[f"{record.name}.bias"] = weight, bias.reshape(-1)
    return found


def _full(weight: np.ndarray, turned: bool) -> np.ndarray:
    """A fully connected layer's weights as (out, in): from (in, out), or from four sides."""
    if weight.ndim == 4 and turned:  # a convolution over whole maps: rows, columns, maps
        return weight.reshape(-1, weight.shape[3]).T
    if weight.ndim == 4:
        return weight[0, 0] if weight.shape[:2] == (1, 1) else weight.reshape(len(weight), -1)
    return weight.T if turned else weight


def _maps_first(weight: np.ndarray, shapes: Mapping[str, tuple], records: list, record: v.FC) -> np.ndarray:
    """(out, rows · columns · maps) as (out, maps · rows · columns)."""
    before = records[records.index(record) - 1]
    maps = shapes[f"{before.name}.weight"][0]
    side = math.isqrt(shapes[f"{record.name}.weight"][1] // maps)
    if weight.shape[1:] != (maps * side * side,):
        return weight  # of another network: its shape is refused
    return weight.reshape(-1, side, side, maps).transpose(0, 3, 1, 2).reshape(len(weight), -1)


def _dictionary(file: Path) -> Mapping[str, Any]:
    """The pickled dictionary behind the header of a .npy file, or the arrays of an archive of them, .npz."""
    if zipfile.is_zipfile(file):
        return grouped(_archived(file))
    with open(file, "rb") as opened:
        magic = opened.read(8)
        wide = magic[6:7] != b"\x01"
        length = int.from_bytes(opened.read(4 if wide else 2), "little")
        if length > 65_536:
            raise AlexNetError(f"MODEL {file} is not a whole .npy file (a header of {length:,} bytes); copy it again.")
        text = opened.read(length)
    try:
        header = ast.literal_eval(text.decode("latin-1"))
        sides = header["shape"]
        pickled = header["descr"] == "|O" and (sides == () or (isinstance(sides, tuple) and len(sides) == 1))
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise AlexNetError(f"MODEL {file} is not a whole .npy file (its header is damaged); copy it again.") from None
    if not pickled:
        raise AlexNetError(
            f"MODEL {file} holds an array of {header['descr']!s:.40}, not a dictionary of layers; give a .npy of "
            "{layer: [weights, biases]}."
        )
    found = restricted_pickle.loads(file.read_bytes()[len(magic) + (4 if wide else 2) + length :], str(file))
    if isinstance(found, np.ndarray) and found.size == 1:
        found = found.reshape(-1)[0]
    if isinstance(found, np.ndarray) and found.dtype == object and found.ndim == 1:  # pycaffe's layers one by one
        found = found.tolist()
    if isinstance(found, list) and all(isinstance(one, dict) and "name" in one and "weights" in one for one in found):
        found = {one["name"]: one["weights"] for one in found if one["weights"]}
    if not isinstance(found, dict):
        raise AlexNetError(f"MODEL {file} holds a {type(found).__name__}, not a dictionary of layers.")
    return grouped({str(key): value for key, value in found.items()})


def _archived(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        whole = sum(member.file_size for member in members)
        if whole > min(restricted_pickle.LIMIT // 2, MOST_PACKED * sum(x.compress_size for x in members) + (1 << 26)):
            raise AlexNetError(f"MODEL {file} unpacks to {whole:,} bytes, more than any weights have.")
        for member in members:
            with archive.open(member) as opened:
                found[member.filename.removesuffix(".npy")] = npy_array(opened, member.file_size)
    return found


def grouped(flat: Mapping[str, Any]) -> Mapping[str, Any]:
    """{layer: pair} where keys name the layer and one of its arrays, as in conv1_W or conv1/biases:0."""
    parts = {key: FLAT.fullmatch(key) for key in flat}
    if not flat or not all(part and isinstance(flat[key], np.ndarray) for key, part in parts.items()):
        return flat
    found: dict[str, dict[str, Any]] = {}
    for key, part in parts.items():
        assert part is not None
        found.setdefault(part[1], {})["w" if part[2].lower()[0] in "wk" else "b"] = flat[key]
    return found


def _pair(file: Path, name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of a layer, given as [weights, biases] or under names such as weights and biases."""
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: not str(key).lower().startswith(("w", "k", "0")))
        value = [value[key] for key in keys]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise AlexNetError(f"MODEL {file} has no [weights, biases] for {name}; give a .npy of such pairs.")
    try:
        return restricted_pickle.numbers(value[0]), restricted_pickle.numbers(value[1])
    except TypeError as error:
        raise AlexNetError(f"MODEL {file} has no [weights, biases] of numbers for {name} ({error}).") from None


READER = Reader(
    10, ".npy", "Caffe's weights as converters leave them: {layer: [weights, biases]}", recognises, read,
    {"mean": (".npy",), "order": (".npy",)},
)  # fmt: skip
