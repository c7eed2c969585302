"""Dictionaries of Caffe's weights in .npy files: {layer: [weights, biases]}, as converters of models leave them.

np.save pickles such a dictionary; it is read as data, and nothing in it is run. Arrays are Caffe's own, or turned
round as TensorFlow has them: (k, k, in, out) and (in, out), the latter's inputs still in Caffe's order.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet import labels
from alexnet import variants as v
from alexnet.data import restricted
from alexnet.errors import AlexNetError
from alexnet.hints import Hints
from alexnet.preprocess import Preprocess
from alexnet.shapes import weight_shapes
from alexnet.weights.base import ASSUMED, Weights, check_finite, check_shapes, note
from alexnet.weights.caffe import find_mean

MAGIC = b"\x93NUMPY"


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as .npy files do."""
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
    tensors: dict[str, Tensor] = {}
    for name, (weight, bias) in arrays.items():
        if turned:
            weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        elif weight.ndim == 4 and weight.shape[:2] == (1, 1):
            weight = weight[0, 0]
        tensors[f"{name}.weight"] = torch.from_numpy(np.array(weight, np.float32, order="C"))
        tensors[f"{name}.bias"] = torch.from_numpy(np.array(bias, np.float32).reshape(-1))
    check_shapes(file, chosen, tensors, classes, 3, chosen.input)
    check_finite(file, tensors)
    first = f"{records[0].name}.weight"
    tensors[first] = tensors[first].flip(1)
    preprocess = Preprocess(256, chosen.input, "RGB", (1.0,), find_mean(file, hints.mean, 3, 256, chosen.input))
    return Weights(
        chosen.name,
        tensors,
        labels.names(classes),
        preprocess,
        {},
        f".npy of Caffe weights: {file.name}",
        naming=ASSUMED,
    )


def _dictionary(file: Path) -> Mapping[str, Any]:
    """The pickled dictionary behind the header of a .npy file."""
    with open(file, "rb") as opened:
        magic = opened.read(8)
        wide = magic[6:7] != b"\x01"
        length = int.from_bytes(opened.read(4 if wide else 2), "little")
        if length > 65_536:
            raise AlexNetError(f"MODEL {file} is not a whole .npy file (a header of {length:,} bytes); copy it again.")
        text = opened.read(length)
    try:
        header = ast.literal_eval(text.decode("latin-1"))
        pickled = header["descr"] == "|O" and header["shape"] in ((), (1,))
    except (ValueError, SyntaxError, KeyError, TypeError):
        raise AlexNetError(f"MODEL {file} is not a whole .npy file (its header is damaged); copy it again.") from None
    if not pickled:
        raise AlexNetError(
            f"MODEL {file} holds an array of {header['descr']}, not a dictionary of layers; give a .npy of "
            "{layer: [weights, biases]}."
        )
    found = restricted.loads(file.read_bytes()[len(magic) + (4 if wide else 2) + length :], str(file))
    if isinstance(found, np.ndarray) and found.size == 1:
        found = found.reshape(-1)[0]
    if not isinstance(found, dict):
        raise AlexNetError(f"MODEL {file} holds a {type(found).__name__}, not a dictionary of layers.")
    return {str(key): value for key, value in found.items()}


def _pair(file: Path, name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of a layer, given as [weights, biases] or under names such as weights and biases."""
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: not str(key).lower().startswith(("w", "0")))
        value = [value[key] for key in keys]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise AlexNetError(f"MODEL {file} has no [weights, biases] for {name}; give a .npy of such pairs.")
    return np.asarray(value[0]), np.asarray(value[1])
