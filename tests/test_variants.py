"""Every variant, at reduced width, through everything that is done with a network; the table is variants.VARIANTS."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alexnet as package
from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.base.metrics import read
from alexnet.data import augment
from alexnet.data.dataset import Split
from alexnet.data.layouts.registry import Data
from alexnet.data.loader import epoch_order
from alexnet.data.preprocess import Preprocess
from alexnet.inference.conversion import compare, convert
from alexnet.networks import fast, model
from alexnet.networks import variants as v
from alexnet.networks.fast.cpu import blocks, compiler
from alexnet.networks.variants import VARIANTS
from alexnet.training import report
from alexnet.training.loop import train
from alexnet.weights import formats
from alexnet.weights.classifier import Classifier, weights_of
from conftest import COLOURS, DEVICE, coloured, encoded
from cuda_autocast import cuda_autocast
from narrow import narrow, redraw

pytestmark = pytest.mark.device

BATCH, RATE, DECAY = 4, 2e-4, 0.05
TAKEN_AWAY = {"alexnet_bn": ("conv1.bias", "conv2.bias")}  # by the norm that comes after them
# precision of the recipe, what autocast casts, and how far two steps and their losses may be from float64
PRECISIONS = {
    "float32": ("float32", nullcontext, 5e-3, 1e-4),
    "bfloat16": ("bfloat16", nullcontext, 0.7, 0.02),
}
if DEVICE.type == "cpu":
    PRECISIONS["bfloat16, as on a GPU"] = ("bfloat16", cuda_autocast, 0.7, 0.02)
if DEVICE.type == "cuda":
    PRECISIONS["tf32"] = ("tf32", nullcontext, 0.7, 0.02)  # nearer than bfloat16


@pytest.fixture(autouse=True)
def narrowed(monkeypatch) -> None:
    """Every variant at reduced width, under its own name."""
    for name in VARIANTS:
        monkeypatch.setitem(VARIANTS, name, narrow(name))
    monkeypatch.setattr(model, "initialise", begin)


def begin(net: model.AlexNet) -> None:
    """Weights that let gradients through at this width, and logits of about 1."""
    redraw(net)
    with torch.no_grad():
        net.get_submodule(net.logits).weight *= min(1, net.variant.pixel_scale / 50)


def in_turn(choices: Sequence[str] | dict, name: str) -> str:
    """One of the choices for each variant, so that each has its share: what costs much is not tried in all of them."""
    return list(choices)[list(VARIANTS).index(name) % len(choices)]


@pytest.fixture(params=VARIANTS)
def name(request) -> str:
    return request.param


@cache
def data(classes: int = 3) -> Data:
    """Two pictures a class to learn from, one held out; 110 x 104 pixels."""

    def split(origin: str, per_class: int, first: int) -> Split:
        colours = list(COLOURS)
        made = [
            (encoded(coloured(colours[label], first + n, (110, 104))), label)
            for n in range(per_class)
            for label in range(classes)
        ]
        return Split(origin, np.array([label for _, label in made]), lambda i: made[i][0], str)

    splits = {"train": split("made", 2, 0), "valid": split("made", 1, 50)}
    return Data("made", "made", list(COLOURS)[:classes], splits)


def sizes(name: str) -> tuple[int, int]:
    """Sides of the stored picture and of the crop, of which some room is left."""
    side = VARIANTS[name].input
    return max(VARIANTS[name].stored, side + 4), side


def by_hand(name: str, mean: Tensor, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of the first steps in float64: layers, loss, gradient and rule written out."""
    plan, (stored, side) = VARIANTS[name], sizes(name)
    preprocess = Preprocess(stored, side, "RGB", (plan.pixel_scale,), mean)
    net = model.seeded_build(0, name, 3, 3, side).double().train()
    velocity = {key: torch.zeros_like(w) for key, w in net.named_parameters()}
    decays = {layer.name: DECAY * layer.decay_mult for layer in plan.layers if isinstance(layer, v.Weighted)}
    split, losses = data().split("train"), []
    rows = epoch_order(0, 0, len(split))
    for step in range(steps):
        chosen = rows[step * BATCH : (step + 1) * BATCH]
        pixels = torch.stack([preprocess.pixels(split.read(int(row))) for row in chosen])
        x = preprocess.normalise(preprocess.central(pixels)).double()
        key = (0, 0, step, augment.DROPOUT)
        masks = augment.dropout_masks(net.dropouts, len(chosen), np.arange(len(chosen)), key, DEVICE)
        masks = {layer: mask.cpu().double() for layer, mask in masks.items()}
        log_p = F.log_softmax(net(x, masks), 1)
        loss = -log_p[torch.arange(len(chosen)), torch.from_numpy(split.labels[chosen])].mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for (key_, w), g in zip(net.named_parameters(), gradients, strict=True):
                layer, _, kind = key_.rpartition(".")
                rate, decay = (RATE, decays.get(layer, DECAY)) if kind == "weight" else (2 * RATE, 0.0)
                velocity[key_] = 0.9 * velocity[key_] - rate * (g + decay * w)
                w += velocity[key_]
    return losses, {key: w.detach() for key, w in net.named_parameters()}


