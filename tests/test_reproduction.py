"""The claims: whole studies by command, searches for a rate, and what stops them."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import asdict, field, fields, make_dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet.base import metrics
from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data
from alexnet.inference.evaluation import evaluate
from alexnet.reproduction import measures, naming, results, running
from alexnet.reproduction.claims import CLAIMS, TINY, Arm
from alexnet.training.recipe import Recipe, resolve, to_toml
from conftest import write_folders

pytestmark = pytest.mark.usefixtures("slim")

VARIANT = "variant=alexnet32"
SETS = ["epochs=2", "batch_size=8", "learning_rate=0.002", "precision=float32"]


def options(*sets: str) -> list[str]:
    by_key = {one.partition("=")[0]: one for one in (*SETS, *sets)}  # a key is taken once
    return [word for one in by_key.values() for word in ("--set", one)]


def test_claims_of_the_2012_network_need_only_another_variant():
    for name in ("towers", "lrn", "overlap", "depth"):
        study = running.Study(CLAIMS[name], Path("x"), Path("y"), 1, sets=("variant=alexnet2012",))
        names = [study.recipe(arm, 0).variant for arm in study.claim.arms]
        assert names[0] == "alexnet2012"
        assert len(set(names)) == len(names)
    with pytest.raises(AlexNetError, match="alexnet32_half, which is no variant; give --set variant="):
        running.Study(CLAIMS["towers"], Path("x"), Path("y"), 1, sets=("variant=alexnet32",))


def test_a_part_of_the_data_is_the_first_pictures_of_some_classes_with_labels_in_order(tmp_path):
    whole = find_data(write_folders(tmp_path / "d", 20))
    some = running.part(whole, 2, 3)
    assert some.classes == ["blue", "red"]
    assert some.split("train").labels.tolist() == [0, 0, 0, 1, 1, 1]
    names = [some.split("train").name(i) for i in range(6)]
    assert [Path(name).parent.name for name in names] == ["blue"] * 3 + ["red"] * 3
    read = np.asarray(Image.open(some.split("train").read(5)))
    assert np.abs(read.mean((0, 1)) - (210, 50, 40)).max() < 15


def test_data_are_found_by_name_in_a_folder_or_are_the_folder(place, tmp_path):
    assert running.located(place, TINY) == place / "tiny-imagenet"
    assert running.located(place / "cifar10", "cifar10") == place / "cifar10"
    with pytest.raises(AlexNetError, match="does not exist; give"):
        running.located(tmp_path / "none", TINY)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(AlexNetError, match="holds no tiny-imagenet; put it there"):
        running.located(tmp_path, TINY)


def test_a_claim_of_one_data_set_is_not_tried_on_another_but_under_its_name(refused, folders, tmp_path):
    """`folders` has three colours for classes, and is called otherwise than the data sets."""
    for name in CLAIMS:
        said = refused("reproduce", name, "--data", folders, "--quick", "--out", tmp_path / "r")
        assert f"has 3 classes (blue, green, red), and the claim is of {CLAIMS[name].data}; give that" in said
    assert not (tmp_path / "r").exists()
    shaped = replace(find_data(folders), classes=["goldfish", "great white shark", "hammerhead"])
    assert running._known(shaped, TINY) is shaped
    (tmp_path / "cifar-10").symlink_to(folders)
    assert running._known(find_data(tmp_path / "cifar-10"), "cifar10")


def test_a_claim_is_tested_by_one_command_and_not_trained_again(alexnet, place, tmp_path):
    words = ["reproduce", "dropout", "--data", place, "--seeds", "2", "--out", tmp_path / "r", *options(VARIANT)]
    status, out, _ = alexnet(*words, "--json")
    assert status == 0
    facts = json.loads(out.splitlines()[-1])
    lines = [json.loads(line) for line in (tmp_path / "r/dropout/runs.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["seed"]) for line in lines] == [
        ("as in 2012", 0), ("as in 2012", 1), ("without dropout", 0), ("without dropout", 1)
    ]  # fmt: skip
    wanted = "claim recipe variant data quick seed epochs top1_error top5_error seconds device versions commit"
    assert set(wanted.split()) <= set(lines[0])
    assert [line["epochs"] for line in lines] == [2] * 4

    # Errors are those of `evaluate`, and the difference is that of the errors.
    folders = {f.name[-1]: f for f in sorted((tmp_path / "r/work").iterdir()) if "dropout = 0.0" in read_recipe(f)}
    for line in lines[2:]:
        again = evaluate(folders[str(line["seed"])], place / "tiny-imagenet")
        assert line["top1_error"] == pytest.approx(again.top1_error)
    means = [np.mean([line["top1_error"] for line in part]) for part in (lines[:2], lines[2:])]
    assert facts["comparisons"][0]["mean"] == pytest.approx(100 * (means[1] - means[0]), abs=1e-3)
    assert facts["verdict"] in ("reproduced", "opposite", "not distinguishable")

    with Image.open(tmp_path / "r/dropout/figure.png") as figure:
        assert min(figure.size) > 200
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "r/work").rglob("model.safetensors")}
    assert len(made) == 4
    _, out, _ = alexnet(*words, "--json")
    assert json.loads(out.splitlines()[-1]) == facts
    assert made == {file: file.stat().st_mtime_ns for file in (tmp_path / "r/work").rglob("model.safetensors")}

    # A third seed trains only itself; a quick study stands beside the whole one; a page holds both.
    alexnet(*["3" if word == "2" else word for word in words])
    assert len(list((tmp_path / "r/work").iterdir())) == 6
    status, _, _ = alexnet(*words, "--quick", "--report", tmp_path / "page.md")
    assert status == 0
    page = (tmp_path / "page.md").read_text()
    assert page.count("![dropout](r/dropout") == 2
    assert "| quick: " in page
    _, out, _ = alexnet("reproduce", "--out", tmp_path / "r")
    assert "(quick)" in out
    assert out.count("not run") == len(CLAIMS) - 1
    assert "holds no results" not in out
    _, out, _ = alexnet("reproduce", "--out", tmp_path / "elsewhere")
    assert f"{tmp_path / 'elsewhere'} holds no results; --out FOLDER lists those of another folder" in out


def test_a_finished_network_is_found_when_recipes_get_a_key_and_under_the_name_that_it_once_had(tmp_path):
    """The former names are those that were given when recipes had 44 keys."""
    data = find_data(write_folders(tmp_path / "d", 5))
    known = {
        "alexnet32-552a4fb06d-0": resolve("cifar10", ["square=squash"]),
        "alexnet64-b6bc0ce8b3-2": resolve("tiny_imagenet", ["seed=2", "weights=x", "workers=3"]),
    }
    longer = make_dataclass("Longer", [("a_key", int, field(default=5))], bases=(Recipe,), frozen=True)
    for former, recipe in known.items():
        values = asdict(recipe)
        name = naming.network_name(recipe, data, "")
        assert naming.network_name(longer(**values), data, "") == name
        assert naming.former_name(longer(**values), data, "") == former
        assert naming.network_name(longer(**values, a_key=6), data, "") != name
        assert naming.network_name(replace(recipe, stop_error=0.5), data, "") != name
        assert naming.network_name(replace(recipe, square="torchvision"), data, "") != name
        assert naming.network_name(recipe, data, "what came before") != name
        work = tmp_path / recipe.variant
        assert naming.folder_of_network(work, recipe, data, "", str).name == name
        (work / former).mkdir(parents=True)
        (work / former / "recipe.toml").write_text(to_toml(recipe))
        assert naming.folder_of_network(work, recipe, data, "", str).name == former
        (work / former / "recipe.toml").write_text(to_toml(replace(recipe, momentum=0.8)))
        with pytest.raises(AlexNetError, match=r"was trained with momentum = 0\.8, now 0\.9 is meant; move it away"):
            naming.folder_of_network(work, recipe, data, "", str)
    assert {one.name for one in fields(Recipe)} >= naming.UNNAMED


def test_networks_that_were_trained_in_earnest_keep_their_names():
    """The folders of results/work, of CIFAR-10 itself, and a seed beside them."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    data = SimpleNamespace(classes=names, splits={"train": range(50_000), "valid": range(10_000)})
    study = running.Study(CLAIMS["cifar-18"], Path("x"), Path("y"), 2)
    found = [naming.network_name(study.recipe(study.claim.arms[0], seed), data, "") for seed in (0, 1)]
    assert found == ["cifar10_18-97fbd9d491-0", "cifar10_18-7c7d1f267d-1"]
    assert (Path(__file__).parents[1] / "results/work" / found[0]).is_dir()


