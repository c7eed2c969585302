"""Predictions as a stream: ten views by a written-out loop, tables as they come, names from every kind of source."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.cli import run
from alexnet.data import labels
from alexnet.inference import prediction
from alexnet.inference.inside import maps
from conftest import coloured, encoded
from narrow_classifier import made as small
from narrow_classifier import picture

pytestmark = pytest.mark.device


def test_ten_views_are_the_mean_of_ten_softmaxes_in_float64(alexnet, tiny_run, folders):
    picture = folders / "val" / "green" / "101.png"
    one = package.load(tiny_run)
    pixels = one.preprocess.pixels(picture)
    side, stored = one.preprocess.input, one.preprocess.stored
    corners = [(0, 0), (0, stored - side), (stored - side, 0), (stored - side, stored - side)]
    total = np.zeros(3)
    for y, x in [*corners, ((stored - side) // 2, (stored - side) // 2)]:
        crop = pixels[:, y : y + side, x : x + side]
        for view in (crop, crop.flip(-1)):
            with torch.no_grad():
                logits = one.model(one.preprocess.normalise(view[None]))[0].double().numpy()
            total += np.exp(logits) / np.exp(logits).sum() / 10
    status, out, _ = alexnet("predict", tiny_run, picture, "--views", "10", "--json")
    assert status == 0
    said = {c["index"]: c["probability"] for c in json.loads(out)["results"][0]["classes"]}
    assert [said[i] for i in range(3)] == pytest.approx(total.tolist(), abs=1e-6)
    single = one.predict(picture)[0].classes[0].probability
    assert abs(single - max(total)) > 1e-4  # so the test would see one view


def test_answers_come_while_an_endless_stream_is_read(tiny_run):
    endless = (coloured("red", n) for n in itertools.count())
    answers = list(itertools.islice(prediction.stream(tiny_run, endless, batch_size=4), 10))
    assert [a.file for a in answers] == [f"picture {n}" for n in range(10)]
    assert sum(a.classes[0].label == "red" for a in answers) >= 8


def test_the_size_of_a_batch_and_broken_neighbours_change_no_answer(tiny_run, folders):
    good = sorted((folders / "val").rglob("*.png"))
    mixed = [x for picture in good for x in (picture, b"broken")]
    alone = [a.classes for a in prediction.predict(tiny_run, good, batch_size=1)]
    among = [a.classes for a in prediction.predict(tiny_run, mixed, batch_size=7) if a.error is None]
    assert len(alone) == len(among) == 15
    for a, b in zip(alone, among, strict=True):
        assert [c.label for c in a] == [c.label for c in b]
        assert [c.probability for c in a] == pytest.approx([c.probability for c in b], rel=1e-4)


def test_predict_reads_archives_and_stdin_and_keeps_their_names(alexnet, tiny_run, tmp_path, monkeypatch):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("red", "blue"):
            contents = encoded(coloured(name, 1))
            member = tarfile.TarInfo(f"cats, dogs/{name}.png")
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    table = tmp_path / "answers.csv"
    assert alexnet("predict", tiny_run, path, "--topk", "1", "--output", table)[0] == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(r["file"], r["label"]) for r in rows] == [
        (f"{path}/cats, dogs/{name}.png", name) for name in ("red", "blue")
    ]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    status, out, _ = alexnet("predict", tiny_run, "-", "--json")
    assert status == 0
    assert [r["file"] for r in json.loads(out)["results"]] == ["-/cats, dogs/red.png", "-/cats, dogs/blue.png"]


def test_a_table_that_exists_is_not_overwritten(refused, tiny_run, folders, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("mine")
    assert "exists already; give another name, or move it away" in refused(
        "predict", tiny_run, folders / "val" / "red", "--output", table
    )
    assert table.read_text() == "mine"


def test_no_results_are_still_an_object(alexnet, tiny_run, tmp_path):
    status, out, _ = alexnet("predict", tiny_run, tmp_path / "none.png", "--json")
    assert (status, json.loads(out)) == (
        2,
        {"results": [], "failed": [{"file": str(tmp_path / "none.png"), "error": "no such file"}], "passed_over": 0},
    )
    table = tmp_path / "table.csv"
    assert alexnet("predict", tiny_run, tmp_path / "none.png", "--output", table)[0] == 2
    assert not table.exists()  # it would stand in the way of the right name


def test_predict_takes_pictures_of_every_kind_alone_and_as_several(tiny_run, folders):
    one = package.load(tiny_run)
    file = folders / "val" / "green" / "100.png"
    array = np.asarray(Image.open(file))
    whole = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = one.predict(file)[0].classes
    buffer = np.zeros_like(array)

    def frames():  # as a camera gives them: the same memory each time
        for number in range(3):
            buffer[:] = array if number == 1 else 0
            yield buffer

    def opened():  # each closed before the next
        for _ in range(3):
            with file.open("rb") as picture:
                yield picture

    kinds = (file, str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), Image.open(file), array, array / 255,
             whole, whole / 255, {"bytes": file.read_bytes()})  # fmt: skip
    for kind in kinds:
        (got,) = one.predict(kind)
        assert (got.error, got.classes) == (None, expected), type(kind)

    class Rows:  # as data sets of torch are
        def __getitem__(self, row):
            return [array, array][row]

    for several in (Rows(), torch.stack([whole, whole]), np.stack([array, array]), list(kinds), opened()):
        got = one.predict(several)
        assert len(got) > 1
        assert all([c.index for c in x.classes] == [c.index for c in expected] for x in got), type(several)
    assert [x.classes == expected for x in one.predict(frames(), batch_size=1)] == [False, True, False]
    with pytest.raises(AlexNetError, match="pictures were given as int; give paths, bytes, open files"):
        one.predict(5)


def test_answers_have_wordnet_ids_where_the_classes_are_imagenets():
    everything = list(labels.imagenet().items())
    some = everything[3:6]
    assert labels.wordnet([name for _, name in everything]) == [one for one, _ in everything]
    assert labels.wordnet([name for _, name in some]) == labels.wordnet([one for one, _ in some])
    assert labels.wordnet([name for _, name in some]) == [one for one, _ in some]
    assert labels.wordnet([some[0][1], "my cat"]) == [None, None]
    assert labels.wordnet(["0", "1"]) == [None, None]
    answers = package.predict("tiny", coloured("red", 1))[0].classes
    assert [labels.imagenet()[c.wordnet] for c in answers] == [c.label for c in answers]
    assert [c.rank for c in answers] == [1, 2, 3, 4, 5]


ODD = ["caf\udce9.png", "a\nb.png", "tab\t,\"quote'.png", "\U0001f41f.png", "-dash.png", "\x1b[31m.png", "日本.png"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Pictures whose names are no UTF-8, have newlines and more, in the order of their names."""
    folder = tmp_path_factory.mktemp("odd")
    for number, name in enumerate(ODD):
        coloured("red", number).save(folder / name)
    return folder


