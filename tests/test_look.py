"""`alexnet look` and `alexnet.look`: pictures of what is inside, one page of them, and two figures of the paper."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.inference import similarity
from alexnet.inference.inside import drawing, figures, heat, looking, maps, page
from alexnet.inference.similarity import similar
from alexnet.networks import variants as v
from conftest import COLOURS, coloured
from narrow_classifier import made, picture

# Those whose layers or orders differ in kind; tests/test_inside.py has all.
KINDS = ("alexnet2012", "alexnet_paper", "alexnet_owt", "alexnet_bn", "cifar10_18", "cifar10_13", "alexnet64")
USUAL = {"cam.png", "filters.png", "look.html", "network.svg", "occlusion.png", "steps.png", "views.png"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Six pictures in class folders, one of them broken."""
    root = tmp_path_factory.mktemp("photos")
    for colour in COLOURS:
        (root / colour).mkdir()
        for number in range(2):
            coloured(colour, 50 + number).save(root / colour / f"{number}.png")
    (root / "red" / "broken.png").write_bytes(b"none")
    return root


@pytest.mark.parametrize("name", KINDS)
def test_every_network_can_be_looked_into(name, tmp_path):
    one = made(name)
    local = any(isinstance(record, v.Local) for record in one.model.variant.layers)
    what = [word for word in looking.WHAT if word != "where" or not local]
    found = package.look(one, picture(), what, of=3, pictures=[picture(1), picture(2)])
    assert found.class_index == 3
    assert found.classes == package.predict(one, picture())[0].classes
    for layer, values in found.maps.items():
        np.testing.assert_allclose(values, maps.maps(one, picture(), layer), rtol=1e-4, atol=1e-5)
    assert list(found.maps) == maps.spatial(one.model)
    for method, values in found.heat.items():
        assert np.array_equal(values, heat.METHODS[method].draw(one, picture(), 3))
    convolutions = [x.name for x in one.model.variant.layers if isinstance(x, v.Conv)]
    assert list(found.filters) == convolutions
    assert set(found.top) >= set(convolutions)
    for layer, those in found.top.items():
        assert list(those) == maps.brightest_first(found.maps[layer])[: looking.BRIGHTEST].tolist()
    crop = one.preprocess.central(one.preprocess.pixels(picture())).permute(1, 2, 0)
    assert np.array_equal(found.picture, crop)
    drawn = list(page.drawings(found))
    assert len({each.name for each in drawn}) == len(drawn)
    assert all(each.pixels.dtype == np.uint8 and each.pixels.std() > 0 for each in drawn)
    if local:
        with pytest.raises(AlexNetError, match="has no dense form: local3's weights belong to places"):
            package.look(one, picture(), ["where"])


def test_a_network_of_gray_pictures_can_be_looked_into_and_written(tmp_path):
    one = made("alexnet32", channels=1)
    found = package.look(one, picture(), looking.WHAT, pictures=[picture(1)])
    assert found.picture.shape == (28, 28, 1)
    assert page.save(tmp_path, found, "gray")
    assert figures.figure3(one).shape[2] == 3
    with Image.open(tmp_path / "filters.png") as sheet:
        assert sheet.mode == "L"


def test_the_command_writes_a_picture_of_each_and_one_page_that_needs_nothing_else(alexnet, tiny_run, photos, tmp_path):
    image, out = photos / "red" / "0.png", tmp_path / "out"
    status, said, err = alexnet("look", tiny_run, image, "--out", out, "--json")
    facts = json.loads(said.splitlines()[-1])
    assert status == 0, err
    layers = maps.spatial(package.load(tiny_run).model)
    assert {path.name for path in out.iterdir()} == USUAL | {f"maps-{layer}.png" for layer in layers}
    assert sorted(facts["files"]) == sorted(str(path) for path in out.iterdir())
    assert facts["classes"] == package.predict(tiny_run, image)[0].as_json()["classes"]
    text = (out / "look.html").read_text("utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', text)
    assert re.findall(r"https?://[^\s\"<]*", text) == ["http://www.w3.org/2000/svg"]
    inside = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in re.findall(r"base64,([^\"]+)", text)]
    beside = [np.asarray(Image.open(path)) for path in out.glob("*.png")]
    assert len(inside) == len(beside)
    assert all(any(np.array_equal(one, other) for other in inside) for one in beside)
    for method in ("cam", "occlusion"):
        assert html.escape(heat.METHODS[method].says) in text
    found = package.look(tiny_run, image, ["maps"])
    sheet = np.asarray(Image.open(out / "maps-conv1.png"))
    assert np.array_equal(sheet, drawing.map_sheet(found.maps["conv1"], maps.brightest_first(found.maps["conv1"])))


