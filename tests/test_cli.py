"""Every command as a user types it: what it prints, its JSON, its exit status, and its refusals."""

from __future__ import annotations

import csv
import dis
import inspect
import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
import torch

import alexnet as package
from alexnet.base import run_files
from alexnet.base.errors import AlexNetError, Lost
from alexnet.cli import commands
from alexnet.training import recipe
from alexnet.weights import classifier
from conftest import COLOURS, TINY, coloured, write_folders, write_parquet

NAMES = sorted(COLOURS)
SETS = [item for pair in TINY for item in ("--set", pair)]


def last_json(out: str) -> dict:
    return json.loads(out.strip().splitlines()[-1])


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


@pytest.mark.parametrize("command", ["", *commands.commands])
def test_help_and_version_exist_everywhere(alexnet, command):
    words = [command] if command else []
    status, out, _ = alexnet(*words, "--help")
    assert status == 0
    assert out.startswith("Usage: alexnet")
    assert alexnet(*words, "--version")[1] == f"alexnet {package.__version__}\n"


def test_the_list_of_commands_says_of_each_all_that_its_own_help_begins_with(alexnet):
    listed = " ".join(alexnet("--help")[1].split())
    for name, command in commands.commands.items():
        assert f" {name} {' '.join(command.help.split(chr(10) * 2)[0].split())}" in listed


@pytest.mark.parametrize("name", commands.commands)
def test_every_option_of_a_command_is_used_by_it(name):
    function = inspect.unwrap(commands.commands[name].callback)
    used = {one.argval for one in dis.get_instructions(function) if one.opname.startswith("LOAD_")}
    used |= set(function.__code__.co_cellvars)
    assert set(inspect.signature(function).parameters) <= {x for y in used for x in (y if type(y) is tuple else (y,))}


def test_an_unknown_command_names_the_nearest(refused):
    assert "there is no command 'trian'; did you mean 'train'?" in refused("trian", "digits")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "DATA", "--out", ""],
        ["train", "", "--out", "RUN"],
        ["train", "DATA", "--out", "RUN", "--recipe="],
        ["train", "DATA", "--out", "RUN", "--set", ""],
        ["predict", "tiny", "a.jpg", ""],
        ["recipes", ""],
    ],
)
def test_an_empty_word_is_refused_where_it_would_mean_the_current_folder(refused, words):
    assert "was given an empty word; give it a value." in refused(*words)


@pytest.mark.parametrize(
    ("error", "rank", "local", "says"),
    [
        (AlexNetError, 0, 0, True), (AlexNetError, 1, 1, False), (AlexNetError, 8, 0, False), (Lost, 0, 0, True),
        (Lost, 1, 1, True), (Lost, 8, 0, True), (Lost, 10, 2, False),
    ],
)  # fmt: skip
def test_the_first_process_says_what_is_wrong_and_others_too_where_it_may_be_lost(
    alexnet, monkeypatch, error, rank, local, says
):
    def describe(*_):
        raise error("this is wrong.")

    monkeypatch.setattr("alexnet.inference.info.network_info", describe)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    assert alexnet("info") == (2, "", "alexnet: this is wrong.\n" * says)


@pytest.fixture
def given(alexnet, monkeypatch):
    """What train and finetune are called with by a command line: (recipe keys, positional arguments)."""
    calls = []

    def called(*arguments, **_):
        calls.append(arguments)
        raise AlexNetError("called")

    monkeypatch.setattr("alexnet.training.loop.train", called)
    monkeypatch.setattr("alexnet.training.finetuning.finetune", called)

    def call(*words):
        calls.clear()
        status, _, err = alexnet(*words)
        assert (status, err) == (2, "alexnet: called\n"), err
        (arguments,) = calls
        places = [x for x in arguments if isinstance(x, str)]
        return recipe.parse_sets(next(x for x in arguments if isinstance(x, list))), places

    return call


@pytest.mark.parametrize(
    "words",
    [
        "train DATA --out RUN --set epochs=3 seed=7",
        "train DATA --out RUN --set epochs=3 --set seed=7",
        "train --set epochs=3 seed=7 DATA --out RUN",
        "train --set=epochs=3 seed=7 --out RUN DATA",
        "train --out RUN --set epochs=3 seed=7 -- DATA",
        "train DATA --out RUN --epochs 3 --seed 7",
        "train DATA --out RUN --epochs 3 --set seed=7 epochs=3",
        "finetune MODEL DATA --out RUN --set epochs=3 seed=7",
        "finetune --set epochs=3 seed=7 MODEL DATA --out RUN",
        "finetune MODEL --epochs=3 DATA --out RUN --seed 7",
    ],
)
def test_keys_of_the_recipe_are_given_in_any_of_the_fields_ways(given, words):
    sets, places = given(*words.split())
    assert sets == {"epochs": 3, "seed": 7}
    assert " ".join(places).startswith("MODEL DATA RUN" if "MODEL" in words else "DATA RUN")