def names_in(file):
    """The names that a table, or a list of features' names, holds, as their own libraries read them."""
    if file.suffix == ".parquet":
        return pq.read_table(file).column(0).to_pylist()
    if file.suffix == ".h5":
        with pytest.importorskip("h5py").File(file) as opened:
            return [name.decode() for name in opened["filename"]]
    text = file.read_bytes().decode()
    if file.suffix == ".csv":
        return [row["file"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    if file.suffix == ".jsonl":
        return [json.loads(line)["file"] for line in text.splitlines()]
    return text.splitlines()


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet", "f.parquet", "f.h5", "f.npy", "f.safetensors"])
def test_names_of_any_kind_stand_in_every_file(alexnet, odd, tmp_path, name):
    file = tmp_path / name
    words = ("predict", "tiny", odd, "--topk", "1") if name[0] == "p" else ("features", "tiny", odd)
    status, _, err = alexnet(*words, "--output", file)
    assert status == 0, err
    lines = file.suffix in (".npy", ".safetensors")
    got = names_in(file.with_suffix(".filenames.txt") if lines else file)
    shown = [one.replace("\udce9", "\\xe9") for one in ODD]
    if lines:
        shown = [one.replace("\n", "\\n").replace("\t", "\\t").replace("\x1b", "\\x1b") for one in shown]
    assert sorted(got) == sorted(f"{odd}/{one}" for one in shown)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_of_any_kind_are_printed_a_line_each_in_any_encoding(odd, monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert run(["predict", "tiny", str(odd), "--topk", "1"]) == 0
    sys.stdout.flush()
    lines = written.getvalue().decode(encoding).splitlines()
    assert len(lines) == 2 * len(ODD)
    assert f"{odd}/caf\\xe9.png" in lines
    assert not any("\x1b" in line for line in lines)


def test_json_with_names_of_any_kind_is_read_by_strict_readers(alexnet, odd):
    _, out, _ = alexnet("predict", "tiny", odd, odd / "none\udce9.png", "--json")
    facts = json.loads(out)
    files = [one["file"] for one in facts["results"] + facts["failed"]]
    assert [one.encode() for one in files]  # no half of a character
    assert f"{odd}/caf\\xe9.png" in files


def answers_of(one, way, folders, tmp_path):
    picture = folders / "val" / "green" / "101.png"
    ways = {
        "predict": lambda: one.predict(picture, 2)[0].classes,
        "ten views": lambda: package.predict(one, picture, 2, views=10)[0].classes,
        "a stream": lambda: next(prediction.stream(one, [picture], 2)).classes,
        "the service": lambda: prediction.classify(one, one.preprocess.pixels(picture)[None], 2)[0],
        "evaluate": lambda: [package.evaluate(one, folders, confusion=tmp_path / "c.csv")],
        "look": lambda: package.look(one, picture, ["views"]).classes,
        "realtime": lambda: [package.realtime(one, "torch")(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy())],
    }
    return ways[way]()


BATCHED = {
    "predict": lambda one, size: package.predict(one, picture(), batch_size=size),
    "features": lambda one, size: next(package.features(one, picture(), batch_size=size)),
    "top patches": lambda one, size: maps.top_patches(one, "conv1", 0, picture(), batch_size=size),
    "evaluate": lambda one, size: package.evaluate(one, "digits", batch_size=size),
}


@pytest.mark.parametrize("way", BATCHED)
@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_nothing_are_refused(way, size):
    with pytest.raises(AlexNetError, match=f"batch_size was given {size}; it takes 1 or more"):
        BATCHED[way](small("alexnet32"), size)


@pytest.mark.cpu
@pytest.mark.parametrize("outputs", [2, 10])
@pytest.mark.parametrize("way", ["predict", "ten views", "a stream", "the service", "evaluate", "look", "realtime"])
def test_outputs_without_names_are_refused_until_they_have_them(tiny_run, folders, tmp_path, way, outputs):
    one = package.load(tiny_run)
    one.predict(coloured("red", 1))
    one.model.reset_classifier(outputs)
    assert one.model.num_classes == outputs
    one.model.fc8 = torch.nn.Sequential(one.model.fc8)
    with pytest.raises(AlexNetError, match=rf"{outputs} outputs and \.classes 3 names; set \.classes to its {outputs}"):
        answers_of(one, way, folders, tmp_path)
    one.classes = [*one.classes, *(f"new {n}" for n in range(7))] if outputs == 10 else ["new 1", "new 2"]
    if outputs == 10 or way not in ("evaluate",):
        found = answers_of(one, way, folders, tmp_path)
        assert way in ("evaluate", "realtime") or {answer.label for answer in found} <= set(one.classes)


def test_the_outputs_of_a_head_put_in_by_hand_are_counted(tiny_run):
    model = package.load(tiny_run).model
    model.fc8 = torch.nn.Linear(model.fc8.in_features, 12)
    assert model.num_classes == 12


def test_wordnet_ids_are_those_of_the_names_as_they_are_now(tiny_run):
    one = package.load(tiny_run)
    assert one.predict(coloured("red", 1))[0].classes[0].wordnet is None
    one.classes = ["tench", "goldfish", "great white shark"]
    assert one.predict(coloured("red", 1), 3)[0].classes[2].wordnet.startswith("n014")
