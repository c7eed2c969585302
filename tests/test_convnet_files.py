"""What lies between the weights of cuda-convnet's checkpoints: as in a variant, a change of it, or refused by name."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import convnet_file
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.networks.shapes import weight_shapes
from alexnet.networks.variants import variant
from alexnet.weights import formats
from made_weights import thin_variants

NETS = ("alexnet2012", "alexnet_cc2", *convnet_file.CIFAR)
RELUS = {"alexnet_cc2": ("pool1", "conv2", "conv3", "conv4", "pool3", "fc4096a", "fc4096b"),
         "cifar10_18": ("pool1", "conv2", "conv3")}  # fmt: skip


@pytest.fixture(autouse=True)
def thin(monkeypatch):
    thin_variants(monkeypatch)


@functools.cache
def tensors(name: str) -> dict[str, np.ndarray]:
    chosen = variant(name)
    shapes = weight_shapes(chosen, chosen.classes, 3, chosen.input)
    return {key: np.full(shape, 0.01, np.float32) for key, shape in shapes.items()}


def checkpoint(folder: Path, name: str, altered: dict | None = None) -> Path:
    kept, path = tensors(name), folder / "91.1"
    if name == "alexnet2012":
        return convnet_file.write_towers(path, kept, False, altered=altered)
    if name == "alexnet_cc2":
        return convnet_file.write_single(path, kept, increments=False, altered=altered)
    plan, side = convnet_file.CIFAR[name], convnet_file.SIDES[name]
    return convnet_file.write_single(path, kept, {}, True, plan, False, side=side, altered=altered)


def neurons(name: str, kind: str, **params: float) -> dict:
    return {f"{layer}_neuron": {"neuron": {"type": kind, "params": params}} for layer in RELUS[name]}


@pytest.mark.parametrize("name", NETS)
def test_the_authors_own_nets_are_read_unchanged(tmp_path, name):
    found = formats.read(checkpoint(tmp_path, name))
    assert (found.variant, found.changes) == (name, {})


DIFFERENT = [
    ("cifar10_18", "pool1", {"pool": "avg"}, "has pool avg where cifar10_18 has max"),
    ("cifar10_18", "pool3", {"pool": "max"}, "has pool max where cifar10_18 has avg"),
    ("cifar10_18", "pool1", {"pool": "maxabs"}, "has pool maxabs"),
    ("cifar10_18", "pool1", {"sizeX": 2}, "has sizeX 2 where cifar10_18 has 3"),
    ("cifar10_18", "pool1", {"stride": 3}, "has stride 3 where cifar10_18 has 2"),
    ("cifar10_18", "pool1", {"start": -1}, "has start -1 where cifar10_18 has 0"),
    ("cifar10_18", "pool1", {"outputsX": 15}, "has outputsX 15 where cifar10_18 has 16"),
    ("cifar10_18", "pool2", {"sum": 1}, "has sum 1 where cifar10_18 has 0"),
    ("cifar10_18", "rnorm1", {"size": 5}, "has size 5 where cifar10_18 has 3"),
    ("cifar10_18", "rnorm2", {"scale": 5e-5}, "has scale 5e-05 where cifar10_18 has 5.55556e-06"),
    ("cifar10_18", "rnorm1", {"pow": 0.5}, "has pow 0.5 where cifar10_18 has 0.75"),
    ("cifar10_18", "rnorm1", {"minDiv": 2.0}, "has minDiv 2 where cifar10_18 has 1"),
    ("cifar10_18", "rnorm1", {"type": "cnorm"}, r"is of type cnorm where cifar10_18 has norm1 \(WithinMapNorm\)"),
    ("cifar10_18", "conv2", {"stride": [2]}, "has stride 2 where cifar10_18 has 1"),
    ("cifar10_18", "conv2", {"padding": [0]}, "has padding 0 where cifar10_18 has 2"),
    ("cifar10_18", "conv2", {"modulesX": 12}, "has modulesX 12 where cifar10_18 has 16"),
    ("cifar10_18", "conv3_neuron", {"neuron": {"type": "softrelu", "params": {}}}, "has neuron softrelu where"),
    ("cifar10_18", "probs", {"type": "neuron", "neuron": {"type": "logistic"}}, r"is of type neuron .* prob \(Softmax"),
    ("cifar10_11", "rnorm2", {"minDiv": 2.0}, "has minDiv 2 where cifar10_11 has 1"),
    ("cifar10_13", "local4", {"padding": [0]}, "has padding 0 where cifar10_13 has 1"),
    ("alexnet_cc2", "rnorm1", {"minDiv": 1.0}, "has minDiv 1 where alexnet_cc2 has 2"),
    ("alexnet_cc2", "rnorm1", {"minDiv": None}, "has minDiv 1 where alexnet_cc2 has 2"),
    ("alexnet_cc2", "rnorm1", {"blocked": True}, "has blocked True where alexnet_cc2 has 0"),
    ("alexnet_cc2", "dropout2", {"keep": 0.4}, "has keep 0.4 where alexnet_cc2 has 0.5"),
    ("alexnet_cc2", "dropout1", {"type": "dropout"}, r"is of type dropout where alexnet_cc2 has drop6"),
    ("alexnet2012", "rnorm1b", {"minDiv": 1.0}, "has minDiv 1 where alexnet2012 has 2"),
    ("alexnet2012", "cnorm2a", {"scale": 4e-4}, "has scale 0.0004 where alexnet2012 has 4e-05"),
    ("alexnet2012", "conv3b", {"stride": [1, 2]}, "has stride 1, 2 where alexnet2012 has 1"),
    ("alexnet2012", "conv4b", {"inputs": ["conv3a_neuron"]}, "sees conv3a where alexnet2012 has conv3b"),
    ("alexnet2012", "conv4b", {"inputs": ["conv3b"]}, r"is of type conv where alexnet2012 has relu3 \(ReLU"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layer", "values", "words"), DIFFERENT)
def test_a_layer_that_computes_something_else_is_named(tmp_path, name, layer, values, words):
    with pytest.raises(AlexNetError, match=f"none of the networks known here: layer {layer} {words}"):
        formats.read(checkpoint(tmp_path, name, {layer: values}))


@pytest.mark.parametrize("name", RELUS)
def test_tanh_in_place_of_relu_is_an_activation_of_the_network(tmp_path, name):
    found = formats.read(checkpoint(tmp_path, name, neurons(name, "tanh", a=1.0, b=1.0)))
    assert (found.variant, found.changes) == (name, {"activation": "tanh"})
    with pytest.raises(AlexNetError, match=f"layer pool1_neuron has a 1.7159 where {name} has 1"):
        formats.read(checkpoint(tmp_path, name, neurons(name, "tanh", a=1.7159, b=1.0)))


@pytest.mark.parametrize(("keep", "dropout"), [(0.4, 0.6), (1.0, 0.0)])
def test_the_share_of_units_that_dropout_keeps_is_the_checkpoints(tmp_path, keep, dropout):
    kept = {"dropout1": {"keep": keep}, "dropout2": {"keep": keep}}
    found = formats.read(checkpoint(tmp_path, "alexnet_cc2", kept))
    assert (found.variant, found.changes) == ("alexnet_cc2", {"dropout": dropout})


def test_a_network_trained_without_dropout_halves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(convnet_file.SINGLE_BETWEEN, "fc6", "fc4096a_neuron")
    monkeypatch.setitem(convnet_file.SINGLE_BETWEEN, "fc7", "fc4096b_neuron")
    found = formats.read(checkpoint(tmp_path, "alexnet_cc2"))
    assert (found.variant, found.changes) == ("alexnet_cc2", {"dropout": 0.0})


def test_a_variant_that_was_asked_for_is_read_and_the_first_difference_is_said(tmp_path, caplog):
    file = checkpoint(tmp_path, "cifar10_18", {"pool2": {"pool": "max"}, "rnorm1": {"pow": 0.5}})
    assert formats.read(file, Hints(variant="cifar10_18")).variant == "cifar10_18"
    assert "though layer rnorm1 has pow 0.5 where cifar10_18 has 0.75" in caplog.text
