"""Caffe's .caffemodel, read in its old and new messages, with its mean.

A variant becomes a list of Caffe layers; a file is the variant whose list is the file's own. Colours are BGR in
Caffe: conv1's input channels and the mean are turned round, which changes no bit of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.networks.shapes import sizes
from alexnet.weights import caffe_transform
from alexnet.weights import protobuf as pb
from alexnet.weights.base import ASSUMED, Weights, as_float32
from alexnet.weights.caffe_mean import find_mean, read_blob, reversed_channels, square_of_hints
from alexnet.weights.caffe_transform import Transform
from alexnet.weights.recognising import variant_of
from alexnet.weights.registry import Reader

# Of each type of layer: the name and number of its parameters' field (old messages: the second number), and name,
# number, kind and default of the parameters that matter here.
PARAMETERS: dict[str, tuple[str, int, int, dict[str, tuple[int, Any]]]] = {
    "Convolution": (
        "convolution_param", 106, 10,
        {"num_output": (1, 0), "pad": (3, 0), "kernel_size": (4, 0), "group": (5, 1), "stride": (6, 1)},
    ),
    "InnerProduct": ("inner_product_param", 117, 17, {"num_output": (1, 0)}),
    "LRN": (
        "lrn_param", 118, 18,
        {"local_size": (1, 5), "alpha": (2, 1.0), "beta": (3, 0.75), "norm_region": (4, 0), "k": (5, 1.0)},
    ),
    "Pooling": ("pooling_param", 121, 19, {"pool": (1, 0), "kernel_size": (2, 0), "stride": (3, 1), "pad": (4, 0)}),
    "Dropout": ("dropout_param", 108, 12, {"dropout_ratio": (1, 0.5)}),
    "Power": ("power_param", 122, 21, {"power": (1, 1.0), "scale": (2, 1.0), "shift": (3, 0.0)}),
    "Slice": ("slice_param", 126, 31, {"axis": (3, 1), "slice_point": (2, 0)}),
    "Concat": ("concat_param", 104, 9, {"axis": (2, 1)}),
    "Scale": ("scale_param", 142, 0, {"axis": (1, 1)}),
    "ReLU": ("relu_param", 123, 30, {"negative_slope": (1, 0.0)}),
    "TanH": ("tanh_param", 127, 0, {}),
    "Softmax": ("softmax_param", 125, 0, {}),
}  # fmt: skip
OLD_TYPES = {
    3: "Concat", 4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU",
    20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 26: "Power", 33: "Slice", 1: "Accuracy", 5: "Data",
    8: "Flatten",
}  # fmt: skip
NO_PART = {
    "Data",
    "ImageData",
    "Input",
    "DummyData",
    "Accuracy",
    "SoftmaxWithLoss",
    "Softmax",
    "Split",
    "Flatten",
    "Dropout",
}
WEIGHTED = ("Convolution", "InnerProduct")


@dataclass
class CaffeLayer:
    """A layer of a Caffe net, `parameters` complete with their defaults."""

    name: str
    type: str
    bottoms: list[str] = field(default_factory=list)
    tops: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    blobs: list[np.ndarray] = field(default_factory=list)

    def plan(self) -> tuple:
        """What makes two layers compute the same from the same blobs; a last layer may have any number of units."""
        free = ("slice_point",) if self.type == "Convolution" else ("num_output", "slice_point")
        kept = {key: value for key, value in self.parameters.items() if key not in free}
        return self.type, tuple((k, float(f"{x:.5g}") if isinstance(x, float) else x) for k, x in sorted(kept.items()))

    def words(self) -> str:
        """The layer in an error."""
        facts = ", ".join(f"{key} {value:.6g}" for key, value in self.plan()[1])
        return f"{self.type}{f' ({facts})' if facts else ''}"


def _across(add: Callable[..., str], record: v.LRN, at: str, maps: int) -> str:
    """Normalisation across maps, in each tower by itself: slices, and their joint."""
    name = record.name
    # OpenCV takes no k, so it is drawn out of the power: (k + s)^-b = k^-b (1 + s/k)^-b.
    alpha = record.alpha * (1 if record.divided else record.size) / record.k
    numbers: dict[str, Any] = {"local_size": record.size, "alpha": alpha, "beta": record.beta}
    if record.towers == 1:
        at = add(name, "LRN", at, **numbers)
    else:
        parts = [f"{name}_{tower}" for tower in range(record.towers)]
        points = [maps // record.towers * tower for tower in range(1, record.towers)]
        add(f"{name}_slice", "Slice", at, [f"{part}_in" for part in parts], slice_point=points)
        at = add(name, "Concat", [add(part, "LRN", f"{part}_in", **numbers) for part in parts])
    if record.k != 1:
        at = add(f"{name}_k", "Power", at, scale=record.k**-record.beta)
    return at


def caffe_layers(variant: v.Variant, scale: tuple[float, ...], channels: int, classes: int) -> list[CaffeLayer]:
    """The Caffe layers, without blobs, that compute what the variant computes; its names are kept."""
    found: list[CaffeLayer] = []

    def add(name: str, type: str, bottom: str | list[str], tops: list[str] | None = None, **given: Any) -> str:
        defaults = {key: default for key, (_, default) in PARAMETERS[type][3].items()}
        bottoms = [bottom] if isinstance(bottom, str) else bottom
        found.append(CaffeLayer(name, type, bottoms, tops or [name], {**defaults, **given}))
        return name

    maps, at = channels, "data"
    if scale != (1.0,):
        at = add("scale", "Scale", at)
    for record in variant.layers:
        name = record.name
        match record:
            case v.Conv():
                at = add(name, "Convolution", at, num_output=record.filters, pad=record.pad,
                         kernel_size=record.kernel, group=record.groups, stride=record.stride)  # fmt: skip
                maps = record.filters
            case v.FC() if record.groups == 1:
                at = add(name, "InnerProduct", at, num_output=record.units or classes)
            case v.ReLU() | v.Tanh():
                at = add(name, "ReLU" if isinstance(record, v.ReLU) else "TanH", at)
            case v.MaxPool():
                at = add(name, "Pooling", at, kernel_size=record.kernel, stride=record.stride)
            case v.AvgPool():
                at = add(name, "Pooling", at, pool=1, kernel_size=record.kernel, stride=record.stride)
            case v.LRN():
                at = _across(add, record, at, maps)
            case v.WithinMapNorm():
                at = add(name, "LRN", at, local_size=record.size, alpha=record.alpha, beta=record.beta, norm_region=1)
            case v.Dropout():
                at = add(name, "Dropout", at, dropout_ratio=record.rate)
                if not record.inverted:  # Caffe's rescales in training; this takes that back and halves at test
                    at = add(f"{name}_scale", "Power", at, scale=1 - record.rate)
            case v.Softmax():
                at = add(name, "Softmax", at)
            case _:
                raise AlexNetError(
                    f"a .caffemodel cannot hold {variant.name}: Caffe has no layer that computes its {name} "
                    f"({type(record).__name__}); convert to .onnx or .safetensors."
                )
    return found


def stored_side(variant: v.Variant, input: int) -> int:
    """The side of the pictures that crops of `input` are taken from, which no file of Caffe's says: the variant's own
    (docs/facts.md 10), or where the variant is adapted to other crops, as much of the picture as there."""
    usual = variant.stored if input in sizes(variant) else round(input * variant.stored / variant.input)
    return max(usual, input)


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as a NetParameter does: with its name, or with a layer."""
    return head.startswith((b"\x0a", b"\x12", b"\xa2\x06"))