def test_what_a_network_begins_from_is_in_its_name_or_was_seen_in_its_folder(tmp_path):
    data = find_data(write_folders(tmp_path / "d", 5))
    for one in CLAIMS.values():
        study = running.Study(one, Path("x"), Path("y"), 1)
        recipe = study.recipe(one.arms[-1], 0)
        squares = ("crop", "squash", "torchvision")
        names = {naming.network_name(replace(recipe, square=how), data, "") for how in squares}
        assert len(names) == 3
        assert naming.network_name(replace(recipe, square="squash"), data, "its weights") == naming.network_name(
            recipe, data, "its weights"
        )
        folder = tmp_path / one.name / naming.network_name(recipe, data, "")
        folder.mkdir(parents=True)
        for key, other in (("weights", "tiny"), ("square", "torchvision")):
            (folder / "recipe.toml").write_text(to_toml(replace(recipe, **{key: other})))
            with pytest.raises(AlexNetError, match=f"was trained with {key} = '{other}', now '.*' is meant"):
                naming.folder_of_network(tmp_path / one.name, recipe, data, "", str)


@pytest.mark.parametrize(("rate", "names"), [("0.002", "others"), ("0.002", "the same"), ("1e30", "the same")])
def test_what_was_trained_on_as_many_other_pictures_is_not_taken_for_a_network_of_these(
    alexnet, refused, tmp_path, rate, names
):
    """1e30 makes the loss infinite, which is a result too."""
    for name in ("these", "others"):
        first = 30 if name == names else 0
        write_folders(tmp_path / name / "cifar10" / "train", 3, first=first)
        write_folders(tmp_path / name / "cifar10" / "val", 2, first=50)
    for file in (tmp_path / "others").rglob("*.png"):
        Image.open(file).save(file, "JPEG", quality=75)
    words = ["reproduce", "cifar-18", "--seeds", "1", "--out", tmp_path / "r"]
    words += [*options("epochs=1", f"learning_rate={rate}"), "--data"]
    status, _, _ = alexnet(*words, tmp_path / "these")
    shutil.rmtree(tmp_path / "r/cifar-18", ignore_errors=True)  # the result, and not the network
    said = refused(*words, tmp_path / "others")
    assert f"was trained on other pictures than those of {tmp_path / 'others' / 'cifar10'}, though on as many" in said
    (tmp_path / "these").rename(tmp_path / "moved")
    again = alexnet(*words, tmp_path / "moved")
    assert again[0] == status
    assert ("its loss became infinite on cpu, 1 thread; to train it anew, delete" in again[1]) == (rate == "1e30")
    (made,) = (tmp_path / "r/work").glob("*/made.json")
    facts = json.loads(made.read_text())
    del facts["identity"]  # as of runs that did not say
    made.write_text(json.dumps(facts))
    shutil.rmtree(tmp_path / "r/cifar-18", ignore_errors=True)
    assert alexnet(*words, tmp_path / "others")[0] == status


