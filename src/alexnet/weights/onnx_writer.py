"""ONNX, written: every variant as a graph of standard operators, by the format's own description (onnx.proto)."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alexnet.base.files import write_bytes
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape
from alexnet.weights import protobuf as pb
from alexnet.weights.base import Weights, facts
from alexnet.weights.registry import Writer

OPSET, IR_VERSION = 17, 8
FLOAT, UINT8, INT64, FLOAT16 = 1, 2, 7, 10  # of TensorProto.DataType
KEY, MEAN_KEY = "alexnet", "alexnet.mean"  # of the file's metadata
HALF = "_half"  # after the name of a weight that is stored in 16 bits


@dataclass
class GraphBuilder:
    """A graph under construction; `add` makes a node and gives the name of its output."""

    nodes: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], output: str, outputs: int = 1, **attributes: Any) -> str:
        names = [output] if outputs == 1 else [f"{output}_{number}" for number in range(outputs)]
        parts = [pb.block(1, name) for name in inputs] + [pb.block(2, name) for name in names]
        parts += [pb.block(3, output), pb.block(4, operator)]
        parts += [pb.block(5, _attribute(key, value)) for key, value in attributes.items()]
        self.nodes.append(pb.block(1, b"".join(parts)))
        return output

    def tensor(self, name: str, values: Any) -> str:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        kind = {"float32": FLOAT, "int64": INT64, "uint8": UINT8, "float16": FLOAT16}[str(array.dtype)]
        dims = b"".join(pb.integer(1, side) for side in array.shape)
        body = dims + pb.integer(2, kind) + pb.block(8, name) + pb.block(9, np.ascontiguousarray(array).tobytes())
        self.tensors.append(pb.block(5, body))
        return name


def _attribute(key: str, value: Any) -> bytes:
    name = pb.block(1, key)
    if isinstance(value, list):
        return name + b"".join(pb.integer(8, one) for one in value) + pb.integer(20, 7)
    if isinstance(value, float):
        return name + pb.single(2, value) + pb.integer(20, 1)
    return name + pb.integer(3, value) + pb.integer(20, 2)


def write(weights: Weights, file: Path, preprocessing: bool = False, half: bool = False) -> list[Path]:
    """Write the network to a file, as `to_bytes` says; the files made."""
    contents = to_bytes(weights, preprocessing, half)
    write_bytes(file, contents)
    return [file]


def to_bytes(weights: Weights, preprocessing: bool = False, half: bool = False, form: str = "") -> bytes:
    """The network: float32 `pictures` (batch, C, input, input) -> `logits` and `prob`, (batch, classes) each.

    With `preprocessing`, `pictures` are uint8 (batch, stored, stored, C) as stored: crop, mean and scale are inside.
    `half` stores weights in 16 bits; the arithmetic stays in 32. `form` notes what weights are about to become.
    """
    variant, preprocess, graph = weights.built(), weights.preprocess, GraphBuilder()
    side, channels, classes = preprocess.input, preprocess.channels, len(weights.classes)
    for name, tensor in weights.tensors.items():
        if half and name.endswith(".weight"):
            graph.add("Cast", [graph.tensor(f"{name}{HALF}", tensor.half())], name, to=FLOAT)
        elif not name.endswith("num_batches_tracked"):
            graph.tensor(name, tensor)
    at = _preprocessing(graph, preprocess) if preprocessing else "pictures"
    shape: tuple[int, ...] = (channels, side, side)
    logits = next(x.name for x in reversed(variant.layers) if not isinstance(x, v.Softmax))
    flat = False
    for record in variant.layers:
        if isinstance(record, v.FC) and not flat:
            at, flat = graph.add("Flatten", [at], "flat"), True
        after = output_shape(record, shape, classes)
        at = _node(graph, record, at, "logits" if record.name == logits else record.name, shape, after)
        shape = after
    fixed = [preprocess.stored, preprocess.stored, channels] if preprocessing else [channels, side, side]
    body = b"".join([
        *graph.nodes, pb.block(2, variant.name), *graph.tensors,
        pb.block(11, _value("pictures", UINT8 if preprocessing else FLOAT, fixed)),
        pb.block(12, _value("logits", FLOAT, [classes])),
        *([pb.block(12, _value("prob", FLOAT, [classes]))] if at == "prob" else []),
    ])  # fmt: skip
    parts = [pb.integer(1, IR_VERSION), pb.block(2, "alexnet"), pb.block(7, body), pb.block(8, pb.integer(2, OPSET))]
    parts += [pb.block(14, pb.block(1, key) + pb.block(2, text)) for key, text in metadata(weights, form).items()]
    return b"".join(parts)


def metadata(weights: Weights, form: str = "") -> dict[str, str]:
    """Everything but the weights, for a file's metadata; `form` names how an export departs from them."""
    mean = weights.preprocess.mean.cpu().contiguous()
    known = {**facts(weights), "mean": list(mean.shape), **({"form": form} if form else {})}
    return {KEY: json.dumps(known), MEAN_KEY: base64.b64encode(mean.numpy().astype("<f4").tobytes()).decode()}


