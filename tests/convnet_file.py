"""cuda-convnet's checkpoints from the description of the format: what the reader is tried on.

A checkpoint is a pickle of Python 2, protocol 2: {'model_state': {'layers': …, 'epoch': …, …}, 'op': options}. `op` is
an instance of an old-style class (`options.OptionsParser`, in cuda-convnet2 `python_util.options.OptionsParser`) that
holds more instances and classes. `layers` is a dictionary by name in the code of 2012 and in cuda-convnet2, in no
order, and a list in cuda-convnet of 2011; a layer names its inputs (in the list by number), and in the dictionaries
also refers to them, so that the same dictionary is met again and again.

Matrices: a convolution's weights are (channels · k · k, filters) in C order, its biases (filters, 1); a fully connected
layer's are (inputs, outputs) in Fortran order, one for each input layer, its biases (1, outputs); a local layer's are
(positions · channels · k · k, filters) and its biases (filters · positions, 1), filter by filter.

Layers without weights say what they compute under keys of their own, a norm's scale already divided by the numbers that
its sum is over; a convolution's padding is below 0. Sizes of maps are rounded up, and kept with each layer.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from python2_pickle import Class, Instance, Pickler

# Layers without weights after each layer with weights, as in layers-145.cfg and layers-imagenet-1gpu.cfg; # is the
# tower's letter, or nothing. Layers ending in _neuron are the ReLUs, which the code writes apart.
BETWEEN = {
    "conv1": "rnorm1# pool1# pool1#_neuron",
    "conv2": "conv2#_neuron rnorm2# cnorm2# pool2#",
    "conv3": "conv3#_neuron",
    "conv4": "conv4#_neuron",
    "conv5": "pool3# pool3#_neuron",
}
TOWERS = {**{name: f"{name}#" for name in (*BETWEEN, "conv6")}, "fc6": "fc2048#", "fc7": "fc2048b#"}
TOWERS_BETWEEN = {**BETWEEN, "conv6": "conv6#_neuron", "fc6": "fc2048#_neuron hs1#", "fc7": "fc2048b#_neuron hs2#"}
SINGLE = {"fc6": "fc4096a", "fc7": "fc4096b", "fc8": "fc1000"}
SINGLE_BETWEEN = {**BETWEEN, "fc6": "fc4096a_neuron dropout1", "fc7": "fc4096b_neuron dropout2", "fc8": ""}
SINGLE_BETWEEN["conv2"] = "conv2_neuron rnorm2 pool2"
# The author's nets for CIFAR-10, by the package's names for them; their own layers are called as the package's.
CIFAR = {
    "cifar10_18": {
        "conv1": "pool1 pool1_neuron rnorm1:rnorm18",
        "conv2": "conv2_neuron pool2:average rnorm2:rnorm18",
        "conv3": "conv3_neuron pool3:average",
    },
    "cifar10_13": {"conv1": "conv1_neuron pool1", "conv2": "conv2_neuron pool2"},
    "cifar10_11": {"conv1": "conv1_neuron rnorm1:rnorm11 pool1", "conv2": "conv2_neuron rnorm2:rnorm11 pool2"},
}
SIDES = {"cifar10_18": 32, "cifar10_13": 24, "cifar10_11": 24}
POOL = {"type": "pool", "pool": "max", "sizeX": 3, "start": 0, "stride": 2}
# What layers without weights say of themselves (docs/facts.md 2 and 8), by how their names begin, or the word after it.
SAYS: dict[str, dict[str, Any]] = {
    "rnorm": {"type": "cmrnorm", "size": 5, "scale": 1e-4 / 5, "pow": 0.75, "minDiv": 2.0, "blocked": False},
    "rnorm11": {"type": "cmrnorm", "size": 5, "scale": 1e-3 / 5, "pow": 0.75, "blocked": False},  # of 2011: no minDiv
    "rnorm18": {"type": "rnorm", "size": 3, "scale": 5e-5 / 9, "pow": 0.75, "blocked": False},
    "cnorm": {"type": "rnorm", "size": 5, "scale": 1e-3 / 25, "pow": 0.75, "blocked": False},
    "pool": POOL,
    "average": {**POOL, "pool": "avg"},
    "hs": {"type": "hs", "keep": 0.5, "enable": True},
    "dropout": {"type": "dropout2", "keep": 0.5, "enable": True},
}


# -- matrices ---------------------------------------------------------------------------------------------------


def conv_matrix(weight: np.ndarray) -> np.ndarray:
    """(filters, channels, k, k) -> (channels · k · k, filters), row c·k² + y·k + x."""
    return np.ascontiguousarray(weight.transpose(1, 2, 3, 0).reshape(-1, len(weight)), np.float32)


def fc_matrix(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs) -> (inputs, outputs) in Fortran order."""
    return np.asfortranarray(weight.T, np.float32)