def recipe(name: str, precision: str) -> list[str]:
    stored, side = sizes(name)
    return [
        *(f"variant={name}", "max_steps=2", f"stored={stored}", f"input={side}", f"batch_size={BATCH}", "log_every=1"),
        *(
            f"learning_rate={RATE}",
            f"weight_decay={DECAY}",
            "crops=false",
            "flips=false",
            "colour_noise=0",
            f"precision={precision}",
            "workers=1",
        ),
        *(["deterministic=true"] if DEVICE.type != "cpu" else []),
    ]


@pytest.mark.parametrize("casts", PRECISIONS)
def test_two_steps_of_the_loop_are_those_by_hand_and_a_resumed_run_is_the_whole_one(tmp_path, name, casts):
    precision, cast, far, far_loss = PRECISIONS[casts]
    sets = recipe(name, precision)
    with cast():
        train(data(), tmp_path / "whole", None, sets)
        whole = package.load(tmp_path / "whole")
        if in_turn(PRECISIONS, name) == casts:
            train(data(), tmp_path / "parts", None, [*sets, "max_steps=1"])
            train(data(), tmp_path / "parts", sets=["max_steps=2"], resume=True)
            parts = package.load(tmp_path / "parts").model.state_dict()
            for key, tensor in whole.model.state_dict().items():
                assert torch.equal(tensor, parts[key]), key
    losses, expected = by_hand(name, whole.preprocess.mean, 2)
    got = [line["loss"] for line in read(tmp_path / "whole" / run_files.METRICS) if line["kind"] == "step"]
    known = 2 if precision == "float32" else 1  # the second loss is one of other weights
    assert got[:known] == pytest.approx(losses[:known], rel=far_loss)
    start = model.seeded_build(0, name, 3, 3, sizes(name)[1]).state_dict()
    for key, w in expected.items():
        moved = (w - start[key].double()).norm()
        if key in TAKEN_AWAY.get(name, ()):
            assert moved < 1e-9
            continue
        off = (whole.model.state_dict()[key].double() - w).norm()
        assert off < far * moved + 2e-7 * w.norm(), key  # which is how float32 rounds


def made(name: str) -> Classifier:
    """Three classes, a mean image, a scale a channel, and weights of which every layer's matter."""
    stored, side = sizes(name)
    net = model.seeded_build(0, name, 3, 3, side).eval()
    redraw(net)
    mean = torch.rand(3, stored, stored, generator=torch.Generator().manual_seed(0)) * 40 + 100
    preprocess = Preprocess(stored, side, "RGB", (60.0, 50.0, 55.0), mean)
    return Classifier(net, preprocess, list(COLOURS)[:3], "made")


@pytest.fixture
def file(name, tmp_path) -> Path:
    """A file of weights."""
    file = tmp_path / "model.safetensors"
    formats.write(weights_of(made(name)), file)
    return file