def _value(name: str, kind: int, sides: list[int]) -> bytes:
    dims = [pb.block(2, "batch"), *(pb.integer(1, side) for side in sides)]
    shape = b"".join(pb.block(1, dim) for dim in dims)
    return pb.block(1, name) + pb.block(2, pb.block(1, pb.integer(1, kind) + pb.block(2, shape)))


def _preprocessing(graph: GraphBuilder, preprocess: Preprocess) -> str:
    low, high = preprocess.low, preprocess.low + preprocess.input
    mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
    bounds = [graph.tensor(f"crop_{name}", np.array([x, x])) for name, x in (("from", low), ("to", high))]
    # The crop comes first: it is a view of rows, and what follows has less to move.
    at = graph.add("Slice", ["pictures", *bounds, graph.tensor("crop_on", np.array([1, 2]))], "crop")
    at = graph.add("Transpose", [at], "planes", perm=[0, 3, 1, 2])
    at = graph.add("Cast", [at], "crop_float", to=FLOAT)
    at = graph.add("Sub", [at, graph.tensor("crop_mean", mean)], "crop_minus_mean")
    scale = np.array(preprocess.scale, np.float32).reshape(-1, 1, 1)
    return graph.add("Div", [at, graph.tensor("crop_scale", scale)], "network_input")


def _node(
    graph: GraphBuilder, record: v.Layer, at: str, name: str, shape: tuple[int, ...], after: tuple[int, ...]
) -> str:
    weights = [f"{record.name}.weight", f"{record.name}.bias"]
    match record:
        case v.Conv():
            over = -(shape[1] + 2 * record.pad - record.kernel) % record.stride if record.ceil else 0
            pads = [record.pad, record.pad, record.pad + over, record.pad + over]
            return graph.add("Conv", [at, *weights], name, kernel_shape=[record.kernel] * 2,
                             strides=[record.stride] * 2, pads=pads, group=record.groups)  # fmt: skip
        case v.FC() if record.groups == 1:
            return graph.add("Gemm", [at, *weights], name, transB=1)
        case v.FC():
            return _grouped(graph, record, at, name, weights, math.prod(shape), after[0])
        case v.Local():
            return _local(graph, record, at, name, weights, shape[0], after)
        case v.ReLU():
            return graph.add("Relu", [at], name)
        case v.Tanh():
            return graph.add("Tanh", [at], name)
        case v.MaxPool() | v.AvgPool():
            ceil = int(isinstance(record, v.AvgPool) or record.ceil)
            operator = "MaxPool" if isinstance(record, v.MaxPool) else "AveragePool"
            sides: dict[str, Any] = {"kernel_shape": [record.kernel] * 2, "strides": [record.stride] * 2}
            return graph.add(operator, [at], name, **sides, ceil_mode=ceil)
        case v.LRN():
            return _across(graph, record, at, name, shape)
        case v.WithinMapNorm():
            return _within(graph, record, at, name)
        case v.BatchNorm():
            four = [f"{record.name}.{what}" for what in ("weight", "bias", "running_mean", "running_var")]
            return graph.add("BatchNormalization", [at, *four], name, epsilon=1e-5)
        case v.Dropout():
            if record.inverted:
                return graph.add("Identity", [at], name)
            return graph.add("Mul", [at, _constant(graph, record, "keep", 1 - record.rate)], name)
        case v.Softmax():
            return graph.add("Softmax", [at], name, axis=1)


def _constant(graph: GraphBuilder, record: v.Layer, what: str, value: float) -> str:
    return graph.tensor(f"{record.name}_{what}", np.float32(value))