def test_each_option_that_is_another_name_sets_its_key(given):
    options = {"--epochs": "2", "--batch-size": "5", "--lr": "0.25", "--seed": "9", "--workers": "3"}
    sets, _ = given("train", "DATA", "--out", "RUN", *(word for pair in options.items() for word in pair))
    assert sets == {"epochs": 2, "batch_size": 5, "learning_rate": 0.25, "seed": 9, "workers": 3}


def test_a_folder_called_like_a_setting_of_no_key_is_an_argument(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "year=2012").mkdir()
    assert given("train", "--set", "epochs=3", "year=2012", "--out", "RUN")[1][0] == "year=2012"


def test_settings_that_contradict_each_other_or_mean_nothing_are_refused(refused):
    words = ("train", "DATA", "--out", "RUN")
    assert "--lr was given 0.1 and --set learning_rate=0.2" in refused(
        *words, "--lr", "0.1", "--set", "learning_rate=.2"
    )
    assert "no key 'epoch'; did you mean 'epochs'" in refused(*words, "--set", "seed=1", "epoch=3")
    assert "epochs was given 'many'; it takes a whole number" in refused(*words, "--epochs", "many")
    assert "unexpected extra argument (more)" in refused(*words, "--set", "seed=1", "more")
    assert "Option '--set' requires an argument" in refused(*words, "--set")
    assert "--epochs" in refused(*words, "--epoch", "3")


# -- info -------------------------------------------------------------------------------------------------------


def test_info_prints_the_layer_table_of_the_winner(alexnet):
    status, out, _ = alexnet("info")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith("alexnet2012: ")
    assert next(line for line in lines if line.startswith("conv1")).split() == [
        "conv1", "conv", "11", "x", "11", "/", "4", "96", "x", "55", "x", "55", "34,944", "105,415,200",
    ]  # fmt: skip
    assert lines[-1].split() == ["total", "60,965,224", "724,406,816"]


def test_info_json_holds_the_contracts_keys(alexnet):
    status, out, err = alexnet("info", "alexnet_owt", "--json")
    facts = last_json(out)
    assert status == 0
    assert len(out.strip().splitlines()) == 1
    assert "total" in err
    assert list(facts) == ["variant", "classes", "input", "parameters", "macs", "layers"]
    assert (facts["parameters"], facts["classes"], facts["input"]) == (61_100_840, 1000, [3, 224, 224])
    assert facts["layers"][0] == {
        "name": "conv1", "kind": "conv", "output": [64, 55, 55], "parameters": 23_296, "macs": 70_276_800,
    }  # fmt: skip
    assert facts["layers"][-2]["output"] == [1000]


def test_info_of_a_run_describes_its_network(alexnet, tiny_run):
    facts = last_json(alexnet("info", tiny_run, "--json")[1])
    assert (facts["variant"], facts["classes"], facts["input"]) == ("alexnet32", 3, [3, 28, 28])


def test_a_path_that_exists_wins_over_a_name(alexnet, tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "alexnet2012")
    monkeypatch.chdir(tmp_path)
    assert last_json(alexnet("info", "alexnet2012", "--json")[1])["variant"] == "alexnet32"


def test_info_of_nothing_known_names_the_nearest(refused):
    assert "did you mean 'alexnet2012'" in refused("info", "alexnet12")


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
    assert "none of the 3 pictures to train on can be read" in refused("train", tmp_path, "--out", tmp_path / "run")
    assert "none of the 3 pictures to evaluate on can be read" in refused("evaluate", tiny_run, tmp_path)


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
    file.write_bytes(classifier.weights_bytes(model.model, model.preprocess, model.classes, ""))
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
    assert "3 weights were given for 1 models" in refused("evaluate", tiny_run, folders, "--weights", "1,2,3")
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


# -- recipes, demo ----------------------------------------------------------------------------------------------


def test_recipes_and_their_keys_are_listed_and_printed(alexnet, refused):
    listed = alexnet("recipes")[1].splitlines()
    assert [line.split()[0] for line in listed] == recipe.shipped()
    assert "digits         alexnet32 on scikit-learn's handwritten digits: the demo" in listed
    assert "learning_rate = 0.01" in alexnet("recipes", "author_2012")[1]
    assert "did you mean 'digits'" in refused("recipes", "digit")
    keys = alexnet("recipes", "digits", "--keys")[1].splitlines()
    assert [line.split()[0] for line in keys] == list(recipe.KEYS)
    assert re.match(
        r"epochs +12 +passes over the training set .*\(a whole number, 1 to 2,147,483,647\)$",
        keys[list(recipe.KEYS).index("epochs")],
    )


def test_one_thing_is_not_counted_as_many():
    from alexnet.base.text import counted

    said = [counted(0, "picture"), counted(1, "picture"), counted(1, "class"), counted(2000, "class")]
    assert said == ["0 pictures", "1 picture", "1 class", "2,000 classes"]