def test_two_processes_share_networks_out(place, tmp_path):
    """The lock is the system's, on the folder: another holder, as another process would be, keeps this one out."""
    fcntl = pytest.importorskip("fcntl")
    study = running.Study(CLAIMS["dropout"], place, tmp_path, 1, sets=(VARIANT, *SETS))
    arm = study.claim.arms[0]
    folder = naming.folder_of_network(tmp_path / "work", study.recipe(arm, 0), study.data(), "", str)
    with running._alone(folder), pytest.raises(running.Busy, match="another process is training"):
        study.trained(arm, 0)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.close(handle)  # as a killed process leaves it
    with running._alone(folder):
        pass


@pytest.mark.parametrize("times", [1, 2])
def test_a_network_that_another_process_trained_meanwhile_is_asked_for_once_more(times):
    arms, asked, left = [SimpleNamespace(name="with"), SimpleNamespace(name="without")], [], [times]

    def trained(arm, seed):
        asked.append((arm.name, seed))
        if (arm.name, seed) == ("with", 0) and left[0]:
            left[0] -= 1
            raise running.Busy("another process is training it; wait for it.")
        return arm.name, seed

    study = SimpleNamespace(claim=SimpleNamespace(name="any", arms=arms), seeds=2, trained=trained)
    if times == 2:
        with pytest.raises(running.Busy):
            measures._all(study)
    else:
        runs = measures._all(study)
        assert runs == {name: [(name, 0), (name, 1)] for name in ("with", "without")}
    assert asked == [("with", 0), ("without", 0), ("with", 1), ("without", 1), ("with", 0)]


