"""MatConvNet's networks in .mat files: SimpleNN, older and newer, and DagNN where it is a chain (docs/facts.md 10).

A variant becomes a list of steps in MatConvNet's words, with paddings and sizes of maps; a file is the variant whose
list is the file's own. Colours are RGB; filters are (rows, columns, inputs, outputs), of fully connected layers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.data import labels
from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape
from alexnet.weights.base import ASSUMED, Weights, note
from alexnet.weights.matconvnet_meta import class_names, numbers_in, part_of, preprocess_of, side_of
from alexnet.weights.matlab import Numbers, Other, variables
from alexnet.weights.registry import Reader

TYPES = {
    "normalize": "lrn", "dagnn.Conv": "conv", "dagnn.Pooling": "pool", "dagnn.LRN": "lrn", "dagnn.ReLU": "relu",
    "dagnn.DropOut": "dropout", "dagnn.SoftMax": "softmax", "dagnn.BatchNorm": "bnorm",
}  # fmt: skip
ENDS = ("softmax", "softmaxloss", "loss")  # what may follow the last scores
ORIGIN, MEANLESS = "MatConvNet .mat", "MatConvNet .mat without its mean"
Layer = dict[str, Any]


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as MATLAB's do."""
    return head.startswith((b"MATLAB 5.", b"MATLAB 7."))


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a .mat file, which must compute what one of the networks here computes."""
    with open(file, "rb") as opened:
        if opened.read(9) == b"MATLAB 7.":
            raise AlexNetError(
                f"MODEL {file} is a .mat of version 7.3, HDF5, which is not read; load it in MATLAB and save it anew "
                "with save(..., '-v7')."
            )
    net = _net(file, variables(file))
    layers, pictures = _layers(file, net), part_of(net, "normalization")
    convolutions = [layer for layer in layers if layer["type"] == "conv"]
    input = side_of(file, pictures)
    (*_, channels, _), (*_, outputs) = (_four(layer["weights"][0]) for layer in (convolutions[0], convolutions[-1]))
    variant = _recognised(file, _steps(file, layers, input, channels), input, channels, outputs)
    records = [record for record in variant.layers if isinstance(record, v.Weighted)]
    tensors: dict[str, Tensor] = {}
    for record, layer in zip(records, convolutions, strict=True):
        filters, biases = layer["weights"]
        weight = filters.array().reshape(_four(filters)).transpose(3, 2, 0, 1)
        weight = weight.reshape(len(weight), -1) if isinstance(record, v.FC) else weight
        tensors[f"{record.name}.weight"] = torch.from_numpy(np.array(weight, order="C"))
        tensors[f"{record.name}.bias"] = torch.from_numpy(biases.array().reshape(-1).copy())
    names = class_names(file, part_of(net, "classes"), outputs)
    rates = {round(numbers_in(layer.get("rate"), 1, 0.5)[0], 6) for layer in layers if layer["type"] == "dropout"}
    if len(rates) > 1:
        note(f"{file.name} has dropouts of several rates, {sorted(rates)}: {variant.name}'s are taken")
    changes = {"dropout": rates.pop()} if len(rates) == 1 else {}
    preprocess, own = preprocess_of(file, pictures, input, channels, hints)
    origin = f"{ORIGIN if own else MEANLESS}: {file.name}"
    return Weights(
        variant.name, tensors, names or labels.names(outputs), preprocess, changes, origin,
        naming="" if names else ASSUMED,
    )  # fmt: skip


# -- the file's layers --------------------------------------------------------------------------------------------


def _net(file: Path, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network: the file's variables themselves, or the structure in its variable net."""
    net = found.get("net", found)
    if isinstance(net, Other):
        raise AlexNetError(
            f"MODEL {file} holds net as {net.kind}; in MATLAB, save the structure that it is made of: "
            "net = net.saveobj(); save(FILE, '-struct', 'net', '-v7')."
        )
    net = net[0] if isinstance(net, list) and net else net
    if not isinstance(net, dict) or not isinstance(net.get("layers"), list) or not net["layers"]:
        there = ", ".join(sorted(found)) or "nothing"
        raise AlexNetError(f"MODEL {file} has no layers of MatConvNet (it holds {there:.80}); give a network's .mat.")
    return net


