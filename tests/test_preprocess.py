"""How a picture becomes a square is the weights': stored with them, meant by every command, overruled on request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import AlexNet_Weights

import alexnet as package
from alexnet.base import hints
from alexnet.base.errors import AlexNetError
from alexnet.cli import base
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures
from alexnet.data.packs.writing import pack
from alexnet.data.preprocess import Preprocess
from alexnet.engines.loading import all_hints
from alexnet.inference import exporting, similarity
from alexnet.inference.conversion import compare
from alexnet.training import finetuning, recipe, run, starting
from alexnet.weights import formats, state
from alexnet.weights.classifier import weights_of
from conftest import coloured

SIDE = 64  # that tiny stores
STEPS = ("variant=alexnet32", "max_steps=1", "batch_size=6", "precision=float32")


def wide() -> Image.Image:
    """A picture of which crop and squash see very different things."""
    noise = np.random.default_rng(5).integers(0, 256, (6, 16, 3), np.uint8)
    return Image.fromarray(noise).resize((201, 83), Image.Resampling.BICUBIC)


def by_hand(how: str, side: int = SIDE) -> Image.Image:
    """The square that the wide picture becomes; a network of that size changes it no more."""
    if how == "squash":
        return wide().resize((side, side), Image.Resampling.BILINEAR)
    length = int(side * 201 / 83) if how == "torchvision" else round(201 * side / 83)
    start = round((length - side) / 2) if how == "torchvision" else (length - side) // 2
    return wide().resize((length, side), Image.Resampling.BILINEAR).crop((start, 0, start + side, side))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A data set of two of tiny's classes: the wide picture and another, in each split; and the picture alone."""
    folder = tmp_path_factory.mktemp("wide")
    for split in ("train", "val"):
        for number, name in enumerate(sorted(package.load("tiny").classes[:2])):
            (folder / split / name).mkdir(parents=True)
            picture = wide() if number == 0 else wide().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            for copy in range(3):
                picture.save(folder / split / name / f"{copy}.png")
    wide().save(folder / "wide.png")
    return folder


def test_the_wide_picture_tells_the_squares_apart():
    crop, squash, torchvision = (np.asarray(by_hand(how)).astype(int) for how in hints.SQUARES)
    assert np.abs(crop - squash).mean() > 20
    assert (crop != torchvision).any()


@pytest.fixture(scope="module")
def tiny():
    return package.load("tiny")


def answers(model, how: str) -> list[float]:
    return [c.probability for c in package.predict(model, by_hand(how), topk=200, device="cpu")[0].classes]


@pytest.mark.parametrize("how", [None, *hints.SQUARES])
def test_every_command_makes_the_square_that_the_weights_or_the_option_say(alexnet, photos, tiny, tmp_path, how):
    option, meant = ("--square", how) if how else (), how or "squash"
    expected = answers(tiny, meant)
    picture = photos / "wide.png"

    _, out, err = alexnet("predict", "tiny", picture, *option, "--topk", 200, "--json")
    got = {c["index"]: c["probability"] for c in json.loads(out)["results"][0]["classes"]}
    assert sorted(got.values(), reverse=True) == pytest.approx(expected, rel=1e-4), err

    alexnet("features", "tiny", picture, *option, "--layer", "fc7", "--output", tmp_path / "f.npy")
    own = next(package.features(tiny, by_hand(meant), "fc7")).values["fc7"]
    np.testing.assert_allclose(np.load(tmp_path / "f.npy")[0], own, rtol=1e-3, atol=1e-4)

    alexnet("evaluate", "tiny", photos, *option, "--pictures", tmp_path / "t.jsonl")
    first = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    own = got[tiny.classes.index(first["truth"])]
    assert first["truth_probability"] == pytest.approx(own, rel=1e-3)

    by_hand(meant).save(tmp_path / "square.png")
    assert alexnet("index", "tiny", photos, tmp_path / "index", *option)[0] == 0
    nearest = next(similarity.similar(tmp_path / "index", str(tmp_path / "square.png"), 1)).neighbours[0]
    assert nearest.distance < 1e-2

    assert alexnet("convert", "tiny", tmp_path / "net.safetensors", *option)[0] == 0
    assert package.load(tmp_path / "net.safetensors").preprocess.square == meant
    converted = package.predict(tmp_path / "net.safetensors", picture, topk=200, device="cpu")[0].classes
    assert [c.probability for c in converted] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("how", [None, "crop"])