def in_float64(one: Classifier, split: Split) -> dict[str, np.ndarray]:
    """What every layer makes of the pictures, the layers called one after another."""
    stored, side, scale = one.preprocess.stored, one.preprocess.input, torch.tensor(one.preprocess.scale)[:, None, None]
    window = slice((stored - side) // 2, (stored - side) // 2 + side)
    pixels = torch.stack([one.preprocess.pixels(split.read(i)) for i in range(len(split))]).double()
    x = ((pixels - one.preprocess.mean) / scale)[:, :, window, window]
    found = {}
    with torch.no_grad():
        for layer, module in one.model.named_layers():
            x = found[layer] = module.double()(x)
    return {layer.name: found[layer.name].numpy() for layer in one.model.variant.layers}


@pytest.mark.parametrize("form", ["fast", "plain"])
def test_answers_features_and_errors_are_those_of_the_layers_in_float64(name, file, form):
    split = data().split("valid")
    expected = in_float64(made(name), split)
    probabilities = expected["prob"]
    assert probabilities.max() - probabilities.min() > 0.05
    with fast.plain() if form == "plain" else nullcontext():
        answers = package.predict(file, [split.read(i) for i in range(3)])
        got = package.evaluate(file, data())
        values = list(package.features(file, [split.read(i) for i in range(3)], list(expected)))
    for row, answer in zip(probabilities, answers, strict=True):
        said = {one.index: one.probability for one in answer.classes}
        assert [said[i] for i in range(3)] == pytest.approx(row.tolist(), abs=1e-4)
    assert got.top1_error == np.mean(probabilities.argmax(1) != split.labels)
    assert got.loss == pytest.approx(-np.log(probabilities[np.arange(3), split.labels]).mean(), rel=1e-3)
    for layer, x in expected.items():
        rows = np.stack([one.values[layer] for one in values])
        np.testing.assert_allclose(rows, x, rtol=1e-3, atol=1e-4 * np.abs(x).max(), err_msg=layer)


@pytest.mark.cpu
@pytest.mark.skipif(compiler.library()[0] is None, reason="no C++ compiler here")
def test_the_fast_passes_are_taken(name, monkeypatch):
    """So that what is said here of the fast form is said of it."""
    described = []
    real = blocks.block_for
    monkeypatch.setattr(
        blocks, "block_for", lambda chain, x: described.append((chain.names, real(chain, x))) or described[-1][1]
    )
    one = made(name)
    one.model(torch.zeros(1, 3, one.preprocess.input, one.preprocess.input))
    assert described or name == "alexnet_owt"  # whose poolings leave columns out, which no pass does
    for names, block in described:
        assert block is not None, names


@pytest.mark.parametrize(
    ("name", "way", "casts"),
    [
        (name, way, casts)
        for name in VARIANTS
        for way in ("finetune", "probe")
        for casts in PRECISIONS
        if way == "finetune" or casts == in_turn(PRECISIONS, name)
    ],
    indirect=["name"],
)
def test_finetuning_moves_every_layer_and_a_probe_the_last_alone(tmp_path, name, file, way, casts, monkeypatch):
    monkeypatch.setattr(report, "write", lambda *given: "")
    precision, cast, _, far_loss = PRECISIONS[casts]
    sets = ["epochs=1", "warmup=0", f"batch_size={BATCH}", f"precision={precision}", "workers=1", "learning_rate=0.001"]
    with cast():
        result = package.finetune(file, data(2), tmp_path / "run", way, sets)
    before, after = made(name), package.load(tmp_path / "run")
    assert after.classes == list(COLOURS)[:2]
    assert after.preprocess.facts() == before.preprocess.facts()
    evaluated = package.evaluate(tmp_path / "run", data(2))
    assert result.top1_error == evaluated.top1_error
    lines = read(tmp_path / "run" / run_files.METRICS)
    assert lines[-1]["loss"] == pytest.approx(evaluated.loss, rel=1e-3)
    (in_run,) = [line["valid_loss"] for line in lines if line["kind"] == "epoch"]  # in the precision of training
    assert in_run == pytest.approx(evaluated.loss, rel=far_loss)
    last = before.model.logits
    for key, w in after.model.named_parameters():
        assert torch.isfinite(w).all()
        if not key.startswith(last) and key not in TAKEN_AWAY.get(name, ()):
            assert torch.equal(w, before.model.get_parameter(key)) == (way == "probe"), key


# Variants that a format has no place for, by its ending.
CANNOT = {".pth": set(VARIANTS)}  # alexnet_owt too, but at the one size at which it is torchvision's


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ".pth"])
def test_a_converted_file_gives_the_same_answers_or_the_format_says_that_it_cannot_hold_them(
    tmp_path, name, file, ending
):
    target = tmp_path / f"other{ending}"
    if name in CANNOT.get(ending, ()):
        with pytest.raises(AlexNetError, match=f"cannot hold {name}"):
            convert(file, target)
        assert not target.exists()
        return
    convert(file, target)
    result = compare(file, target, [data().split("valid").read(0)])
    assert result.same_top1 == 1
    assert {x.layer for x in result.layers} >= {layer.name for layer in VARIANTS[name].layers} - {"prob"}
    for x in result.layers:
        assert x.difference <= 1e-5 * max(1, x.greatest), x