def _layers(file: Path, net: Mapping[str, Any]) -> list[Layer]:
    """The layers in the words of newer SimpleNN, which has filters and biases as a pair, up to the last scores."""
    given = net["layers"]
    given = _chain(file, net) if isinstance(given[0], dict) else [one[0] for one in given]
    layers = [{**one, "type": TYPES.get(one["type"], one["type"])} for one in given]
    while layers and layers[-1]["type"] in ENDS:
        layers.pop()
    for number, layer in enumerate(layers, 1):
        layer.setdefault("name", f"layer{number}")
        if layer["type"] == "conv":
            pair = layer.setdefault("weights", [layer.get("filters"), layer.get("biases")])
            if len(pair) != 2 or not all(isinstance(one, Numbers) and one.stored.size for one in pair):
                raise AlexNetError(f"MODEL {file} has no filters and biases in {layer['name']!r:.40}; train it first.")
    if not any(layer["type"] == "conv" for layer in layers):
        raise AlexNetError(f"MODEL {file} has no layers with weights; give MatConvNet's AlexNet.")
    return layers


def _chain(file: Path, net: Mapping[str, Any]) -> list[Layer]:
    """The layers of a DagNN, each of which must see the one before it, in SimpleNN's words."""
    values = {one["name"]: one["value"] for one in net["params"]}
    layers: list[Layer] = []
    before: Any = None
    for one in net["layers"]:
        if one["type"] == "dagnn.Loss":
            continue
        if before is not None and one["inputs"] != before:
            raise AlexNetError(
                f"MODEL {file} has a layer {one['name']!r:.40} that sees another than the one before it, as none of "
                "AlexNet's does; give a network that is a chain."
            )
        before = one["outputs"]
        block = one["block"][0] if isinstance(one["block"], list) and one["block"] else {}
        asked = one["params"] if isinstance(one["params"], list) else []
        if lost := [name for name in asked if name not in values]:
            raise AlexNetError(
                f"MODEL {file} has no param {lost[0]!r:.40}, which its layer {one['name']!r:.40} names; save the "
                "network anew in MATLAB."
            )
        weights = [values[name] for name in asked]
        kept = {"type": one["type"], "name": one["name"], "weights": weights, "pool": block.get("poolSize")}
        layers.append({**block, **kept})
    return layers


# -- which network it is ------------------------------------------------------------------------------------------


def _window(what: str, kernel: Sequence, stride: Sequence, pad: Sequence, sides: Sequence) -> str:
    """A step over windows in words; the padding is that at top and left, which with the sides says the rest."""
    k, s, p, o = (" x ".join(f"{x:g}" for x in pair) for pair in (kernel, stride, pad, sides))
    return f"{what} of {k}, stride {s}, padding {p}, to {o}"


def _conv(groups: float, maps: int) -> str:
    return f"convolution in {groups:g} group{'' if groups == 1 else 's'} to {maps} maps"


def _norm(param: Sequence[float]) -> str:
    """[N kappa alpha beta], whose alpha multiplies the sum of squares, where Caffe's is divided by N first."""
    return f"normalisation with param [{' '.join(f'{x:.5g}' for x in param)}]"


def _steps(file: Path, layers: Sequence[Layer], input: int, channels: int) -> list[tuple[str, str]]:
    """What the file's layers compute: (name, words)."""
    sides: list[float] = [input, input]
    maps, found = channels, []
    for layer in layers:
        try:
            what, sides, maps = _step(layer, sides, maps)
        except (ValueError, ArithmeticError) as error:
            raise AlexNetError(
                f"MODEL {file} has a layer {layer['name']!r:.40} of type {layer['type']!r:.40} with settings that "
                f"cannot be ({error}); mend it in MATLAB."
            ) from None
        if layer["type"] != "dropout":  # rescales in training, so that it has no part in answers
            found.append((str(layer["name"]), what))
    return found