def local_matrix(weight: np.ndarray) -> np.ndarray:
    """(filters, H, W, channels, k, k) -> (positions · channels · k · k, filters), position y·W + x."""
    return np.ascontiguousarray(weight.transpose(1, 2, 3, 4, 5, 0).reshape(-1, len(weight)), np.float32)


# -- checkpoints ------------------------------------------------------------------------------------------------


def write_towers(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    increments: bool = True,
    zipped: bool = False,
    side: int = 224,
    altered: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A checkpoint of net 145, the two towers of 2012, or with a conv6 of net 146, at any width.

    `tensors` are those of one module: conv1.weight (filters, channels, k, k), those of conv2, conv4 and conv5 with half
    the channels (groups = 2) … fc8.bias. `increments` stores momentum beside each matrix, as the code does; `zipped`
    compresses as its option does. `side` is that of the pictures; `altered` gives layers other values of some keys.
    """
    layers = _inputs(side)
    before = ["data", "data"]
    for name, pattern in TOWERS.items():
        if f"{name}.weight" not in tensors:
            continue  # conv6
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        half, seen = len(weight) // 2, weight.shape[1] // 2
        ends = []
        for tower, letter in enumerate("ab"):
            own, own_bias = weight[tower * half :][:half], bias[tower * half :][:half]
            if name in ("conv1", "conv2", "conv4", "conv5"):
                blocks, inputs = [own], [before[tower]]
            else:
                blocks, inputs = [own[:, :seen], own[:, seen:]], before
            title = pattern.replace("#", letter)
            if title in ("conv6b", "fc2048bb"):  # the two that name their inputs as (b, a)
                blocks, inputs = blocks[::-1], inputs[::-1]
            _add(layers, title, blocks, own_bias, inputs, increments)
            ends.append(_add_between(layers, title, TOWERS_BETWEEN[name].replace("#", letter)))
        before = ends
    weight = tensors["fc8.weight"]
    seen = weight.shape[1] // 2
    _add(layers, "fc1000", [weight[:, :seen], weight[:, seen:]], tensors["fc8.bias"], before, increments)
    _add_cost(layers, "fc1000")
    _alter(layers, altered)
    return dump(path, layers, "options", zipped)


def write_single(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str] | None = None,
    as_list: bool = False,
    between: Mapping[str, str] | None = None,
    increments: bool = True,
    zipped: bool = False,
    side: int = 224,
    altered: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A checkpoint of one tower at any width: cuda-convnet2's ImageNet net, or with `as_list` one of 2011.

    `tensors` come in the order of the layers: weights (filters, channels, k, k) are a convolution's, (outputs, inputs)
    a fully connected layer's, (filters, H, W, channels, k, k) with biases (filters, H, W) a local one's.
    `names` gives cuda-convnet's names for the package's, by default fc4096a, fc4096b and fc1000 for fc6, fc7 and fc8;
    with names of one's own, for example none, `between` are the layers without weights, such as CIFAR["cifar10_11"],
    a layer that is not in it being followed by its ReLU. `side` is that of the pictures, `altered` as for the towers.
    """
    layers, before = _inputs(side), "data"
    order = list(dict.fromkeys(key.partition(".")[0] for key in tensors))
    for name in order:
        title = (SINGLE if names is None else names).get(name, name)
        _add(layers, title, [tensors[f"{name}.weight"]], tensors[f"{name}.bias"], [before], increments)
        after = SINGLE_BETWEEN if names is None else {**{x: f"{x}_neuron" for x in order[:-1]}, **(between or {})}
        before = _add_between(layers, title, after.get(name, "").replace("#", ""))
    _add_cost(layers, before)
    _alter(layers, altered)
    if not as_list:
        return dump(path, layers, "python_util.options", zipped)
    numbers = {title: number for number, title in enumerate(layers)}
    for record in layers.values():
        if "inputs" in record:
            record["inputs"] = [numbers[name] for name in record["inputs"]]
            del record["inputLayers"]
    return dump(path, list(layers.values()), "options", zipped)


def dump(path: Path, layers: Any, module: str = "options", zipped: bool = False) -> Path:
    """A checkpoint around any `layers`; `module` is where the class of its options lives."""
    if isinstance(layers, dict):  # as good an order as any, for Python 2's dictionaries have none
        layers = dict(sorted(layers.items(), key=lambda item: item[0][::-1]))
    text = Class(module, "StringOptionParser")
    option = Instance(Class(module, "Option"), {"name": "load_file", "letter": "f", "parser": text, "value": None})
    contents = Pickler().encode(
        {
            "model_state": {
                "layers": layers,
                "epoch": 91,
                "batchnum": 1,
                "train_outputs": [({"logprob": [203.5, 50.25]}, 128)],
                "test_outputs": [],
                "images_seen": 3_000_000_000,
            },
            "op": Instance(Class(module, "OptionsParser"), {"options": {"load_file": option}}),
        }
    )
    if zipped:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data", contents)
    else:
        path.write_bytes(contents)
    return path


def _inputs(side: int) -> dict[str, dict[str, Any]]:
    data = [{"name": name, "type": "data", "dataIdx": i, "gpu": -1} for i, name in enumerate(("data", "labels"))]
    data[0]["outputs"], data[1]["outputs"] = 3 * side**2, 1
    return {str(record["name"]): record for record in data}


def _alter(layers: dict[str, dict[str, Any]], altered: Mapping[str, Mapping[str, Any]] | None) -> None:
    """None takes a key away."""
    for name, values in (altered or {}).items():
        layers[name] |= values
        for key in [key for key, value in values.items() if value is None]:
            del layers[name][key]


def _see(record: dict[str, Any], channels: int) -> int:
    """The side of the maps that a layer sees, of which it is told."""
    pixels = record["inputLayers"][0]["outputs"] // channels
    record |= {"imgPixels": pixels, "imgSize": math.isqrt(pixels)}
    return math.isqrt(pixels)


def _link(layers: dict[str, dict[str, Any]], title: str, kind: str, inputs: list[str]) -> dict[str, Any]:
    layers[title] = {
        "name": title,
        "type": kind,
        "inputs": list(inputs),
        "inputLayers": [layers[name] for name in inputs],
        "gpu": 0,
    }
    return layers[title]


def _add(
    layers: dict[str, dict[str, Any]],
    title: str,
    blocks: list[np.ndarray],
    bias: np.ndarray,
    inputs: list[str],
    increments: bool,
) -> None:
    kind = {2: "fc", 4: "conv", 6: "local"}[blocks[0].ndim]
    record = _link(layers, title, kind, inputs)
    if kind == "fc":
        record |= {"outputs": len(bias), "weights": [fc_matrix(block) for block in blocks]}
        record["biases"] = np.asfortranarray(bias.reshape(1, -1), np.float32)
    else:
        record |= {
            "filters": len(blocks[0]),
            "stride": [4 if block.shape[-1] == 11 else 1 for block in blocks],
            "padding": [0 if block.shape[-1] == 11 else -(block.shape[-1] // 2) for block in blocks],
            "channels": [block.shape[-3] for block in blocks],
            "filterSize": [block.shape[-1] for block in blocks],
            "groups": [1] * len(blocks),
            "sharedBiases": kind == "conv",
            "weights": [(conv_matrix if kind == "conv" else local_matrix)(block) for block in blocks],
            "biases": np.ascontiguousarray(bias.reshape(-1, 1), np.float32),
        }
        size = _see(record, blocks[0].shape[-3])
        record |= {"imgSize": [size] * len(blocks), "imgPixels": [size**2] * len(blocks)}
        record["modulesX"] = _positions(size, blocks[0].shape[-1], record["stride"][0], -record["padding"][0])
        record |= {"modules": record["modulesX"] ** 2, "outputs": record["modulesX"] ** 2 * len(blocks[0])}
    record |= {"initW": [0.01] * len(blocks), "initB": 1.0, "epsW": [0.0] * len(blocks), "epsB": 0.02}
    if increments:
        record["weightsInc"] = [np.zeros_like(block) for block in record["weights"]]
        record["biasesInc"] = np.zeros_like(record["biases"])


def _add_between(layers: dict[str, dict[str, Any]], before: str, titles: str) -> str:
    """Layers without weights, `name` or `name:word`, one after the other; the name of the last."""
    maps = layers[before].get("filters", 0)
    for token in titles.split():
        title, _, word = token.partition(":")
        record = _link(layers, title, "neuron", [before])
        record["outputs"] = layers[before]["outputs"]
        if title.endswith("_neuron"):
            record["neuron"] = {"type": "relu", "params": {}, "usesActs": True, "usesInputs": False}
        else:
            record |= SAYS[word or title.rstrip("ab").rstrip("12345")]
        if "size" in record or "sizeX" in record:
            record["channels"], side = maps, _see(record, maps)
        if "sizeX" in record:
            record["outputsX"] = _positions(side, record["sizeX"], record["stride"], 0)
            record["outputs"] = maps * record["outputsX"] ** 2
        before = title
    return before


def _positions(side: int, kernel: int, stride: int, padding: int) -> int:
    return 1 + math.ceil((2 * padding + side - kernel) / stride)


def _add_cost(layers: dict[str, dict[str, Any]], source: str) -> None:
    _link(layers, "probs", "softmax", [source])
    _link(layers, "logprob", "cost.logreg", ["labels", "probs"])["coeff"] = 1.0
