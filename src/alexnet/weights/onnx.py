"""ONNX: files of this project, exports of torchvision's alexnet, and the zoo's bvlcalexnet, by what they compute.

Read by the format's own description (onnx.proto), so that no library is needed and no length is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.networks.shapes import layer_facts
from alexnet.weights import caffe_mean, state
from alexnet.weights import protobuf as pb
from alexnet.weights.base import (
    ASSUMED,
    Weights,
    as_float32,
    from_facts,
    image,
    metadata_object,
)
from alexnet.weights.onnx_tensors import check_read, tensor
from alexnet.weights.onnx_writer import HALF, KEY, MEAN_KEY
from alexnet.weights.recognising import variant_of
from alexnet.weights.registry import Reader

# Operators that only pass their input on, in inference and at the shapes that are checked.
COMPUTING = ("Conv", "Gemm", "MatMul", "LRN", "MaxPool", "Relu")
PASSING = {"Identity", "Dropout", "Flatten", "Reshape", "Softmax", "LogSoftmax", "Cast", "Squeeze"}
AROUND = {"Constant", "Shape", "Gather", "Unsqueeze", "Concat"}  # of shapes, in old exports


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as a ModelProto does: with the number of its version."""
    return head[:1] == b"\x08" and 0 < head[1] < 32


@dataclass
class Node:
    """A node of a graph that was read."""

    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]

    def numbers(self, key: str, default: list[int]) -> list[int]:
        return [int(x) for x in self.attributes.get(key, default)]


@dataclass
class Graph:
    """A graph that was read: `input` is the pictures' name."""

    nodes: list[Node]
    tensors: dict[str, np.ndarray]
    input: str
    outputs: list[str]


def read(file: Path, hints: Hints) -> Weights:
    """The weights in an .onnx file of this project, of torchvision's alexnet, or of the zoo's bvlcalexnet."""
    try:
        model = pb.whole(file)
        metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
        _check_form(file, metadata)
        graphs = model.messages(7)
        if not graphs:
            raise pb.WireError("it holds no graph")
        tensors = dict(tensor(file, message) for message in graphs[0].messages(5))
        nodes = [_read_node(file, message, tensors) for message in graphs[0].messages(1)]
        names = [value.text(1) for value in graphs[0].messages(11)]
        side = _input_side(graphs[0], tensors)
        # Old files list weights as inputs too.
        pictures = next((name for name in names if name not in tensors), "")
        graph = Graph(nodes, tensors, pictures, [value.text(1) for value in graphs[0].messages(12)])
    except pb.WireError as error:
        raise AlexNetError(f"MODEL {file} is not a whole .onnx file ({error}); copy it again.") from None
    if KEY in metadata:
        return _own(file, metadata, tensors)
    return _foreign(file, graph, side, hints)


def _read_node(file: Path, message: pb.Message, tensors: dict[str, np.ndarray]) -> Node:
    attributes: dict[str, Any] = {}
    for one in message.messages(5):
        key, kind = one.text(1), one.integer(20, 0)
        if kind == 4:
            attributes[key] = tensor(file, one.messages(5)[-1])[1]
        elif kind in (1, 2, 3, 7):
            read = {1: lambda m: m.float(2, 0.0), 2: lambda m: m.integer(3, 0), 3: lambda m: m.text(4)}
            attributes[key] = one.integers(8) if kind == 7 else read[kind](one)
    node = Node(message.text(4), message.text(3), message.texts(1), message.texts(2), attributes)
    if message.text(7) not in ("", "ai.onnx") or not node.outputs:
        what = f"of the domain {message.text(7)!r:.40}" if message.text(7) else "without an output"
        raise AlexNetError(
            f"MODEL {file} has a node {node.name!r:.60} ({node.operator!r:.40}) {what}, which is none of AlexNet's; "
            "give an export of torchvision's alexnet, of bvlcalexnet, or of this project."
        )
    if node.operator == "Constant" and "value" in attributes:
        tensors[node.outputs[0]] = attributes["value"]
    elif node.operator == "Identity" and node.inputs[:1] and node.inputs[0] in tensors:
        tensors[node.outputs[0]] = tensors[node.inputs[0]]
    elif node.operator == "Transpose" and node.inputs[:1] and node.inputs[0] in tensors:
        given = tensors[node.inputs[0]]
        tensors[node.outputs[0]] = given if given.dtype == object else given.transpose(node.numbers("perm", [1, 0]))
    return node


def _input_side(graph: pb.Message, tensors: dict[str, np.ndarray]) -> int:
    """Height of the pictures that the graph takes; 0 where it is left open."""
    for value in graph.messages(11):
        if value.text(1) in tensors:  # old files list weights as inputs too
            continue
        for shape in (s for kind in value.messages(2) for t in kind.messages(1) for s in t.messages(2)):
            sides = [dim.integer(1, 0) for dim in shape.messages(1)]
            if len(sides) == 4:
                return sides[2]
    return 0