def _across(graph: GraphBuilder, record: v.LRN, at: str, name: str, shape: tuple[int, ...]) -> str:
    alpha = record.alpha * (1 if record.divided else record.size)
    numbers: dict[str, Any] = {"size": record.size, "alpha": alpha, "beta": record.beta, "bias": record.k}
    if record.towers == 1:
        return graph.add("LRN", [at], name, **numbers)
    # Towers as if they were pictures: a view of the same values, where splitting and joining would copy them.
    apart = graph.tensor(f"{name}_apart", np.array([-1, shape[0] // record.towers, *shape[1:]]))
    whole = graph.tensor(f"{name}_whole", np.array([-1, *shape]))
    towers = graph.add("LRN", [graph.add("Reshape", [at, apart], f"{name}_in")], f"{name}_towers", **numbers)
    return graph.add("Reshape", [towers, whole], name)


def _within(graph: GraphBuilder, record: v.WithinMapNorm, at: str, name: str) -> str:
    square, half = graph.add("Mul", [at, at], f"{name}_square"), record.size // 2
    mean = graph.add("AveragePool", [square], f"{name}_mean", kernel_shape=[record.size] * 2,
                     pads=[half] * 4, strides=[1, 1], count_include_pad=1)  # fmt: skip
    scaled = graph.add("Mul", [mean, _constant(graph, record, "alpha", record.alpha)], f"{name}_scaled")
    inner = graph.add("Add", [scaled, _constant(graph, record, "one", 1.0)], f"{name}_inner")
    if record.beta == 0.75:  # two square roots cost a tenth of a power
        root = graph.add("Sqrt", [inner], f"{name}_root")
        divisor = graph.add("Mul", [root, graph.add("Sqrt", [root], f"{name}_fourth_root")], f"{name}_divisor")
        return graph.add("Div", [at, divisor], name)
    power = graph.add("Pow", [inner, _constant(graph, record, "power", -record.beta)], f"{name}_power_of")
    return graph.add("Mul", [at, power], name)


def _grouped(graph: GraphBuilder, record: v.FC, at: str, name: str, weights: list[str], inputs: int, units: int) -> str:
    groups = record.groups
    towers = graph.tensor(f"{name}_towers", np.array([-1, groups, inputs // groups]))
    shape = graph.tensor(f"{name}_weight_shape", np.array([groups, units // groups, inputs // groups]))
    whole = graph.tensor(f"{name}_whole", np.array([-1, units]))
    x = graph.add("Transpose", [graph.add("Reshape", [at, towers], f"{name}_in")], f"{name}_by_tower", perm=[1, 0, 2])
    w = graph.add("Reshape", [weights[0], shape], f"{name}_weight_by_tower")
    w = graph.add("Transpose", [w], f"{name}_weight_turned", perm=[0, 2, 1])
    y = graph.add("Transpose", [graph.add("MatMul", [x, w], f"{name}_product")], f"{name}_joined", perm=[1, 0, 2])
    return graph.add("Add", [graph.add("Reshape", [y, whole], f"{name}_flat"), weights[1]], name)


def _local(
    graph: GraphBuilder, record: v.Local, at: str, name: str, weights: list[str], channels: int, after: tuple[int, ...]
) -> str:
    """A convolution that only collects each window, then one product a position."""
    window, (filters, height, width) = channels * record.kernel**2, after
    collect = np.eye(window, dtype=np.float32).reshape(window, channels, record.kernel, record.kernel)
    columns = graph.add("Conv", [at, graph.tensor(f"{name}_collect", collect)], f"{name}_columns",
                        pads=[record.pad] * 4, strides=[record.stride] * 2)  # fmt: skip
    flat = graph.tensor(f"{name}_flat_shape", np.array([0, window, height * width]))
    x = graph.add("Reshape", [columns, flat], f"{name}_windows")
    x = graph.add("Transpose", [x], f"{name}_by_position", perm=[2, 0, 1])
    shape = graph.tensor(f"{name}_weight_shape", np.array([filters, height * width, window]))
    w = graph.add("Reshape", [weights[0], shape], f"{name}_weight_flat")
    w = graph.add("Transpose", [w], f"{name}_weight_by_position", perm=[1, 2, 0])
    y = graph.add("Transpose", [graph.add("MatMul", [x, w], f"{name}_product")], f"{name}_maps", perm=[1, 2, 0])
    maps = graph.tensor(f"{name}_maps_shape", np.array([0, filters, height, width]))
    return graph.add("Add", [graph.add("Reshape", [y, maps], f"{name}_square"), weights[1]], name)


WRITER = Writer(40, ".onnx", "a graph of standard operators", write, ("preprocessing",))