def _step(layer: Layer, sides: list[float], maps: int) -> tuple[str, list[float], int]:
    """What a layer computes in words, and the sides and number of its maps. Raises ValueError."""
    kind = layer["type"]
    kernel: Sequence[float]
    if kind == "lrn":
        return _norm(numbers_in(layer["param"], 4) if "param" in layer else (5, 1, 1e-4 / 5, 0.75)), sides, maps
    if kind == "relu":
        return "ReLU" if not numbers_in(layer.get("leak"), 1, 0.0)[0] else "leaky ReLU", sides, maps
    if kind not in ("conv", "pool"):
        return f"layer of type {kind!r:.40}", sides, maps
    stride, pad = numbers_in(layer.get("stride"), 2, 1.0), numbers_in(layer.get("pad"), 4, 0.0)
    if kind == "conv":
        *kernel, seen, made = _four(layer["weights"][0])
        what, maps = _conv(maps / seen, made), made
        what = "dilated " * (numbers_in(layer.get("dilate"), 2, 1.0) != [1, 1]) + what
    else:
        kernel, what = numbers_in(layer.get("pool"), 2), f"{layer.get('method', 'max')!s:.20} pooling"
    if min(stride) < 1:
        raise ValueError(f"a stride of {stride[0]:g} x {stride[1]:g}")
    spans = [sides[i] + pad[2 * i] + pad[2 * i + 1] - kernel[i] for i in (0, 1)]
    sides = [span // step + 1 for span, step in zip(spans, stride, strict=True)]
    return _window(what, kernel, stride, pad[::2], sides), sides, maps


def _expected(variant: v.Variant, input: int, channels: int, outputs: int) -> list[str] | None:
    """What the variant computes, in the same words; None where MatConvNet has no layers that compute it."""
    shape: tuple[int, ...] = (channels, input, input)
    found: list[str] = []
    for record in variant.layers:
        before, shape = shape, output_shape(record, shape, outputs)
        sides = (*shape, 1, 1)[1:3]
        match record:
            case v.Conv():
                kernel, stride, pad = ((x, x) for x in (record.kernel, record.stride, record.pad))
                found.append(_window(_conv(record.groups, shape[0]), kernel, stride, pad, sides))
            case v.FC():
                found.append(_window(_conv(record.groups, shape[0]), (*before, 1, 1)[1:3], (1, 1), (0, 0), sides))
            case v.MaxPool():
                kernel, stride = ((x, x) for x in (record.kernel, record.stride))
                found.append(_window("max pooling", kernel, stride, (0, 0), sides))
            case v.LRN() if record.towers == 1:
                alpha = record.alpha / (record.size if record.divided else 1)
                found.append(_norm((record.size, record.k, alpha, record.beta)))
            case v.ReLU():
                found.append("ReLU")
            case v.Softmax() | v.Dropout(inverted=True) | v.Dropout(rate=0.0):
                continue
            case _:
                return None
    return found


def _recognised(file: Path, got: list[tuple[str, str]], input: int, channels: int, outputs: int) -> v.Variant:
    """The variant that computes what the file's layers compute; else an error with the first difference."""
    best: tuple[int, str] = (-1, "")
    for variant in v.VARIANTS.values():
        expected = _expected(variant, input, channels, outputs)
        if expected is None:
            continue
        same = 0
        while same < min(len(got), len(expected)) and got[same][1] == expected[same]:
            same += 1
        if same == len(got) == len(expected):
            return variant
        there = f"layer {got[same][0]!r:.40} is {got[same][1]}" if same < len(got) else "its layers end"
        wanted = expected[same] if same < len(expected) else "nothing"
        best = max(best, (same, f"{there} where {variant.name} has {wanted}"), key=lambda pair: pair[0])
    batches = any("'bnorm'" in words for _, words in got)
    what = "have cnn_imagenet_deploy take bnorm into its weights, or give another" if batches else "give one of these"
    raise AlexNetError(f"MODEL {file} is none of the networks known here: {best[1]}; {what}.")


def _four(filters: Numbers) -> tuple[int, ...]:
    """The four sides of filters, of which MATLAB leaves out last ones that are 1."""
    return (*filters.shape, 1, 1)[: max(4, len(filters.shape))]


READER = Reader(70, ".mat", "MatConvNet's, SimpleNN and DagNN", recognises, read, {"mean": (MEANLESS,)})