def facts_and_mean(metadata: Mapping[str, str]) -> tuple[dict[str, Any], Tensor]:
    """What `onnx_writer.metadata` wrote. Raises KeyError, TypeError, ValueError."""
    given = metadata_object(metadata[KEY])
    return given, image(metadata[MEAN_KEY], given["mean"])


def _check_form(file: Path, metadata: Mapping[str, str]) -> None:
    """Refuse an export whose weights are no longer those of layers."""
    try:
        form = metadata_object(metadata.get(KEY, "{}")).get("form")
    except ValueError:
        return
    if form:
        raise AlexNetError(
            f"MODEL {file} is an export ({form}), which predict, evaluate and compare take; here give the model it "
            "was exported from."
        )


def _own(file: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> Weights:
    try:
        given, mean = facts_and_mean(metadata)
        check_read(file, tensors, (name for name in tensors if "." in name))
        found = {name.removesuffix(HALF): torch.from_numpy(x.copy()) for name, x in tensors.items() if "." in name}
        return from_facts(given, {**found, "mean": mean})
    except (KeyError, TypeError, ValueError) as error:
        raise AlexNetError(
            f"MODEL {file} carries facts of this project that do not fit together ({error}); convert it anew."
        ) from None


def _foreign(file: Path, graph: Graph, side: int, hints: Hints) -> Weights:
    nodes, tensors, steps = graph.nodes, graph.tensors, _steps(file, graph)
    weighted = [node for node in steps if node.operator in ("Conv", "Gemm", "MatMul")]
    variant = variant_of(file, hints.variant, partial(_recognised, steps, tensors, side))
    records = [record for record in variant.layers if isinstance(record, v.Weighted)]
    if len(records) != len(weighted):
        raise AlexNetError(
            f"MODEL {file} has {counted(len(weighted), 'layer')} with weights; {variant.name} has {len(records)}: give "
            "weights of that network, or another --variant."
        )
    arrays: dict[str, np.ndarray] = {}
    for record, node in zip(records, weighted, strict=True):
        arrays[f"{record.name}.weight"] = _weight(node, tensors)
        arrays[f"{record.name}.bias"] = _bias(file, node, nodes, tensors).reshape(-1)
    found = as_float32(file, arrays)
    classes = found[f"{records[-1].name}.bias"].numel()
    input = side or variant.input
    if variant.name == "alexnet_owt":
        preprocess = state.preprocess()
        if hints.mean:
            preprocess = replace(preprocess, mean=caffe_mean.given_mean(hints.mean, 3, 256, 224))
    else:
        found["conv1.weight"] = found["conv1.weight"].flip(1)
        image = caffe_mean.find_mean(file, hints.mean, 3, 256, input)
        preprocess = Preprocess(256, input, "RGB", (1.0,), image, caffe_mean.square_of_hints(file, hints))
    return Weights(variant.name, found, labels.names(classes), preprocess, {}, f"ONNX: {file.name}", naming=ASSUMED)


def _steps(file: Path, graph: Graph) -> list[Node]:
    """The nodes that compute, one after the other; any that is neither of AlexNet nor harmless is refused by name."""
    tensors, steps = graph.tensors, list[Node]()
    here = {graph.input}  # names of the values that are the last step's
    ended = False

    def refused(node: Node, why: str) -> AlexNetError:
        return AlexNetError(
            f"MODEL {file} has a node {(node.name or node.outputs[0])!r:.60} with the operator {node.operator!s:.40}, "
            f"{why}; give an export of torchvision's alexnet, of bvlcalexnet, or of this project."
        )

    for node in graph.nodes:
        data = [name for name in node.inputs if name and name not in tensors]
        step = node.operator in COMPUTING
        pool = node.operator in ("AveragePool", "GlobalAveragePool") and node.numbers("kernel_shape", [1]) == [1, 1]
        bias = node.operator == "Add" and len(data) == 1 and bool(steps) and steps[-1].operator == "MatMul"
        if step or bias:
            check_read(file, tensors, node.inputs)
        if step:
            wrong = _unusual(node)
            if wrong or ended or node.inputs[:1] != data:
                raise refused(node, wrong or ("after the last layer" if ended else "whose inputs are not a layer's"))
        elif not (pool or bias or node.operator in PASSING | AROUND) and data:
            raise refused(node, "which is none of AlexNet's")
        if not step and not pool and not bias and node.operator not in PASSING:
            continue
        if data and data[0] not in here:
            if step or bias:
                raise refused(node, "which does not follow the layer before it")
            continue  # of a shape
        if step:
            steps.append(node)
            here = {node.outputs[0]}
        elif data:
            ended = ended or node.operator in ("Softmax", "LogSoftmax")
            here.add(node.outputs[0])
    if not here & set(graph.outputs):
        raise AlexNetError(
            f"MODEL {file} gives something else than its last layer's output; give an export of AlexNet."
        )
    return steps


def _unusual(node: Node) -> str:
    """What a node does beside what AlexNet's of its kind do; "" where nothing."""
    usual: dict[str, Any] = {
        "alpha": 1.0, "beta": 1.0, "transA": 0, "dilations": [1, 1], "auto_pad": "NOTSET", "storage_order": 0,
    }  # fmt: skip
    for key, value in node.attributes.items():
        if key in usual and not (node.operator == "LRN" and key in ("alpha", "beta")):
            given = [int(x) for x in value] if isinstance(usual[key], list) else value
            if given != usual[key]:
                return f"and {key} {value!s:.40}, which is none of AlexNet's"
    return ""


def _weight(node: Node, tensors: dict[str, np.ndarray]) -> np.ndarray:
    weight = tensors[node.inputs[1]]
    turned = node.operator == "MatMul" or (node.operator == "Gemm" and not node.attributes.get("transB", 0))
    return weight.T if turned else weight


def _bias(file: Path, node: Node, nodes: list[Node], tensors: dict[str, np.ndarray]) -> np.ndarray:
    if node.operator != "MatMul" and len(node.inputs) > 2:
        return tensors[node.inputs[2]]
    for other in nodes:
        if other.operator == "Add" and node.outputs[0] in other.inputs:
            return next(tensors[name] for name in other.inputs if name in tensors)
    raise AlexNetError(f"MODEL {file} has no bias for {node.name or node.outputs[0]}; give an export of AlexNet.")


def _plan(node: Node) -> tuple:
    """What tells one network's node from another's, but for paddings and sizes."""
    if node.operator in ("Conv", "MaxPool"):
        group = node.attributes.get("group", 1) if node.operator == "Conv" else 0
        return node.operator, *node.numbers("kernel_shape", [0, 0]), *node.numbers("strides", [1, 1]), group
    if node.operator == "LRN":
        numbers = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **node.attributes}
        return "LRN", *(float(f"{numbers[key]:.5g}") for key in ("size", "alpha", "beta", "bias"))
    return ("FC" if node.operator in ("Gemm", "MatMul") else node.operator,)


