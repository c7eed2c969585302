"""MatConvNet's .mat files as its importers leave them, written by SciPy from tables of layers: to try the reader on.

SimpleNN has a cell of structures, DagNN two arrays of structures, layers and params. An array's sides are in MATLAB's
order: filters(row, column, input, output), averageImage(row, column, colour).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from caffe_file import ORDERS, PLACES, REST

ORDERS = {**ORDERS, "matconvnet_alexnet": "conv1 relu1 pool1 conv2 relu2 pool2"}
DAG = {
    "conv": "Conv", "pool": "Pooling", "lrn": "LRN", "relu": "ReLU", "dropout": "DropOut", "softmax": "SoftMax",
    "bnorm": "BatchNorm", "loss": "Loss",
}  # fmt: skip
KEPT = ("pad", "stride", "method", "param", "rate", "leak", "dilate")


def row(*numbers: float) -> np.ndarray:
    """A double array of one row."""
    return np.array([numbers], np.float64)


def cell(values: Sequence[Any]) -> np.ndarray:
    """A cell of one row."""
    out = np.empty((1, len(values)), object)
    out[0, :] = values
    return out


def layers(tensors: Mapping[str, np.ndarray], net: str = "bvlc_alexnet", dropout: bool = False) -> list[dict[str, Any]]:
    """The layers of newer SimpleNN; `tensors` are conv1.weight (out, in / groups, y, x) … fc8.bias (out,)."""
    found: list[dict[str, Any]] = []
    maps = 0
    for name in (ORDERS[net] + " " + REST).split():
        kind = name.rstrip("0123456789")
        if kind in ("conv", "fc"):
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            stride, pad = PLACES.get(name, (1, 0))
            if kind == "fc":
                side = round((weight.shape[1] / maps) ** 0.5)
                weight = weight.reshape(len(weight), maps, side, side)
            maps = len(weight)
            pair = cell([np.einsum("oiyx->yxio", weight), bias.reshape(1, -1)])
            found.append(
                {"name": name, "type": "conv", "weights": pair, "pad": row(*[pad] * 4), "stride": row(stride, stride)}
            )
        elif kind == "relu":
            found.append({"name": name, "type": "relu"})
        elif kind == "norm":
            found.append({"name": name, "type": "lrn", "param": row(5, 1, 1e-4 / 5, 0.75)})
        elif kind == "pool":
            window = {"pool": row(3, 3), "stride": row(2, 2), "pad": row(0, 0, 0, 0)}
            found.append({"name": name, "type": "pool", "method": "max", **window})
        elif dropout:
            found.append({"name": name, "type": "dropout", "rate": 0.5})
    return [*found, {"name": "prob", "type": "softmax"}]


def older(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same as SimpleNN had them in 2014: filters and biases apart, normalize, one number for all sides."""
    found = []
    for layer in given:
        one = {key: value for key, value in layer.items() if key not in ("weights", "name")}
        if layer["type"] == "conv":
            one |= {"filters": layer["weights"][0, 0], "biases": layer["weights"][0, 1]}
        if layer["type"] == "lrn":
            one["type"] = "normalize"
        found.append({**one, **{key: float(layer[key][0, 0]) for key in ("pad", "stride") if key in layer}})
    return found


def pictures(mean: np.ndarray | None = None, side: int = 227, **changed: Any) -> dict[str, Any]:
    """normalization; the mean is (row, column, colour) in RGB."""
    found: dict[str, Any] = {
        "imageSize": row(side, side, 3), "averageImage": np.zeros((0, 0)) if mean is None else mean,
        "border": row(256 - side, 256 - side), "keepAspect": True, "interpolation": "bicubic",
    }  # fmt: skip
    return {key: value for key, value in {**found, **changed}.items() if value is not None}


def write(
    path: Path, given: Sequence[Mapping[str, Any]], normalization: Mapping[str, Any] | None = None,
    names: Sequence[str] = (), form: str = "new", packed: bool = False,
) -> Path:  # fmt: skip
    """A .mat of the layers: `form` new (net.meta), old (net.normalization) or dag; with inner, all within net."""
    classes = (
        {"name": cell([f"n{n:08d}" for n in range(len(names))]), "description": cell(list(names))} if names else {}
    )
    about = {key: value for key, value in (("normalization", normalization), ("classes", classes)) if value}
    whole: dict[str, Any] = {"layers": cell([dict(one) for one in given]), "meta": about or row()}
    if form == "old":
        whole = {"layers": whole["layers"], **about}
    if "dag" in form:
        whole = {**dag(given), "meta": about, "vars": structures([{"name": "input", "precious": False}])}
    if "inner" in form:
        whole = {"net": whole, "stats": row(1, 2)}
    scipy.io.savemat(path, whole, do_compression=packed)
    return path


def structures(given: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """An array of structures of one row."""
    out = np.empty((1, len(given)), [(key, object) for key in given[0]])
    for number, one in enumerate(given):
        out[0, number] = tuple(one.values())
    return out


def dag(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """layers and params of a DagNN, a chain from input to prob."""
    params: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    before = "input"
    for number, layer in enumerate(given):
        block = {key: value for key, value in layer.items() if key in KEPT}
        own = []
        if layer["type"] == "conv":
            own = [f"{layer['name']}f", f"{layer['name']}b"]
            params += [{"name": name, "value": x} for name, x in zip(own, layer["weights"][0], strict=True)]
            block = {"hasBias": True, "dilate": row(1, 1), **block}
        if layer["type"] == "pool":
            block["poolSize"] = layer["pool"]
        after = f"x{number}"
        kind = f"dagnn.{DAG[layer['type']]}"
        ends = {
            "inputs": cell([before, "label"] if layer["type"] == "loss" else [before]),
            "outputs": cell([after]),
            "params": cell(own),
        }
        found.append({"name": layer["name"], "type": kind, **ends, "block": block or row()})
        before = after
    return {"layers": structures(found), "params": structures(params)}
