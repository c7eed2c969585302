"""Inputs that a plan does not take, by adapting the first fully connected layer: trained, fine-tuned, kept, refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.networks import variants
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import layer_facts, sizes
from alexnet.networks.variants import VARIANTS, Local
from alexnet.training import recipe
from alexnet.training.starting import _adapt_first_flat
from conftest import TINY
from narrow import narrow

ADAPT = {"adapt": True}


@pytest.mark.parametrize("factor", [0.8, 1.6])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_takes_other_inputs_where_it_is_adapted(name, factor):
    plan = narrow(name)
    side = round(plan.input * factor)
    if side in sizes(plan):
        side = sizes(plan).start - 1
    with pytest.raises(AlexNetError, match="adapt=true adapts the layer"):
        AlexNet(plan, 3, 3, side)
    net = AlexNet(plan, 3, 3, side, ADAPT).eval()
    assert net(torch.zeros(2, 3, side, side)).shape == (2, 3)
    facts = layer_facts(net.variant, 3, 3, side)
    assert sum(x.parameters for x in facts) == sum(x.numel() for x in net.parameters())


@pytest.mark.parametrize("side", [64, 127, 180])
@pytest.mark.parametrize("name", ["alexnet2012", "alexnet_owt", "alexnet2012_apart"])
def test_adapted_weights_begin_as_an_adaptive_average_pooling_before_the_old_ones(name, side):
    plan = dataclasses.replace(narrow(name), input=128 if name != "alexnet_owt" else 127, stored=128)
    old = AlexNet(plan, 3, 3, plan.input).eval()
    new = AlexNet(plan, 3, 3, side, ADAPT).eval()
    tensors = dict(old.state_dict())
    _adapt_first_flat(tensors, old, new)
    new.load_state_dict(tensors)
    x = torch.randn(2, 3, side, side)
    maps = new(x, until="pool5" if name == "alexnet_owt" else "relu5")
    before = next(row.output for row in layer_facts(plan, 3, 3, plan.input) if row.name == "pool5")[1]
    wanted = old.fc6(nn.AdaptiveAvgPool2d(before)(maps).flatten(1))
    torch.testing.assert_close(new(x, until="fc6"), wanted, rtol=1e-4, atol=1e-5)


def test_layers_whose_weights_belong_to_places_are_not_adapted_but_trained_from_scratch():
    plan = narrow("cifar10_13")
    assert any(isinstance(layer, Local) for layer in plan.layers)
    old, new = AlexNet(plan, 3, 3, 24), AlexNet(plan, 3, 3, 40, ADAPT)
    with pytest.raises(AlexNetError, match=r"cannot be adapted from input 24 to 40: local3.weight belongs to places"):
        _adapt_first_flat(dict(old.state_dict()), old, new)


def test_what_nothing_can_be_adapted_to_is_refused():
    for side in (8, 4000):
        with pytest.raises(AlexNetError, match=f"cannot be adapted to input {side}"):
            package.build("alexnet2012", input=side, adapt=True)
    with pytest.raises(AlexNetError, match="adapt = 1; it takes true or false"):
        package.build("alexnet2012", input=96, adapt=1)


def test_an_adapted_run_is_trained_kept_resumed_and_used_at_its_size(alexnet, refused, folders, slim, tmp_path):
    sets = ["--set", *TINY, "max_steps=1"]
    run = tmp_path / "run"
    assert "adapt=true adapts the layer to others" in refused("train", folders, "--out", run, *sets, "input=20")
    assert alexnet("train", folders, "--out", run, *sets, "input=20", "adapt=true")[0] == 0
    assert alexnet("train", folders, "--out", run, "--resume", "--set", "max_steps=2")[0] == 0
    one = package.load(run)
    assert (one.preprocess.input, one.preprocess.stored, one.model.changes["adapt"]) == (20, 23, True)
    assert recipe.resolve(str(run / "recipe.toml")).adapt
    assert alexnet("predict", run, folders / "val" / "red")[0] == 0
    assert alexnet("convert", run, tmp_path / "a.onnx")[0] == 0
    again = package.load(tmp_path / "a.onnx")
    assert torch.equal(one.model.fc6.weight, again.model.fc6.weight)
    assert "cannot take input 40" in refused("convert", run, tmp_path / "b.safetensors", "--input", "40")

    begun, more = tmp_path / "begun", tmp_path / "more"
    assert alexnet("train", folders, "--out", begun, *sets)[0] == 0
    words = ["finetune", begun, folders, "--out", more, "--set", "max_steps=1", "batch_size=8"]
    assert "cannot take input 40" in refused(*words, "input=40", "stored=46")
    assert alexnet(*words, "input=40", "adapt=true")[0] == 0
    tuned = package.load(more)
    assert (tuned.preprocess.input, tuned.preprocess.stored) == (40, 46)
    assert tuned.model.fc6.in_features > package.load(begun).model.fc6.in_features
    assert "adapt" not in package.load(begun).model.changes


def test_without_adapt_a_checkpoint_says_nothing_of_it():
    assert "adapt" not in recipe.changes(recipe.Recipe())
    assert recipe.changes(recipe.Recipe(adapt=True))["adapt"] is True
    assert variants.changed(variants.variant("alexnet32"), {}) == variants.variant("alexnet32")