def _record_plan(record: v.Layer) -> tuple | None:
    match record:
        case v.Conv():
            return "Conv", record.kernel, record.kernel, record.stride, record.stride, record.groups
        case v.MaxPool():
            return "MaxPool", record.kernel, record.kernel, record.stride, record.stride, 0
        case v.LRN():
            alpha = record.alpha * (1 if record.divided else record.size)
            return ("LRN", record.size, alpha, record.beta, record.k) if record.towers == 1 else ("LRN by tower",)
        case v.ReLU():
            return ("Relu",)
        case v.FC():
            return ("FC",)
        case v.Softmax():
            return None
        case v.Dropout():
            return None if record.inverted else ("Dropout",)
    return (type(record).__name__,)


def _sides(steps: list[Node], side: int) -> list[int]:
    """The side of the maps after each convolution and pooling, by the file's own paddings."""
    sides = []
    for node in steps:
        if node.operator not in ("Conv", "MaxPool"):
            continue
        kernel, stride = node.numbers("kernel_shape", [1, 1])[0], node.numbers("strides", [1, 1])[0]
        pads = node.numbers("pads", [0, 0, 0, 0])
        span = side + pads[0] + pads[2] - kernel
        side = 1 + (-(-span // stride) if node.attributes.get("ceil_mode", 0) else span // stride)
        sides.append(side)
    return sides


def _recognised(
    steps: list[Node], tensors: dict[str, np.ndarray], side: int, variants: Iterable[v.Variant]
) -> tuple[v.Variant | None, str]:
    for variant in variants:
        plans = [plan for record in variant.layers if (plan := _record_plan(record))]
        if [_plan(node) for node in steps] != plans:
            continue
        filters = [tensors[node.inputs[1]].shape[0] for node in steps if node.operator == "Conv"]
        if filters != [record.filters for record in variant.layers if isinstance(record, v.Conv)]:
            continue
        at = side or variant.input
        try:
            rows = layer_facts(variant, 1000, 3, at)
        except AlexNetError:
            continue
        if _sides(steps, at) == [row.output[1] for row in rows if row.kind in ("conv", "maxpool")]:
            return variant, ""
    got = ", ".join(node.operator for node in steps)
    return None, f"it computes {got}, for pictures of {side or 'any'} pixels"


READER = Reader(
    50, ".onnx", "this project's, exports of torchvision's alexnet, the zoo's bvlcalexnet", recognises, read,
    {"mean": ("ONNX:",)},
)  # fmt: skip