def test_an_export_says_and_keeps_how_its_pictures_become_squares(alexnet, photos, tiny, tmp_path, monkeypatch, how):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(exporting, "_rate", lambda engine, batch: 1.0)  # which takes a second each
    option, meant = ("--square", how) if how else (), how or "squash"
    status, out, err = alexnet("export", "tiny", tmp_path / "net", "--format", "onnx", *option)
    assert status == 0, err
    shown = {"crop": "the shorter side brought to 64, then the centre", "squash": "both sides brought to 64"}[meant]
    assert f"takes uint8 pictures (batch, 64, 64, 3): {shown}" in out
    got = package.predict(tmp_path / "net.onnx", photos / "wide.png", topk=200)[0].classes
    assert [c.probability for c in got] == pytest.approx(answers(tiny, meant), rel=1e-3, abs=1e-6)
    plain = tmp_path / "plain.onnx"
    assert alexnet("convert", "tiny", plain, "--preprocessing", *option)[0] == 0
    assert package.load(plain).preprocess.square == meant
    assert package.realtime(package.load(plain), engine="torch")(np.asarray(by_hand(meant))).max() == pytest.approx(
        answers(tiny, meant)[0], rel=1e-4
    )


def test_the_option_takes_what_recipes_and_files_take(refused, photos):
    choices = recipe.KEYS["square"].choices
    assert choices == ("auto", *hints.SQUARES)
    assert base.hints.CHOICES["square"] == hints.SQUARES
    assert "'circle' is not one of 'crop', 'squash', 'torchvision'" in refused(
        "predict", "tiny", photos, "--square", "circle"
    )
    with pytest.raises(AlexNetError, match="--square was given 'circle'"):
        package.load("tiny", square="circle")


def test_files_from_before_there_was_a_choice_are_cropped_and_unknown_squares_refused():
    old = {"stored": 64, "input": 56, "order": "RGB", "scale": [64.0]}
    mean = torch.zeros(3, 1, 1)
    cropped = Preprocess.from_facts(old, mean)
    assert cropped.square == "crop"
    assert cropped.facts() == old  # so files of cropped nets stay the same, byte for byte
    for how in hints.SQUARES[1:]:
        one = Preprocess(64, 56, "RGB", (64.0,), mean, how)
        assert Preprocess.from_facts(json.loads(json.dumps(one.facts())), mean) == one
    for wrong in ("circle", 3, None, ["crop"]):
        with pytest.raises(ValueError, match="square is"):
            Preprocess.from_facts({**old, "square": wrong}, mean)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (341, 257), (257, 1000), (300, 299), (100, 90)])
def test_torchvisions_weights_see_what_torchvision_makes_of_a_picture(size):
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    judge = AlexNet_Weights.IMAGENET1K_V1.transforms()
    # Its numbers are a 255th of these: 1e-5 is far less than a grey level.
    assert (state.preprocess()(picture) - judge(picture)).abs().max() < 1e-5


@pytest.mark.parametrize("how", [None, "squash", "torchvision"])
def test_a_pack_keeps_its_squares_and_what_is_trained_on_it_means_them(alexnet, photos, slim, tmp_path, how, capfd):
    option, meant = ("--square", how) if how else (), how or "crop"
    assert alexnet("pack", photos, tmp_path / "pack", "--size", 32, *option)[0] == 0
    data = find_data(tmp_path / "pack")
    assert data.square == meant
    pixels = Pictures(data.split("valid"), 32, 3, 1).get(np.array([0]))[0][0]
    assert (pixels.transpose(1, 2, 0) == np.asarray(by_hand(meant, 32))).all()
    said: list[str] = []
    package.train(data, tmp_path / "run", "cifar10", STEPS, device="cpu", say=said.append)
    one = package.load(tmp_path / "run")
    assert one.preprocess.square == meant
    assert not [line for line in said if "became squares" in line]
    _, out, _ = alexnet("evaluate", tmp_path / "run", tmp_path / "pack", "--square", other(meant))
    assert f"the pack's pictures became squares by {meant}, the network's do by {other(meant)}" in out


