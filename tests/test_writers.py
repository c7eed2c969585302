"""The tests' own writers of weight files against readers that are not ours, and against the description."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convnet_file
from alexnet.networks.shapes import weight_shapes
from alexnet.networks.variants import variant
from alexnet.weights import formats
from narrow import narrow


class Options:
    """Stands in for the classes of cuda-convnet's options."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}


class Unpickler(pickle.Unpickler):
    """Python's own, with the code of cuda-convnet replaced."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("options", "python_util.options"):
            return Options
        assert module in ("numpy", "numpy.core.multiarray")
        return {"ndarray": np.ndarray, "dtype": np.dtype}.get(name) or np.ndarray(0).__reduce__()[0]


def read(path: Path) -> dict[str, Any]:
    contents = zipfile.ZipFile(path).read("data") if zipfile.is_zipfile(path) else path.read_bytes()
    return Unpickler(io.BytesIO(contents), encoding="latin-1").load()


def tensors(name: str) -> dict[str, np.ndarray]:
    small, draw = narrow(name), np.random.default_rng(0)
    shapes = weight_shapes(small, 5, 3, small.input)
    return {key: draw.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize("zipped", [False, True])
def test_python_reads_the_towers_checkpoint(tmp_path, zipped):
    kept = tensors("alexnet2012")
    checkpoint = read(convnet_file.write_towers(tmp_path / "91.1", kept, zipped=zipped, side=96))
    layers, state = checkpoint["model_state"]["layers"], checkpoint["model_state"]
    assert (state["epoch"], state["images_seen"]) == (91, 3_000_000_000)
    assert isinstance(checkpoint["op"], Options)
    assert layers["conv3b"]["inputs"] == ["pool2a", "pool2b"]
    assert layers["conv3b"]["inputLayers"][1] is layers["pool2b"]
    assert layers["fc2048bb"]["inputs"] == ["hs1b", "hs1a"]
    for row, (c, y, x) in enumerate(np.ndindex(16, 3, 3)):  # conv3b's second block: its maps of tower b
        expected = kept["conv3.weight"][6:, 16 + c, y, x]
        assert (layers["conv3b"]["weights"][1][row] == expected).all()
    first, second = layers["fc2048bb"]["weights"]  # units of tower b, of inputs b and then a
    assert (first == kept["fc7.weight"][12:, 12:].T).all()
    assert (second == kept["fc7.weight"][12:, :12].T).all()
    assert first.flags.f_contiguous
    assert (layers["conv2b"]["biases"][:, 0] == kept["conv2.bias"][16:]).all()
    assert (layers["fc1000"]["biases"][0] == kept["fc8.bias"]).all()
    assert layers["fc2048a"]["weightsInc"][1].shape == layers["fc2048a"]["weights"][1].shape


def test_the_sixth_convolution_of_tower_b_names_its_inputs_the_other_way_round(tmp_path):
    kept = tensors("alexnet2012_conv6")
    layers = read(convnet_file.write_towers(tmp_path / "54.1", kept, side=96))["model_state"]["layers"]
    assert layers["conv6b"]["inputs"] == ["pool3b_neuron", "pool3a_neuron"]
    assert layers["fc2048a"]["inputs"] == ["conv6a_neuron", "conv6b_neuron"]
    assert (layers["conv6b"]["weights"][0][:9, 0] == kept["conv6.weight"][6, 8].ravel()).all()
    assert (layers["conv6a"]["weights"][0][:9, 0] == kept["conv6.weight"][0, 0].ravel()).all()


def test_python_reads_a_list_of_layers_with_unshared_weights(tmp_path):
    kept = tensors("cifar10_13")
    path = convnet_file.write_single(tmp_path / "500.5", kept, {}, True, convnet_file.CIFAR["cifar10_13"], side=24)
    layers = read(path)["model_state"]["layers"]
    names = [layer["name"] for layer in layers]
    assert names[2:7] == ["conv1", "conv1_neuron", "pool1", "conv2", "conv2_neuron"]
    assert [names[i] for i in layers[names.index("local4")]["inputs"]] == ["local3_neuron"]
    local, weight = layers[names.index("local3")], kept["local3.weight"]
    assert local["type"] == "local"
    side, channels = weight.shape[1], weight.shape[3]
    for row, (position, c, y, x) in enumerate(np.ndindex(side**2, channels, 3, 3)):
        expected = weight[:, position // side, position % side, c, y, x]
        assert (local["weights"][0][row] == expected).all()
    assert (local["biases"].reshape(len(weight), side, side) == kept["local3.bias"]).all()


def test_a_checkpoint_that_cuda_convnet_compressed_is_read(tmp_path):
    shapes = weight_shapes(variant("cifar10_13"), 10, 3, 24)
    kept = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    plan = convnet_file.CIFAR["cifar10_13"]
    path = convnet_file.write_single(tmp_path / "500.5", kept, {}, True, plan, increments=False, zipped=True, side=24)
    assert formats.read(path).variant == "cifar10_13"
