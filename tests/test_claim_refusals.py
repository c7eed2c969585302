"""What a claim refuses, and what it never overwrites, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet.base import metrics
from alexnet.reproduction import planning, results, running
from alexnet.reproduction.claims import CLAIMS

SHORT = [
    word
    for one in ("epochs=2", "batch_size=8", "learning_rate=0.002", "precision=float32", "max_steps=2")
    for word in ("--set", one)
]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["reproduce", "towers"], "needs pictures; give --data DIR"),
        (["reproduce", "tower", "--data", "x"], "did you mean 'towers'"),
        (["reproduce", "towers", "--data", "nowhere"], "--data nowhere does not exist"),
        (["reproduce", "--quick"], "no claim was named; give one of"),
        (["reproduce", "--report", "x.md", "--out", "nothing"], "holds no results; run alexnet reproduce NAME"),
        (["reproduce", "towers", "--data", ".", "--set", "epoch=3"], "did you mean 'epochs'"),
    ],
)
def test_bad_input_is_one_sentence(refused, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*words)


@pytest.mark.parametrize(
    ("name", "sets", "sentence"),
    [
        *((name, "seed=7", "decides seed of its networks itself (--seeds N takes 0 to N - 1)") for name in CLAIMS),
        *((name, "weights=tiny", "decides weights of its networks itself (its networks begin") for name in CLAIMS),
        (
            "relu-vs-tanh",
            "learning_rate=0.5",
            "decides learning_rate of its networks itself; leave",
        ),
        ("relu-vs-tanh", "activation=tanh", "decides activation of its networks itself"),
        ("relu-vs-tanh", "stop_error=0.5", "decides stop_error of its networks itself"),
        ("dropout", "dropout=0", "decides dropout of its networks itself"),
        ("crops-and-flips", "flips=false", "decides flips of its networks itself"),
        ("colour-noise", "colour_noise=0", "decides colour_noise of its networks itself"),
        ("pretrain", "class_weights=true", "decides class_weights of its networks itself"),
        ("lrn-cifar", "variant=alexnet32", "decides variant of its networks itself"),
        (
            "filters",
            "variant=alexnet64_half",
            "is of two towers, which alexnet64_half does not have; give",
        ),
        ("filters", "variant=alexnet_owt", "is of two towers, which alexnet_owt does not have"),
    ],
)
def test_what_a_claim_decides_itself_is_not_taken_from_a_set(refused, place, tmp_path, name, sets, sentence):
    said = refused("reproduce", name, "--data", place, "--set", sets, "--out", tmp_path / "r")
    assert f"the claim {name} {sentence}" in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("variant", ["alexnet2012", "alexnet64", "caffenet"])
def test_filters_are_of_any_network_with_towers(variant):
    assert running.Study(CLAIMS["filters"], Path("x"), Path("y"), 1, sets=(f"variant={variant}",))


def a_result(out: Path, name: str, **changes: object) -> Path:
    """A result of that claim as the command leaves it, and of no network."""
    one = {"name": "x, top-1", "unit": "points", "mean": 1.0, "low": 0.5, "high": 1.5, "seeds": 2, "pictures": 12}
    facts = {"claim": name, "quick": False, "verdict": "reproduced", "seeds": 2, "sets": ["epochs=1"], "notes": []}
    facts |= {"comparisons": [one | {"verdict": "reproduced"}], **changes}
    (folder := out / name).mkdir(parents=True)
    (folder / results.RESULT).write_text(json.dumps(facts))
    (folder / results.RUNS).write_text("")
    return folder


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(
    ("changes", "seeds", "sentence"),
    [
        ({}, "1", "holds a result of 2 seeds with --set epochs=1, and 1 seed with --set epochs=1 was asked for; give"),
        ({"sets": []}, "2", "holds a result of 2 seeds with no --set, and 2 seeds with --set epochs=1 was asked for"),
        ({"sets": ["epochs=2"]}, "3", "holds a result of 2 seeds with --set epochs=2, and 3 seeds with --set epochs=1"),
        ({"identity": "others"}, "2", "holds a result of other pictures than those of"),
        ({"identity": "others"}, "3", "holds a result of other pictures than those of"),
        (None, "3", "holds README.md and no result.json, so it is no result of a claim; move it away, or give another"),
    ],
)
def test_a_result_is_replaced_by_no_other_and_that_is_said_before_training(
    refused, place, tmp_path, monkeypatch, every, changes, seeds, sentence
):
    if every and changes == {}:
        return  # with --all it is there already
    monkeypatch.setattr(planning, "CLAIMS", {"dropout": CLAIMS["dropout"]})
    folder = a_result(tmp_path, "dropout", **changes or {})
    if changes is None:
        (folder / results.RESULT).rename(folder / results.PAGE)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    words = ["--all" if every else "dropout", "--data", place, "--seeds", seeds, "--set", "epochs=1"]
    said = refused("reproduce", *words, "--out", tmp_path)
    assert f"{folder} {sentence}" in said.replace(f"{results.RUNS} and no", f"{results.PAGE} and no")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert not (tmp_path / "work").exists()


def test_a_result_makes_room_for_more_seeds_of_the_same_keys_in_any_order(place, tmp_path):
    sets = ("epochs=1", "momentum=0.8")
    a_result(tmp_path, "dropout", sets=list(sets))
    for seeds in (2, 3):
        results.refuse_to_replace(running.Study(CLAIMS["dropout"], place, tmp_path, seeds, sets=sets[::-1]))


@pytest.mark.parametrize("words", [[], ["--report", "page.md"], ["NAME"], ["--all"]])
@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "3", '{"claim": "dropout"}', {"comparisons": []}, {"comparisons": [{}]}], ids=str
)
@pytest.mark.parametrize("name", ["dropout", "cifar-18", "init-and-bias"])
def test_a_damaged_result_is_a_sentence(refused, place, tmp_path, monkeypatch, words, text, name):
    """Of the last no verdict is looked at anew, so that its comparisons may be any."""
    if isinstance(text, dict) and name == "init-and-bias":
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "CLAIMS", {name: CLAIMS[name]})
    folder = a_result(Path("r"), name, **text if isinstance(text, dict) else {})
    if isinstance(text, str):
        (folder / results.RESULT).write_text(text)
    data = ["--data", place] if words in (["NAME"], ["--all"]) else []
    said = refused("reproduce", *(name if word == "NAME" else word for word in words), *data, "--out", "r")
    assert f"{folder} holds a damaged result (" in said
    assert f"delete it and run alexnet reproduce {name} anew" in said
    assert not Path("r/work").exists()


@pytest.mark.parametrize(
    ("there", "file", "sentence"),
    [
        ("", "notes.txt", "--report was given notes.txt; it writes .md"),
        ("", "none/notes.md", "--report none/notes.md: there is no folder none"),
        ("notes.md", "notes.md", "--report notes.md exists already; give another name"),
        ("notes.png", "notes.md", "--report notes.md: notes.png exists already; give another name"),
    ],
)
@pytest.mark.parametrize("words", [[], ["dropout"], ["--all"], ["--list"]])
def test_a_report_that_cannot_be_or_would_replace_another_file_is_refused_before_any_work(
    refused, place, tmp_path, monkeypatch, there, file, sentence, words
):
    monkeypatch.chdir(tmp_path)
    a_result(Path("r"), "dropout")
    if there:
        Path(there).write_text("mine")
    data = ["--data", place] if words in (["dropout"], ["--all"]) else []
    assert sentence in refused("reproduce", *words, *data, "--report", file, "--out", "r")
    assert not there or Path(there).read_text() == "mine"
    assert not Path("r/work").exists()


def test_a_report_is_made_anew_and_told_as_json(alexnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_result(Path("r"), "dropout")
    for _ in range(2):
        status, out, _ = alexnet("reproduce", "--report", "page.md", "--out", "r", "--json")
        assert status == 0
        assert json.loads(out.splitlines()[-1]) == {"report": "page.md", "results": 1}
    assert Path("page.md").read_text().startswith("# The paper's claims")


def test_a_page_says_the_versions_of_all_its_networks(tmp_path):
    keys = ("arm", "variant", "images", "classes", "data", "seed", "epochs", "views", "top1_error", "top5_error")
    line = dict.fromkeys((*keys, "seconds"), 1)
    line |= {"device": "cpu", "commit": "c"}
    lines = [line | {"versions": {"alexnet": "0.2.0", "torch": torch}} for torch in ("2.15", "2.11", "2.15")]
    facts = json.loads((a_result(tmp_path, "dropout") / results.RESULT).read_text())
    assert "; alexnet 0.2.0, torch 2.11 and alexnet 0.2.0, torch 2.15; commit c." in results.page(facts, lines, "f.png")


def test_a_study_that_ends_within_its_first_epoch_is_told_by_the_networks_it_has(alexnet, place, tmp_path):
    words = ["reproduce", "cifar-18", "--seeds", "1", "--data", place / "cifar10", *SHORT]
    status, _, _ = alexnet(*words, "--out", tmp_path)
    (folder,) = (tmp_path / "work").iterdir()
    lines = metrics.read(folder / "metrics.jsonl")
    assert not [one for one in lines if one["kind"] == "epoch"]
    assert lines[-1]["kind"] == "final"
    assert lines[-1]["step"] == 2
    assert status == 0
