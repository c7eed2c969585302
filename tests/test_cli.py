"""The command line as a user types it: help, the recipe's keys, refusals, and the commands that only tell something."""

from __future__ import annotations

import dis
import inspect
import re
import shutil

import pytest

import alexnet as package
from alexnet.base.errors import Agreed, AlexNetError, Lost
from alexnet.cli import commands
from alexnet.training import recipe
from conftest import last_json


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
        (Agreed, 0, 0, True), (Agreed, 1, 1, False), (Agreed, 8, 0, False), (Lost, 0, 0, True),
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
        "train DATA --out RUN --set epochs=3 seed=7 --set epochs=03",
        "train --set epochs=3 seed=7 DATA --out RUN",
        "train --set=epochs=3 seed=7 --out RUN DATA",
        "train DATA --set epochs=3 seed=7 --out=RUN",
        "train DATA --set=epochs=3 --set=seed=7 --out=RUN",
        "train DATA --set epochs=3 --seed=7 --out RUN",
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
    for sets in (["--set", "drops=3", "seed=1", "drops=5,6"], ["--set", "drops=3", "--set=drops=5,6"]):
        for command in (words, ("finetune", "MODEL", *words[1:]), ("bench",), ("reproduce",)):
            assert "--set drops was given twice, 3 and 5,6; give it once." in refused(*command, *sets)
    assert "no key 'epoch'; did you mean 'epochs'" in refused(*words, "--set", "seed=1", "epoch=3")
    said = refused(*words, "--set", "variant=alexnet23")
    assert said.startswith("alexnet: there is no variant 'alexnet23'; did you mean 'alexnet32'?")
    assert "epochs was given 'many'; it takes a whole number" in refused(*words, "--epochs", "many")
    assert "unexpected extra argument (more)" in refused(*words, "--set", "seed=1", "more")
    assert "Option '--set' requires an argument" in refused(*words, "--set")


def test_an_unknown_option_names_one_that_is_like_it_or_none(refused):
    words = ("train", "DATA", "--out", "RUN")
    assert refused(*words, "--epoch", "3").endswith("No such option '--epoch'. Did you mean '--epochs'?")
    assert refused(*words, "--ten-view").endswith("No such option '--ten-view'.")
    assert refused("evaluate", "MODEL", "DATA", "--ten-view").endswith("Did you mean '--views'?")


LOOK = "look MODEL a.png --out DIR --what "
HEAT = "cam or occlusion or gradient or where"
IDLE = {
    # a command and the option that nothing in it would use: what is said of it
    "evaluate MODEL DATA --weights 0.5,0.5 --weights .1,.9": "--weights was given 0.5,0.5 and .1,.9, and one of them",
    "evaluate MODEL DATA --weights best --weights last": "--weights was given best and last, and one of them counts",
    "evaluate A B DATA --fit-weights --weights 1,2": "leave --weights out.",
    "evaluate MODEL DATA --fit-weights": "--fit-weights finds the weights of two MODELs or more",
    **{
        f"evaluate MODEL DATA --split all {option} 1": f"{option} holds pictures of DATA out, and --split all takes all"
        for option in ("--valid", "--folds", "--fold")
    },
    "evaluate MODEL DATA --split test --fold 2": "fold was given 2 without a number of folds",
    "export MODEL net --format onnx --split nonsense": "--split is for --data, which was not asked for; add it, or",
    "pack DATA PACK --quality 50": "--quality is for --encoding jpeg, which was not asked for; add it, or leave",
    f"{LOOK}fig3 --layer conv99": "--layer is for maps or top, which was not asked for; add it to --what, or leave",
    f"{LOOK}fig3 --class none": f"--class is for {HEAT}, which was not asked for",
    f"{LOOK}views --layer conv1": "--layer is for maps or top, which",
    f"{LOOK}views --class 1": f"--class is for {HEAT}, which",
    f"{LOOK}maps,filters,top --pictures DIR --class 1": f"--class is for {HEAT}, which",
    f"{LOOK}cam,fig4 --layer conv1": "--layer is for maps or top, which",
    f"{LOOK}maps --pictures DIR": "--pictures is for top, which was not asked for; add it to --what, or leave",
    f"{LOOK}fig3 --index INDEX": "--index is for fig4, which was not asked for; add it to --what, or leave",
    "predict MODEL clip.mp4 --resume": "--resume is for pictures, and clip.mp4 is moving pictures; leave it out.",
    "predict MODEL . --every 1 --resume": "--resume is for pictures, and . is moving pictures; leave it out.",
    "predict MODEL camera:0 --workers 2": "--workers is for pictures, and camera:0 is moving pictures; leave it out.",
    "predict MODEL clip.mp4 --rate 3": "--rate is for folders of frames, and clip.mp4 has a rate of its own; leave",
    **{
        f"predict MODEL a.png {option}": f"{option.split()[0]} is for moving pictures, and a.png is none; leave it out."
        for option in ("--every 2", "--smooth 1", "--annotate a.mp4", "--realtime", "--rate 3")
    },
    "info --parallel towers --processes 3": "--processes was given 3; two towers take two: leave it out.",
    "train DATA --out RUN --weights best": "--weights best chooses among the weights of a run to start from",
}


@pytest.mark.parametrize("words", IDLE)
def test_an_option_that_nothing_would_use_is_refused_before_any_work(refused, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert IDLE[words] in refused(*words.split())
    assert not list(tmp_path.iterdir())


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
