"""A network in training mode, or of another type, answers as it does otherwise or says why not."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.inference.conversion import compare
from alexnet.inference.similarity import build_index, similar
from conftest import coloured

pytestmark = pytest.mark.cpu


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_run, folders):
    return build_index(tiny_run, [str(folders / "val" / "red")], tmp_path_factory.mktemp("index") / "i", "relu6")[0]


PICTURES = [coloured("red", 1), coloured("green", 2), coloured("blue", 3)]
WAYS = {
    "predict": lambda one, index, data: [[c.probability for c in x.classes] for x in one.predict(PICTURES)],
    "ten views": lambda one, index, data: package.predict(one, PICTURES[0], views=10)[0].classes[0].probability,
    "features": lambda one, index, data: [x.values["drop6"] for x in one.features(PICTURES, ["drop6"])],
    "look": lambda one, index, data: [
        list(x.values()) if isinstance(x, dict) else x.probabilities
        for look in [package.look(one, PICTURES[0], ["cam", "occlusion", "gradient", "views", "where"])]
        for x in (look.heat, look.views, look.where)
    ],
    "similar": lambda one, index, data: [
        [y.distance for y in x.neighbours] for x in similar(index, PICTURES, model=one)
    ],
    "evaluate": lambda one, index, data: package.evaluate(one, data).loss,
    "compare": lambda one, index, data: [x.difference for x in compare(one, package.load(data), PICTURES).layers],
}  # fmt: skip


def flat(found) -> np.ndarray:
    return np.concatenate([flat(x) for x in found]) if isinstance(found, list) else np.ravel(np.asarray(found))


@pytest.mark.parametrize("way", WAYS)
def test_a_network_in_training_mode_answers_as_in_eval_mode_and_stays_in_it(way, tiny_run, folders, index):
    one, place = package.load(tiny_run), tiny_run if way == "compare" else folders
    right = flat(WAYS[way](one, index, place))
    one.model.train()
    one.model.drop6.p = one.model.drop7.p = 0.5
    one.model.norm1.eval()
    before = [layer.training for layer in one.model.modules()]
    for _ in range(2):
        assert np.array_equal(flat(WAYS[way](one, index, place)), right)
    assert [layer.training for layer in one.model.modules()] == before


def test_the_mode_is_as_it_was_after_an_error(tiny_run):
    one = package.load(tiny_run)
    one.model.train().relu2.register_forward_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.predict(PICTURES)
    assert all(layer.training for layer in one.model.modules())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("way", WAYS)
def test_a_network_of_another_type_is_refused_in_a_sentence(way, kind, tiny_run, folders, index):
    one = package.load(tiny_run)
    one.model.to(kind)
    with pytest.raises(AlexNetError, match=rf"float32, and conv1.weight is {str(kind)[6:]}; call .model.float"):
        WAYS[way](one, index, tiny_run if way == "compare" else folders)
    one.model.float()
    one.predict(PICTURES)


@pytest.mark.parametrize(("kind", "lost"), [(torch.bfloat16, False), (torch.float64, True), ("exact", False)])
def test_digits_that_a_file_loses_are_said(kind, lost, tiny_run, tmp_path, caplog):
    one = package.load(tiny_run)
    one.model.to(torch.float64 if kind == "exact" else kind)
    if lost:
        with torch.no_grad():
            one.model.fc7.bias += 1e-9
    with caplog.at_level(logging.WARNING, "alexnet"):
        one.save(tmp_path / "net.safetensors")
    assert ("fc7.bias is float64 and is kept as float32: digits are lost" in caplog.text) == lost
    again = package.load(tmp_path / "net.safetensors").model
    assert all(torch.equal(x, again.state_dict()[name].to(x.dtype)) for name, x in one.model.state_dict().items()
               if not lost)  # fmt: skip
