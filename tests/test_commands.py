"""Training, evaluation and prediction as a user types them: what they print, their JSON and their refusals."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet as pq
import pytest
import torch

import alexnet as package
from alexnet.base import run_files
from alexnet.weights import classifier, native
from conftest import COLOURS, TINY, coloured, last_json, write_folders, write_parquet

NAMES = sorted(COLOURS)
SETS = [item for pair in TINY for item in ("--set", pair)]


@pytest.fixture
def pictures(tmp_path):
    """A folder of six good pictures and two bad ones."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for n, colour in enumerate(NAMES * 2):
        coloured(colour, 200 + n).save(folder / ("deeper" if n > 2 else "") / f"{colour}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


# -- train ------------------------------------------------------------------------------------------------------


def test_train_evaluate_and_predict_follow_each_other(alexnet, folders, pictures, tmp_path):
    run = tmp_path / "run"
    status, out, err = alexnet("train", folders, "--out", run, *SETS, "--json")
    facts = last_json(out)
    assert status == 0
    assert list(facts) == ["run", "epochs", "steps", "top1_error", "seconds", "images_per_second"]
    assert (facts["run"], facts["epochs"], facts["steps"]) == (str(run), 2, 12)
    assert "validation error top-1" in err

    status, out, err = alexnet("evaluate", run, folders, "--json")
    result = last_json(out)
    assert status == 0
    assert list(result) == ["images", "top1_error", "top5_error", "loss", "seconds", "images_per_second"]
    assert (result["images"], result["top1_error"]) == (15, facts["top1_error"])
    assert result["top5_error"] is None  # of three classes

    status, out, _ = alexnet("predict", run, pictures / "red.png", "--topk", "2")
    assert status == 0
    assert out.splitlines()[0] == str(pictures / "red.png")
    assert len(out.splitlines()) == 3


def test_train_takes_a_recipe_file(alexnet, folders, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('variant = "alexnet32"\nepochs = 1\nbatch_size = 8\nlearning_rate = 0.002\n')
    status, out, _ = alexnet("train", folders, "--out", tmp_path / "run", "--recipe", recipe, "--set", "max_steps=2")
    assert status == 0
    assert "2 steps" in out
    resolved = (tmp_path / "run" / "recipe.toml").read_text()
    assert "max_steps = 2\n" in resolved
    assert "momentum = 0.9\n" in resolved


def test_train_on_parquet(alexnet, tmp_path):
    from conftest import encoded

    rows = [(encoded(coloured(name, n)), label) for n in range(10) for label, name in enumerate(NAMES)]
    write_parquet(tmp_path / "data" / "train-0.parquet", rows, NAMES)
    write_parquet(tmp_path / "data" / "test-0.parquet", rows[:6], NAMES)
    status, out, _ = alexnet("train", tmp_path / "data", "--out", tmp_path / "run", *SETS)
    assert status == 0
    assert "train 30 pictures (train), valid 6 pictures (test)" in out
    assert (
        last_json(alexnet("evaluate", tmp_path / "run", tmp_path / "data", "--split", "train", "--json")[1])["images"]
        == 30
    )


def test_train_on_gray_pictures_with_one_channel(alexnet, folders, tmp_path):
    status, _, _ = alexnet(
        "train", folders, "--out", tmp_path / "run", *SETS, "--set", "channels=1", "--set", "max_steps=1"
    )
    assert status == 0
    assert package.load(tmp_path / "run").preprocess.order == "L"
    assert alexnet("predict", tmp_path / "run", folders / "val" / "red")[0] == 0


def test_train_with_another_input_size(alexnet, folders, tmp_path, refused):
    words = ["train", folders, *SETS, "--set", "max_steps=1"]
    assert alexnet(*words, "--out", tmp_path / "run", "--set", "stored=30", "--set", "input=27")[0] == 0
    assert package.load(tmp_path / "run").preprocess.input == 27
    assert "alexnet32 cannot take input 20: " in refused(*words, "--out", tmp_path / "b", "--set", "input=20")
    assert "input 28 is larger than the stored size 24" in refused(
        *words, "--out", tmp_path / "c", "--set", "stored=24"
    )


def test_unreadable_pictures_are_named_and_end_with_status_1(alexnet, tmp_path):
    root = write_folders(tmp_path / "data", 8)
    (root / "red" / "0.png").write_bytes(b"")
    status, _, err = alexnet("train", root, "--out", tmp_path / "run", *SETS)
    assert status == 1
    assert "1 picture could not be read and was left out" in err
    assert "red/0.png: empty, 0 bytes" in err
    status, out, err = alexnet("evaluate", tmp_path / "run", root, "--split", "train", "--json")
    assert status == 1
    assert "red/0.png" in err
    assert last_json(out)["images"] == 20


def test_training_refusals(refused, folders, tiny_run, tmp_path):
    out = ["--out", tmp_path / "run"]
    assert "already holds a run" in refused("train", folders, "--out", tiny_run)
    assert "does not exist" in refused("train", tmp_path / "none", *out)
    assert "did you mean 'learning_rate'" in refused("train", folders, *out, "--set", "learning_rat=1")
    assert "there is no recipe 'autor'" in refused("train", folders, *out, "--recipe", "autor")
    assert "is a file; give a folder" in refused("train", folders, "--out", folders / "val" / "red" / "100.png")
    assert "Missing option '--out'" in refused("train", folders)
    within = folders / "train" / "run"  # without val/ beside it, it would be a class
    assert "lies in DATA" in refused("train", within.parent, "--out", within)
    assert f"PACK {within} lies in DATA" in refused("pack", within.parent, within)
    assert not within.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.cpu
def test_a_device_that_is_absent_is_refused_not_replaced(refused, folders, tmp_path, tiny_run):
    assert "finds no such device" in refused("train", folders, "--out", tmp_path / "run", "--device", "cuda")
    assert "finds no such device" in refused("evaluate", tiny_run, folders, "--device", "cuda")


def test_an_output_that_cannot_be_made_is_refused(refused, folders, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in refused("train", folders, "--out", tmp_path / "file" / "run", *SETS)


def test_data_without_one_readable_picture_is_refused(refused, tiny_run, tmp_path):
    for split in ("train", "val"):
        for name in NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.png").write_bytes(b"")
    assert "none of 3 pictures to evaluate on can be read" in refused("evaluate", tiny_run, tmp_path)
    coloured("red", 0).save(tmp_path / "val" / "red" / "a.png")
    assert "none of 3 pictures to train on can be read" in refused("train", tmp_path, "--out", tmp_path / "run")


# -- evaluate ---------------------------------------------------------------------------------------------------


def test_evaluation_refusals(refused, folders, tiny_run, tmp_path):
    assert "does not exist" in refused("evaluate", tmp_path / "none", folders)
    assert "is a variant, which has no weights" in refused("evaluate", "alexnet2012", folders)
    assert "is a folder without model.safetensors" in refused("evaluate", folders, folders)
    assert "has no split 'other'; it has train and valid" in refused("evaluate", tiny_run, folders, "--split", "other")
    assert "classes that the model does not know (0, 1" in refused("evaluate", tiny_run, "digits")


def test_a_damaged_or_foreign_model_is_refused_by_what_is_wrong(refused, folders, tiny_run, tmp_path):
    from safetensors.torch import save_file

    whole = (tiny_run / run_files.LAST).read_bytes()
    file = tmp_path / "m.safetensors"
    for contents in (whole[: len(whole) // 2], whole[:50], b"", b"\x80\x04 a pickle"):
        file.write_bytes(contents)
        assert "is not a whole file of AlexNet weights" in refused("evaluate", file, folders)
    save_file({"x": torch.zeros(2)}, file)
    assert "holds no network that is called as torchvision's alexnet" in refused("evaluate", file, folders)
    model = package.load(tiny_run)
    model.classes.append("one more")
    file.write_bytes(native.to_bytes(classifier.described(model)))
    assert "fc8.weight of shape (3, 1024); alexnet32 with 4 classes has" in refused("evaluate", file, folders)


def test_classes_are_matched_by_name_not_by_index(alexnet, tiny_run, tmp_path):
    """Two of the model's three classes, whose indices in the data differ from the model's."""
    for name in ("green", "red"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for n in range(4):
            coloured(name, 300 + n).save(tmp_path / "val" / name / f"{n}.png")
    assert last_json(alexnet("evaluate", tiny_run, tmp_path, "--json")[1])["top1_error"] <= 0.25


def test_ten_views_and_ensembles_on_the_command_line(alexnet, folders, tiny_run, refused):
    status, out, _ = alexnet("evaluate", tiny_run, tiny_run, folders, "--views", "10", "--weights", "0.5,0.5", "--json")
    assert (status, last_json(out)["images"]) == (0, 15)
    assert "3 weights for 1 model; give one for each" in refused("evaluate", tiny_run, folders, "--weights", "1,2,3")
    assert "--weights was given 'a,b'" in refused("evaluate", tiny_run, folders, "--weights", "a,b")
    assert "'5' is not one of '1', '9', '10'" in refused("evaluate", tiny_run, folders, "--views", "5")


# -- predict ----------------------------------------------------------------------------------------------------


def test_predict_names_what_failed_goes_on_and_ends_with_status_1(alexnet, tiny_run, pictures):
    status, out, err = alexnet("predict", tiny_run, pictures, pictures / "none.png", "--json")
    facts = last_json(out)
    assert status == 1
    assert [r["file"] for r in facts["results"]] == [
        str(pictures / name)
        for name in ("blue.png", "green.png", "red.png", "deeper/blue.png", "deeper/green.png", "deeper/red.png")
    ]
    assert {f["file"]: f["error"].split(" (")[0] for f in facts["failed"]} == {
        str(pictures / "broken.jpg"): "not a picture",
        str(pictures / "empty.jpg"): "empty, 0 bytes",
        str(pictures / "none.png"): "no such file",
    }
    assert "broken.jpg" in err
    for result in facts["results"]:
        assert list(result["classes"][0]) == ["rank", "label", "index", "probability", "wordnet"]
        assert sum(c["probability"] for c in result["classes"]) == pytest.approx(1)
        assert NAMES[result["classes"][0]["index"]] == result["classes"][0]["label"]
    right = sum(r["classes"][0]["label"] in r["file"].rsplit("/", 1)[1] for r in facts["results"])
    assert right >= 5


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predictions_go_into_tables(alexnet, tiny_run, folders, tmp_path, suffix):
    table = tmp_path / f"answers{suffix}"
    status, out, _ = alexnet("predict", tiny_run, folders / "val" / "red", "--topk", "2", "--output", table, "--json")
    assert status == 0
    if suffix == ".csv":
        rows = list(csv.DictReader(table.read_text().splitlines()))
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in table.read_text().splitlines()]
    else:
        rows = pq.read_table(table).to_pylist()
    assert list(rows[0]) == ["file", "rank", "label", "index", "probability", "wordnet"]
    assert len(rows) == 10
    said = [{"file": r["file"], **c} for r in last_json(out)["results"] for c in r["classes"]]
    text = [{name: "" if x is None else str(x) for name, x in row.items()} for row in said]
    assert rows == (text if suffix == ".csv" else said)
    assert [row["rank"] for row in said] == 5 * [1, 2]
    assert all(row["probability"] == float(f"{row['probability']:.7g}") for row in said)


def test_prediction_refusals(refused, tiny_run, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    picture = folders / "val" / "red" / "100.png"
    assert "it writes .csv, .jsonl or .parquet" in refused("predict", tiny_run, picture, "--output", tmp_path / "a.txt")
    assert "there is no folder" in refused("predict", tiny_run, picture, "--output", tmp_path / "x" / "a.csv")
    assert "is a folder without files" in refused("predict", tiny_run, tmp_path / "empty")
    assert "Missing argument" in refused("predict", tiny_run)
    assert "0 is not in the range x>=1" in refused("predict", tiny_run, picture, "--topk", "0")


def test_python_gives_what_the_command_gives(alexnet, tiny_run, folders):
    picture = folders / "val" / "green" / "101.png"
    said = last_json(alexnet("predict", tiny_run, picture, "--json")[1])["results"][0]["classes"]
    one = package.load(tiny_run)
    logits = one.model(one.preprocess(picture)[None])
    assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (1, 3))
    probabilities = torch.softmax(logits[0], 0)
    for answer in said:
        assert probabilities[answer["index"]].item() == pytest.approx(answer["probability"], abs=1e-6)
    (prediction,) = one.predict(picture)
    assert [c.label for c in prediction.classes] == [a["label"] for a in said]
    second = package.predict(tiny_run, [picture, picture], device="cpu")[1]
    assert [c.label for c in second.classes] == [c.label for c in prediction.classes]
    assert second.classes[0].probability == pytest.approx(prediction.classes[0].probability, rel=1e-5)
    assert one.predict(["none.png"])[0].error == "no such file"


def test_a_loaded_network_shows_itself_in_one_short_line(tiny_run):
    shown = repr(package.load(tiny_run))
    assert shown.startswith("<Classifier: alexnet32, 3 classes, input 28 of 32 pixels, cpu, trained on ")
    assert "\n" not in shown
    assert len(shown) < 250