def other(how: str) -> str:
    return "squash" if how == "crop" else "crop"


def test_training_means_the_squares_that_it_was_given(photos, slim, tmp_path):
    said: list[str] = []

    def meant(data, *sets):
        return run.choose_square(recipe.resolve("cifar10", sets), find_data(data), said.append)

    assert (meant(photos), meant(photos, "square=torchvision")) == ("crop", "torchvision")
    pack(photos, tmp_path / "pack", 32, square="squash")
    assert (meant(tmp_path / "pack"), said) == ("squash", [])
    assert meant(tmp_path / "pack", "square=torchvision") == "squash"
    assert "became squares by squash, not by torchvision" in "".join(said)
    with pytest.raises(AlexNetError, match="are squares by squash already"):
        pack(tmp_path / "pack", tmp_path / "again", 16, square="crop")
    assert recipe.resolve("tiny_imagenet").square == "squash"
    # A run keeps its own and goes on with it; nets that begin with a model's weights mean its, unless asked otherwise.
    package.train(photos, tmp_path / "run", "cifar10", [*STEPS, "square=squash"], device="cpu")
    package.train(photos, tmp_path / "run", None, ["max_steps=2"], resume=True, device="cpu")
    assert package.load(tmp_path / "run").preprocess.square == "squash"
    package.train(photos, tmp_path / "more", "cifar10", [*STEPS, f"weights={tmp_path / 'run'}"], device="cpu")
    assert package.load(tmp_path / "more").preprocess.square == "squash"
    tuned = finetuning.recipe_for(str(tmp_path / "run"), "finetune")
    for sets, expected in (((), "squash"), (("square=crop",), "crop")):
        assert starting.begin(recipe.override(tuned, recipe.parse_sets(sets)), 2)[1].square == expected


def test_names_of_classes_that_a_caffemodel_cannot_hold_are_said_to_be_lost(tmp_path, caplog):
    one = package.load("tiny")
    for number, (names, said) in enumerate(((one.classes, True), ([str(n) for n in range(len(one.classes))], False))):
        caplog.clear()
        formats.write(replace(weights_of(one), classes=names), file := tmp_path / f"{number}.caffemodel")
        assert ("hold no names of classes; read, they are '0', '199' at the last" in caplog.text) == said
        assert formats.read(file).classes[-1] == "199"


def test_caffes_nets_are_cropped_unless_asked_and_say_so(tmp_path, caplog):
    for square, said in (("crop", False), ("squash", True)):
        file = tmp_path / f"{square}.caffemodel"
        caplog.clear()
        one = package.load("tiny", square=square)
        formats.write(weights_of(one), file)
        assert ("read it with --square squash" in caplog.text) == said
        caplog.clear()
        assert formats.read(file).preprocess.square == "crop"
        assert "trained with --square squash" in caplog.text
        caplog.clear()
        assert formats.read(file, hints.Hints(square="squash")).preprocess.square == "squash"
        assert "--square" not in caplog.text


@pytest.mark.parametrize("given", [str, Path])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, given):
    preprocess = Preprocess(32, 28, "RGB", (1.0,), torch.zeros(3, 1, 1))
    for name, why in (("no\tfile.png", "no such file"), ("broken.png", "")):
        (tmp_path / "broken.png").write_bytes(b"none" * 9)
        with pytest.raises(AlexNetError) as error:
            preprocess(given(tmp_path / name))
        assert str(error.value).startswith(f"{tmp_path}/{name} cannot be read (".replace("\t", "\\t") + why)
    result = compare(package.load("tiny"), package.load("tiny"), [tmp_path / "broken.png", coloured("red", 1)])
    assert str(tmp_path) not in result.failed[0]["error"]


def test_published_weights_know_their_square_and_a_hint_overrules_it():
    assert all_hints("bvlc").square == "squash"
    assert all_hints("bvlc?square=crop").square == "crop"
    assert all_hints("torchvision").square is None  # its reader knows