def read_recipe(folder: Path) -> str:
    return (folder / "recipe.toml").read_text()


def test_a_study_that_was_stopped_goes_on(alexnet, place, tmp_path):
    words = ["reproduce", "cifar-18", "--seeds", "1", "--data", place / "cifar10", *options("log_every=1")]
    alexnet(*words, "--out", tmp_path / "whole")
    alexnet(*words, "--set", "max_steps=3", "--out", tmp_path / "cut")  # not the same run: another folder
    (whole,) = (tmp_path / "whole/work").iterdir()
    lines = metrics.read(whole / "metrics.jsonl")
    (cut,) = (tmp_path / "cut/work").iterdir()
    assert cut.name != whole.name
    # The same folder with its end missing, as a killed process leaves it.
    (tmp_path / "again/work").mkdir(parents=True)
    half = tmp_path / "again/work" / whole.name
    cut.rename(half)
    recipe = (half / "recipe.toml").read_text().replace("max_steps = 3", "max_steps = 0")
    (half / "recipe.toml").write_text(recipe)
    (half / "metrics.jsonl").write_text("")
    status, _, _ = alexnet(*words, "--out", tmp_path / "again")
    assert status == 0
    assert (half / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert lines[-1]["step"] == metrics.read(half / "metrics.jsonl")[-1]["step"]


@pytest.mark.parametrize(
    "name", ["ten-views", "ensemble", "retrieval", "filters", "init-and-bias", "pretrain", "headline"]
)
def test_each_kind_of_claim_runs_to_its_end(alexnet, place, tmp_path, name):
    sets = options() if name == "init-and-bias" else options(VARIANT)
    seeds = "2" if name == "ensemble" else "1"
    words = ["reproduce", name, "--data", place, "--seeds", seeds, "--out", tmp_path, "--json", *sets]
    status, out, err = alexnet(*words)
    assert status == 0, err
    assert {one["seeds"] for one in json.loads(out.splitlines()[-1])["comparisons"]} == {int(seeds)}
    for file in (results.RUNS, results.RESULT, results.FIGURE, results.PAGE):
        assert (tmp_path / name / file).stat().st_size > 100


def whole(crossed: dict[float, float], tried: list[tuple[float, float]]):
    """A study that trains nothing: an arm gets there at each rate in `crossed` epochs, where it is waited for."""

    def trained(arm, seed, rate, most):
        tried.append((rate, most))
        if rate not in crossed:
            return None  # infinite loss
        when = crossed[rate]
        line = {"epoch": when + 0.5, "train_top1_error": 0.25 if when <= most else 0.5}
        return type("Run", (), {"epochs": [line]})

    return type("Study", (), {"trained": staticmethod(trained)})


@pytest.mark.parametrize(
    ("crossed", "wanted", "best"),
    [
        ({1: 9, 2: 7, 4: 8}, [2, 4, 1], 2),  # inside at once
        ({1: 9, 2: 7, 4: 5, 8: 3, 16: 4}, [2, 4, 8, 16], 8),  # upwards until one is later
        ({2: 7, 4: 5}, [2, 4, 8], 4),  # or its loss becomes infinite
        ({0.25: 9, 0.5: 4, 1: 5, 2: 7, 4: 8}, [2, 4, 1, 0.5, 0.25], 0.5),  # downwards
    ],
)
def test_rates_go_on_until_the_best_has_a_worse_one_on_either_side(crossed, wanted, best):
    asked: list[tuple[float, float]] = []
    tried, found = measures._rates(whole(crossed, asked), Arm("one", "cifar10_13", rates=(2,)), 0.25)
    assert [rate for rate, _ in asked] == wanted
    assert found == best
    for number, (_, most) in enumerate(asked[1:], 1):  # later than the soonest by an epoch, a rate has lost
        assert most == min(tried[rate][0] for rate in wanted[:number]) + 1


def test_a_search_for_a_rate_that_finds_no_worse_one_ends_and_says_so(place, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "MOST_RATES", 2)
    arms = tuple(replace(arm, rates=(0.003, 1e-12)) for arm in CLAIMS["relu-vs-tanh"].arms)
    study = running.Study(
        replace(CLAIMS["relu-vs-tanh"], arms=arms), place, tmp_path, 2, sets=("epochs=12", "batch_size=8")
    )
    outcome = measures.measure_claim(study)
    assert [one.recipe.learning_rate for several in outcome.runs.values() for one in several] == [0.003] * 4
    assert all(one.epochs[-1]["train_top1_error"] <= 0.25 for several in outcome.runs.values() for one in several)
    assert all(len(one.epochs) < 12 for several in outcome.runs.values() for one in several)
    assert "tanh's best rate is the highest tried" in " ".join(outcome.notes)
    assert re.search(r"by learning rate: 1e-12: not in \d, \d\d\.\d % by then; 0\.003: ", " ".join(outcome.notes))


def test_a_rate_that_is_later_than_the_soonest_is_given_up_and_one_that_never_gets_there_bounds_the_ratio(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(measures, "MOST_RATES", 2)
    relu, tanh = CLAIMS["relu-vs-tanh"].arms
    arms = (replace(relu, rates=(0.003, 1e-12)), replace(tanh, rates=(1e-12, 1e-8)))
    claim = replace(CLAIMS["relu-vs-tanh"], arms=arms)
    outcome = measures.measure_claim(running.Study(claim, place, tmp_path, 2, sets=("epochs=12", "batch_size=8")))
    sooner = [len(one.epochs) for one in outcome.runs["ReLU"]]
    assert max(sooner) < 11
    recipes = {file.parent: file.read_text() for file in tmp_path.glob("work/*/recipe.toml")}
    (given_up,) = (run for run, text in recipes.items() if "rate = 1e-12" in text and '"relu"' in text)
    epochs = [line for line in metrics.read(given_up / "metrics.jsonl") if line["kind"] == "epoch"]
    assert len(epochs) == math.ceil(measures.crossing(outcome.runs["ReLU"][0].epochs, 0.25) + 1)
    (found,) = outcome.comparisons
    assert found.name == "ReLU sooner than tanh, at least"
    times = [measures.crossing(one.epochs, 0.25) for one in outcome.runs["ReLU"]]
    assert found.interval.mean == pytest.approx(11.5 / math.sqrt(times[0] * times[1]))
    assert found.interval.high == math.inf
    assert [one.recipe.learning_rate for one in outcome.runs["tanh"]] == [1e-8, 1e-8]  # closer to it by the end


def test_a_loss_that_becomes_infinite_is_a_sentence_or_a_rate_that_loses(place, tmp_path):
    wild = Arm("wild", "cifar10_13", {"batch_size": 8, "epochs": 3}, rates=(1e6, 0.002))
    study = running.Study(replace(CLAIMS["lrn-cifar"], arms=(wild,)), place, tmp_path, 1)
    assert study.trained(wild, 0, 1e6) is None
    assert study.trained(wild, 0, 1e6) is None  # remembered
    wilder = replace(wild, sets={**wild.sets, "learning_rate": 1e6})
    with pytest.raises(AlexNetError, match="became infinite, so there is nothing to compare; give a lower rate"):
        measures.measure_claim(replace(study, claim=replace(study.claim, arms=(wilder,))))
