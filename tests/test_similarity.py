"""Nearest neighbours against scikit-learn in float64, from files and archives, on a contact sheet."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.data.sources import Sources
from alexnet.inference import contact_sheet, similarity
from alexnet.weights.classifier import weights_bytes
from conftest import COLOURS, coloured, encoded, write_folders, write_parquet

pytestmark = pytest.mark.device


@pytest.mark.parametrize("distance", similarity.DISTANCES)
def test_nearest_are_those_of_scikit_learn_however_the_rows_are_parted(distance, monkeypatch):
    rng = np.random.default_rng(1)
    rows, queries = rng.normal(3, 1, (500, 70)).astype(np.float32), rng.normal(3, 1, (9, 70)).astype(np.float32)
    monkeypatch.setattr(similarity, "COPY", 4 * 70 * 4 * 7)  # seven rows at a time
    got, places = similarity.nearest_rows(torch.from_numpy(queries), [rows[:333], rows[333:]], 12, distance)
    judge = NearestNeighbors(n_neighbors=12, metric=distance, algorithm="brute").fit(rows.astype(np.float64))
    expected, expected_places = judge.kneighbors(queries.astype(np.float64))
    np.testing.assert_array_equal(places.numpy(), expected_places)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


def test_what_is_alike_but_for_the_last_bits_is_as_far_as_it_is():
    row = torch.full((1, 4096), 100.1)
    near = row.clone()
    near[0, 7] += 2**-16
    got, places = similarity.nearest_rows(row, [torch.cat([near, row]).numpy()], 2, "euclidean")
    assert (places.tolist(), got.tolist()) == ([[1, 0]], [[0.0, 2**-16]])


def test_ties_stand_in_the_order_of_the_index_and_itself_is_at_no_distance():
    rows = np.ones((6, 3), np.float32)
    for distance in similarity.DISTANCES:
        got, places = similarity.nearest_rows(torch.ones(1, 3), [rows[:2], rows[2:]], 4, distance)
        assert places.tolist() == [[0, 1, 2, 3]]
        assert got.tolist() == pytest.approx(np.zeros((1, 4)), abs=1e-7)


@pytest.fixture
def index(alexnet, tiny_run, tmp_path):
    """Three colours in class folders, three in parquet, and a broken one."""
    photos = write_folders(tmp_path / "photos", 4)
    (photos / "red" / "9.png").write_bytes(b"")
    rows = [(encoded(coloured(name, 50)), 0) for name in sorted(COLOURS)]
    write_parquet(tmp_path / "more.parquet", rows, None)
    words = ["index", tiny_run, photos, tmp_path / "more.parquet", tmp_path / "index", "--batch-size", "4", "--json"]
    status, out, err = alexnet(*words)
    assert (status, json.loads(out)["pictures"]) == (1, 15)
    assert "9.png: empty, 0 bytes" in err
    return tmp_path / "index"


def test_similar_gives_what_features_and_scikit_learn_give(alexnet, index, tiny_run, tmp_path, monkeypatch):
    query = tmp_path / "query.png"
    coloured("green", 77).save(query)
    one = package.load(tiny_run)
    names = similarity.open_index(index).filenames
    assert names[-3:] == [f"{tmp_path / 'more.parquet'}/{n}.png" for n in range(3)]
    everything = list(one.features([tmp_path / "photos", tmp_path / "more.parquet"], "fc7"))
    rows = np.stack([f.values["fc7"] for f in everything if f.error is None]).astype(np.float64)
    asked = next(one.features(query, "fc7")).values["fc7"].astype(np.float64)
    order = np.argsort(((rows - asked) ** 2).sum(1))[:4]
    monkeypatch.chdir(tmp_path)
    status, out, err = alexnet("similar", index, "query.png", "--count", "4", "--json")
    assert status == 0, err
    facts = json.loads(out.splitlines()[-1])
    (answer,) = facts["results"]
    assert [n["file"] for n in answer["neighbours"]] == [names[i] for i in order]
    assert [n["distance"] for n in answer["neighbours"]] == pytest.approx(
        np.sqrt(((rows[order] - asked) ** 2).sum(1)).tolist(), rel=1e-4
    )
    assert facts["sheet"] == "similar.png"
    with Image.open(tmp_path / "similar.png") as sheet:
        assert sheet.format == "PNG"
    assert alexnet("similar", index, "query.png", "none.png", "--distance", "cosine")[0] == 1
    assert (tmp_path / "similar-2.png").exists()


def test_the_sheet_shows_the_query_at_the_left_and_the_nearest_beside_it(index, tiny_run, tmp_path):
    query = tmp_path / "photos" / "blue" / "1.png"
    answers = list(similarity.similar(index, [query], 15))
    pictures = contact_sheet.find_pictures([str(tmp_path)], {n.file for n in answers[0].neighbours})
    assert len(pictures) == 15  # the parquet's too
    sheet = np.asarray(contact_sheet.contact_sheet(answers, pictures | {str(query): str(query)})).astype(int)
    step, gap, tile = contact_sheet.TILE + contact_sheet.GAP, contact_sheet.GAP, contact_sheet.TILE
    names = [str(query), *(n.file for n in answers[0].neighbours)]
    for column, name in enumerate(names):
        x = gap + column * step + (2 * gap if column else 0)
        middle = sheet[gap + 20 : gap + tile - 20, x + 20 : x + tile - 20].mean((0, 1))
        colour = name.split("/")[-2] if "photos" in name else sorted(COLOURS)[int(name[-5])]
        assert np.abs(middle - COLOURS[colour]).max() < 15, name


def test_an_open_index_keeps_its_rows_where_another_takes_its_place(index, tiny_run, tmp_path):
    query, opened = str(tmp_path / "photos" / "red" / "1.png"), similarity.open_index(index)
    (before,) = similarity.similar(opened, query, 3)
    shutil.rmtree(index)
    similarity.build_index(tiny_run, sorted(map(str, (tmp_path / "photos").glob("*/[0-3].png")), reverse=True), index)
    assert list(similarity.similar(opened, query, 3)) == [before]


def test_index_and_similar_refusals(alexnet, refused, index, tiny_run, folders, tmp_path):
    picture = folders / "val" / "red" / "100.png"
    assert "INDEX" in refused("index", tiny_run, picture, index)
    assert "has no layer 'fc77'" in refused("index", tiny_run, picture, tmp_path / "new", "--layer", "fc77")
    assert "is not an index" in refused("similar", folders, picture)
    assert "it writes .png or .jpg" in refused("similar", index, picture, "--output", tmp_path / "a.gif")
    with pytest.raises(AlexNetError, match="distance was given 'l2'; it takes euclidean or cosine"):
        similarity.similar(index, picture, distance="l2")
    other = shutil.copytree(tiny_run, tmp_path / "other")
    one = package.load(other)
    one.model.conv1.bias.data += 1
    (other / "model.safetensors").write_bytes(weights_bytes(one.model, one.preprocess, one.classes, ""))
    sheet = tmp_path / "s.png"
    assert "was made by another model" in refused("similar", index, picture, "--model", other, "--output", sheet)
    package.export(tiny_run, tmp_path / "small", "onnx", "w8")
    assert "has no layers" in refused("similar", index, picture, "--model", tmp_path / "small.onnx", "--output", sheet)
    moved = shutil.copytree(tiny_run, tmp_path / "moved")
    gone = shutil.copytree(index, tmp_path / "gone index")
    about = json.loads((gone / "about.json").read_text())
    (gone / "about.json").write_text(json.dumps({**about, "path": str(tmp_path / "gone")}))
    assert "give where it is now with --model" in refused("similar", gone, picture, "--output", sheet)
    assert alexnet("similar", gone, picture, "--model", moved, "--output", tmp_path / "gone.png")[0] == 0
    assert alexnet("similar", index, picture, "--model", moved, "--output", sheet)[0] == 0
    assert "s.png exists" in refused("similar", index, picture, "--output", sheet)


def test_the_picture_itself_is_left_out_on_request_however_it_is_named(alexnet, index, tmp_path, monkeypatch):
    own = str(tmp_path / "photos" / "red" / "1.png")
    link = tmp_path / "link.png"
    link.symlink_to(own)
    monkeypatch.chdir(tmp_path / "photos")
    for query in (own, "red/1.png", "blue/../red/1.png", link):
        near = next(similarity.similar(index, str(query), 5)).neighbours
        others = next(similarity.similar(index, str(query), 5, not_itself=True)).neighbours
        assert near[0].file == own
        assert [n.file for n in others[:4]] == [n.file for n in near[1:]]
        assert len(others) == 5
        assert own not in [n.file for n in others]
    inside = str(tmp_path / "more.parquet")
    asked = list(similarity.similar(index, inside, 15, not_itself=True))
    assert [len(one.neighbours) for one in asked] == [14, 14, 14]
    assert all(one.file not in [n.file for n in one.neighbours] for one in asked)
    words = ["similar", index, own, "--not-itself", "--count", "3", "--json", "--output", tmp_path / "s.png"]
    facts = json.loads(alexnet(*words)[1])
    assert [n["file"] for n in facts["results"][0]["neighbours"]] == [n.file for n in others[:3]]


@pytest.mark.parametrize("query", ["1.png", "link.png"])
def test_a_link_to_the_picture_is_the_picture_itself(alexnet, tiny_run, tmp_path, query):
    photos = write_folders(tmp_path / "photos", 4) / "red"
    (photos / "link.png").symlink_to(photos / "1.png")
    assert alexnet("index", tiny_run, photos, tmp_path / "index")[0] == 0
    (one,) = similarity.similar(tmp_path / "index", str(photos / query), 3, not_itself=True)
    assert {n.file for n in one.neighbours} == {str(photos / f"{number}.png") for number in (0, 2, 3)}


def test_an_index_of_names_on_stdin_is_of_the_same_files_from_any_folder(alexnet, tiny_run, tmp_path, monkeypatch):
    photos = write_folders(tmp_path / "photos", 2) / "red"
    monkeypatch.chdir(photos)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"0.png\n1.png\n")))
    assert alexnet("index", tiny_run, "-", tmp_path / "index")[0] == 0
    there = [str(photos / "0.png"), str(photos / "1.png")]
    assert similarity.open_index(tmp_path / "index").filenames == there
    assert Sources([Path("0.png"), "1.png"], absolute=True).pictures == there


def test_more_neighbours_than_fit_on_a_sheet_are_in_the_answer_alone(alexnet, index, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "ACROSS", 3)
    words = ["similar", index, tmp_path / "photos" / "red" / "1.png", "--output", tmp_path / "s.png", "--json"]
    status, out, err = alexnet(*words, "--count", "5")
    assert status == 0
    assert len(json.loads(out)["results"][0]["neighbours"]) == 5
    assert "the nearest 3 of 5 are shown" in err
    _, out, _ = alexnet(*words[:-2], tmp_path / "all.png", "--count", "500")
    assert "the nearest 3 of 15 are shown" in out
    monkeypatch.setattr(contact_sheet, "ACROSS", 15)
    assert "are shown" not in alexnet(*words[:-2], tmp_path / "every.png", "--count", "500")[1]
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width == 4 * (contact_sheet.TILE + contact_sheet.GAP) + 3 * contact_sheet.GAP


def test_more_queries_than_fit_on_a_sheet_are_on_further_pages(alexnet, refused, index, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "ROWS", 5)
    sheet, queries = tmp_path / "s.jpg", tmp_path / "photos"
    words = ["similar", index, queries, "--count", "2", "--output", sheet]
    status, out, err = alexnet(*words, "--json")
    assert status == 1  # one is broken
    files = [str(tmp_path / name) for name in ("s.jpg", "s-page2.jpg", "s-page3.jpg")]
    facts = json.loads(out)
    assert (facts["sheet"], facts["sheets"]) == (files[0], files)
    assert "s.jpg and 2 further pages: a contact sheet of 12 pictures" in err
    step = contact_sheet.TILE + contact_sheet.GAP + 2 * contact_sheet.LINE
    for file, rows in zip(files, (5, 5, 2), strict=True):
        with Image.open(file) as page:
            assert page.height == rows * step + contact_sheet.GAP
    sheet.unlink()
    assert "s-page" in refused(*words)