def read(file: Path, hints: Hints) -> Weights:
    """The weights in a .caffemodel; the mean is the hint's, or the one beside the file, or Caffe's channel means."""
    try:
        net = pb.whole(file)
        found, side, transform = list(_read_layers(net)), _input_side(net), caffe_transform.in_net(net)
    except pb.WireError as error:
        raise AlexNetError(f"MODEL {file} is not a whole .caffemodel ({error}); copy it again.") from None
    transform = transform or caffe_transform.transform_beside(file)
    return _weights(file, found, side, transform, hints)


def _read_layers(net: pb.Message) -> Iterator[CaffeLayer]:
    for number, _, message in net.fields():
        if not isinstance(message, pb.Message) or number not in (2, 100):
            continue
        new = number == 100
        name, kind = message.text(1 if new else 4), message.text(2)
        if not new:
            kind = OLD_TYPES.get(message.integer(5, 0), f"type {message.integer(5, 0)}")
        layer = CaffeLayer(name, kind)
        if kind in PARAMETERS:
            _, new_number, old_number, parameters = PARAMETERS[kind]
            given = [pb.Message(memoryview(b"")), *message.messages(new_number if new else old_number)][-1]
            for key, (field_number, default) in parameters.items():
                if isinstance(default, float):
                    layer.parameters[key] = given.float(field_number, default)
                else:
                    layer.parameters[key] = given.integer(field_number, default)
            for key, other in (("kernel_size", 11), ("stride", 13), ("pad", 9)) if kind == "Convolution" else ():
                layer.parameters[key] = given.integer(other, layer.parameters[key])
        layer.blobs = [read_blob(blob) for blob in message.messages(7 if new else 6)]
        yield layer


def _input_side(net: pb.Message) -> int:
    """Height of the pictures that the net says it takes; 0 where it does not say, as training leaves it."""
    shapes = [net.integers(4), *(shape.integers(1) for shape in net.messages(8))]
    for layer in net.messages(100):
        shapes += [shape.integers(1) for given in layer.messages(143) for shape in given.messages(1)]
    return next((shape[2] for shape in shapes if len(shape) == 4), 0)