def test_only_what_was_asked_for_is_drawn_and_what_could_not_be_read_is_named(alexnet, tiny_run, photos, tmp_path):
    words = ["--what", "top,gradient,where", "--layer", "conv3", "--class", "green", "--pictures", photos]
    status, _, err = alexnet("look", tiny_run, photos / "blue" / "0.png", "--out", tmp_path / "out", *words)
    assert status == 1
    assert str(photos / "red" / "broken.png") in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"top-conv3.png", "gradient.png", "where.png", "steps.png", "network.svg", "look.html"}
    assert "Why green: gradient" in (tmp_path / "out" / "look.html").read_text("utf-8")


def test_figure_3_has_every_filter_of_the_first_layer_a_block_a_tower(alexnet, tiny_run, tmp_path):
    status, _, err = alexnet("look", tiny_run, "--out", tmp_path / "out", "--what", "fig3")
    assert status == 0, err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fig3.png"]
    one = package.load(tiny_run)
    weights = maps.filters(one, "conv1")
    sheet = figures.figure3(one)
    assert np.array_equal(sheet, np.asarray(Image.open(tmp_path / "out" / "fig3.png")))
    scale, gap = max(2, figures.SCALE * 11 // 7), drawing.GAP
    scaled = (255 * (weights - weights.min()) / (weights.max() - weights.min())).round()
    across, half, side = drawing.ACROSS, len(weights) // 2, weights.shape[-1]
    height = half // across * (side + 1) + 1
    for number in (0, 17, half, len(weights) - 1):
        tower, place = divmod(number, half)
        y = gap + tower * (height * scale + gap) + (place // across * (side + 1) + 1) * scale
        x = gap + (place % across * (side + 1) + 1) * scale
        drawn = sheet[y : y + side * scale : scale, x : x + side * scale : scale]
        assert np.abs(drawn.astype(int) - scaled[number].transpose(1, 2, 0)).max() <= 1, number


def test_figure_4_has_bars_and_the_nearest_of_an_index(alexnet, tiny_run, photos, folders, tmp_path, monkeypatch):
    real = figures._rows
    index, out = tmp_path / "index", tmp_path / "out"
    assert alexnet("index", tiny_run, folders / "val", index)[0] == 0
    pictures = [str(photos / colour / "0.png") for colour in COLOURS]
    status, _, err = alexnet("look", tiny_run, *pictures, "--out", out, "--what", "fig4", "--index", index)
    assert status == 0, err
    whole = np.asarray(Image.open(out / "fig4.png"))
    left = figures.figure4(package.load(tiny_run), pictures)
    assert np.array_equal(whole[: len(left), : left.shape[1]], left)
    pink = (left == np.array([0xF4, 0xA6, 0xB8])).all(-1).sum()
    blue = (left == np.array([0xA9, 0xCD, 0xEA])).all(-1).sum()
    answers = [one.classes for one in package.predict(tiny_run, pictures)]
    own = sum(c.probability for colour, a in zip(COLOURS, answers, strict=True) for c in a if c.label == colour)
    assert pink / (pink + blue) == pytest.approx(own / len(pictures), abs=0.15)
    # The first neighbour of the first picture stands beside it.
    nearest = next(similar(index, pictures, 1)).neighbours[0].file
    x = left.shape[1] + figures.SPACE + drawing.GAP + figures.SIDE + drawing.GAP
    tile = np.asarray(figures._square(nearest))
    assert np.array_equal(whole[drawing.GAP : drawing.GAP + figures.SIDE, x : x + figures.SIDE], tile)
    # Of an index with fewer pictures than a row has places, each row begins with its own.
    few, rows = tmp_path / "few", []
    assert alexnet("index", tiny_run, *pictures, few)[0] == 0
    monkeypatch.setattr(figures, "_rows", lambda cells, across: rows.append(cells) or real(cells, across))
    figures.figure4(package.load(tiny_run), pictures, similarity.open_index(few))
    assert [np.array_equal(rows[-1][7 * n], figures._square(one)) for n, one in enumerate(pictures)] == [True] * 3
    assert len(rows[-1]) == 21
    many = [*pictures * 3, str(photos / "red" / "broken.png")]
    status, said, _ = alexnet("look", tiny_run, *many, "--out", tmp_path / "other", "--what", "fig4")
    assert "without its right half" in said
    assert "fig4: the first 8 of 9 pictures" in said
    assert "broken.png, which cannot be read (not a picture)" in said


def test_a_picture_of_the_index_is_no_neighbour_of_itself(alexnet, tiny_run, photos, tmp_path):
    index, asked = tmp_path / "index", str(photos / "blue" / "0.png")
    alexnet("index", tiny_run, photos, index)
    whole = figures.figure4(package.load(tiny_run), [asked], similarity.open_index(index))
    left = figures.figure4(package.load(tiny_run), [asked])
    x = left.shape[1] + figures.SPACE + drawing.GAP + figures.SIDE + drawing.GAP
    own = np.asarray(figures._square(asked))
    assert not np.array_equal(whole[drawing.GAP : drawing.GAP + figures.SIDE, x : x + figures.SIDE], own)


REFUSED = {
    "no picture": ([], "were asked of 0 IMAGEs; give one"),
    "two pictures": (["IMAGE", "IMAGE"], "were asked of 2 IMAGEs"),
    "what there is not": (["IMAGE", "--what", "cams"], "there is no 'cams' to look at; did you mean 'cam'?"),
    "top without pictures": (["IMAGE", "--what", "top"], "top shows patches of other pictures"),
    "pictures without top": (["IMAGE", "--what", "cam", "--pictures", "IMAGE"], "--pictures is for top"),
    "an index without fig4": (["IMAGE", "--index", "IMAGE"], "--index is for fig4"),
    "a class there is not": (["IMAGE", "--class", "gren"], "knows no class 'gren'; did you mean 'green'? Give a name"),
    "a class like none": (
        ["IMAGE", "--class", "zzz"],
        "knows no class 'zzz'. Give a name, WordNet id or number of one",
    ),
    "a number that is no class": (["IMAGE", "--class", "3"], "class 3 was asked for"),
    "a layer there is not": (["IMAGE", "--layer", "conv9"], "has no layer 'conv9'"),
    "a folder": (["FOLDER"], "is a folder, and one picture is looked at; give one in it"),
    "a broken picture": (["BROKEN"], "broken.png cannot be read (not a picture); give another picture"),
    "an archive of two": (["TWO", "--what", "maps"], "two.tar holds several pictures, and one is looked at; give one"),
    "an archive of none": (["NONE", "--what", "filters"], "none.tar holds no picture; give one"),
    "fig4 of stdin": (["-", "--what", "fig4"], "- can be read but once; give files"),
    "fig4 of nothing": (["--what", "fig4"], "give one IMAGE or more"),
    "fig4 of a broken picture": (["BROKEN", "--what", "fig4"], "none was given that can be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(refused, tiny_run, photos, tmp_path, name):
    words, said = REFUSED[name]
    named = {"IMAGE": photos / "red" / "0.png", "BROKEN": photos / "red" / "broken.png", "FOLDER": photos}
    for word, count in (("NONE", 0), ("TWO", 2)):
        named[word] = tmp_path / f"{word.lower()}.tar"
        with tarfile.open(named[word], "w") as archive:
            for number in range(count):
                archive.add(photos / "red" / f"{number}.png")
    assert said in refused("look", tiny_run, *[named.get(word, word) for word in words], "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["archive", "stdin", "open file"])
def test_a_picture_that_can_be_read_but_once_is_looked_at_as_a_file_is(
    alexnet, tiny_run, photos, tmp_path, monkeypatch, form
):
    file = photos / "red" / "0.png"
    wanted = package.look(tiny_run, file, ["maps", "views"])
    given: object = "-"
    if form == "archive":
        given = tmp_path / "one.tar"
        with tarfile.open(given, "w") as archive:
            archive.add(file)
    elif form == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    else:
        given = io.BytesIO(file.read_bytes())
    found = package.look(tiny_run, given, ["maps", "views"])
    assert found.classes == wanted.classes
    assert np.array_equal(found.views.mean, wanted.views.mean)
    assert all(np.array_equal(found.maps[layer], values) for layer, values in wanted.maps.items())


def test_nothing_is_overwritten(refused, tiny_run, photos, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    said = refused("look", tiny_run, photos / "red" / "0.png", "--out", tmp_path)
    assert "exists already and is not an empty folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "there is no folder" in refused("look", tiny_run, photos / "red" / "0.png", "--out", tmp_path / "a" / "b")


def test_names_are_shown_as_text_in_the_page():
    one = made("alexnet32")
    strange = package.look(type(one)(one.model, one.preprocess, ["<script>"] * 7, "<b>"), picture(), ["cam"])
    text = page.text(strange, "<i>.png", list(page.drawings(strange)), "<svg></svg>")
    assert "<script>" not in text
    assert "<i>" not in text
    assert "&lt;script&gt;" in text