def _weights(file: Path, found: list[CaffeLayer], side: int, transform: Transform | None, hints: Hints) -> Weights:
    weighted = [layer for layer in found if layer.type in WEIGHTED and len(layer.blobs) == 2]
    computing = [layer for layer in found if layer.type not in NO_PART]
    if not weighted:
        raise AlexNetError(f"MODEL {file} holds no layers with weights; give a .caffemodel, not a .prototxt.")
    scales = [layer for layer in computing if layer.type == "Scale"]
    scale = tuple((1 / scales[0].blobs[0].astype(np.float64).ravel()[::-1]).tolist()) if scales else (1.0,)
    if transform is not None and transform.scale != 1:
        if not transform.scale > 0:
            raise AlexNetError(f"MODEL {file} has a transform_param with scale {transform.scale:g}; mend that.")
        scale = tuple(one / transform.scale for one in scale)
    changes: dict[str, Any] = {"activation": "tanh"} if any(x.type == "TanH" for x in computing) else {}
    rates = {layer.parameters["dropout_ratio"] for layer in found if layer.type == "Dropout"}
    recognise = partial(_recognised, computing, bool(scales), changes, rates)
    variant = variant_of(file, hints.variant, recognise)
    if len(rates) == 1:
        changes["dropout"] = round(rates.pop(), 6)
    records = [record for record in variant.layers if isinstance(record, v.Weighted)]
    if len(records) != len(weighted):
        raise AlexNetError(
            f"MODEL {file} has {counted(len(weighted), 'layer')} with weights ({', '.join(x.name for x in weighted)}); "
            f"{variant.name} has {len(records)}: give weights of that network, or another --variant."
        )
    first, tensors = f"{records[0].name}.weight", _tensors(file, records, weighted)
    channels, classes = tensors[first].shape[1], tensors[f"{records[-1].name}.bias"].numel()
    padded = any(isinstance(record, v.Conv) and record.ceil for record in variant.layers)
    input = (
        side or (transform.crop if transform else 0) or (227 if padded else variant.input)
    )  # Caffe cannot pad as these nets do at 224
    if input not in sizes(variant):
        changes["adapt"] = True
    stored = stored_side(variant, input)
    image = find_mean(file, hints.mean, channels, stored, input, transform)
    preprocess = Preprocess(stored, input, "L" if channels == 1 else "RGB", scale, image, square_of_hints(file, hints))
    return Weights(
        variant.name,
        tensors,
        labels.names(classes),
        preprocess,
        changes,
        f"Caffe .caffemodel: {file.name}",
        naming=ASSUMED,
    )


def _tensors(file: Path, records: list[Any], weighted: list[CaffeLayer]) -> dict[str, Tensor]:
    """The blobs by our names, the first layer's colours turned round."""
    arrays: dict[str, np.ndarray] = {}
    for record, layer in zip(records, weighted, strict=True):
        weight, bias = layer.blobs
        weight = weight.reshape(weight.shape[-2:]) if isinstance(record, v.FC) else weight
        arrays[f"{record.name}.weight"] = weight
        arrays[f"{record.name}.bias"] = bias.reshape(-1)
    tensors = as_float32(file, arrays)
    first = f"{records[0].name}.weight"
    tensors[first] = reversed_channels(tensors[first], axis=1)
    return tensors


def _recognised(
    found: list[CaffeLayer], scaled: bool, changes: dict, rates: set, variants: Iterable[v.Variant]
) -> tuple[v.Variant | None, str]:
    """Of those the variant that computes what the file's layers compute; else None, and the first difference."""
    best: tuple[int, str] = (-1, "Caffe has no such layers")
    got = [layer.plan() for layer in found]
    for variant in variants:
        rate = {"dropout": round(next(iter(rates)), 6)} if len(rates) == 1 else {}
        try:
            known = caffe_layers(v.changed(variant, changes | rate), (2.0,) if scaled else (1.0,), 3, 1000)
        except AlexNetError:
            continue
        expected = [layer for layer in known if layer.type not in NO_PART]
        same = 0
        while same < min(len(got), len(expected)) and got[same] == expected[same].plan():
            same += 1
        if same == len(got) == len(expected):
            return variant, ""
        there = f"layer {found[same].name} is {found[same].words()}" if same < len(found) else "its layers end"
        wanted = expected[same].words() if same < len(expected) else "nothing"
        best = max(best, (same, f"{there} where {variant.name} has {wanted}"), key=lambda pair: pair[0])
    return None, best[1]


READER = Reader(60, ".caffemodel", "Caffe's, in its old and new messages", recognises, read, {"mean": ("Caffe",)})
