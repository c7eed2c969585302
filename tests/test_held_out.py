"""Which pictures are held out: shares and folds by names alone, kept by a run, and told from other data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import evaluate, export
from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.data.dataset import Data, Split
from alexnet.data.held_out import HeldOut, as_trained, divided
from alexnet.data.identity import digest, identity, pictures_digest
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import pack
from alexnet.engines import loading
from alexnet.inference.evaluation import opened
from alexnet.networks.variants import VARIANTS
from alexnet.training import checkpoint
from alexnet.training.loop import train
from alexnet.training.restarts import check_same_data
from conftest import TINY, coloured, write_folders
from narrow import narrow


def made(counts: dict[str, int], without: str = "") -> Data:
    """Data with so many pictures of each class, in one split; `without` is a name that it lacks."""
    rows = [(label, f"{c}/{n}") for label, (c, k) in enumerate(counts.items()) for n in range(k)]
    rows = [row for row in rows if row[1] != without]
    whole = Split("made", np.array([label for label, _ in rows]), lambda i: b"", lambda i: rows[i][1])
    return Data("made", "made", list(counts), {"train": whole}, whole=whole)


def names(data: Data, split: str = "valid") -> list[str]:
    one = data.split(split)
    return [one.name(i) for i in range(len(one))]


COUNTS = {"many": 23, "seven": 7, "two": 2, "one": 1}


def test_folds_are_even_in_every_class_and_are_all_the_pictures_together():
    whole = made(COUNTS)
    folds = [divided(whole, HeldOut(folds=5, fold=k)) for k in range(1, 6)]
    held = [names(one) for one in folds]
    assert sorted(name for one in held for name in one) == sorted(set(names(whole, "train")) - {"one/0"})
    for one in folds:
        assert sorted(names(one) + names(one, "train")) == sorted(names(whole, "train"))
        assert set(one.split("train").labels) == {0, 1, 2, 3}  # every class is trained on
    by_class = np.array([np.bincount(one.split("valid").labels, minlength=4) for one in folds])
    assert (np.ptp(by_class, axis=0) <= 1).all()
    assert np.ptp(by_class.sum(1)) <= 1


@pytest.mark.parametrize(("share", "expected"), [(0.2, [5, 1, 1, 0]), (0.5, [12, 4, 1, 0]), (0.99, [22, 6, 1, 0])])
def test_a_share_is_of_every_class_and_leaves_one_to_train_on(share, expected):
    one = divided(made(COUNTS), HeldOut(share))
    assert np.bincount(one.split("valid").labels, minlength=4).tolist() == expected
    assert sorted(names(one) + names(one, "train")) == sorted(names(made(COUNTS), "train"))


@pytest.mark.parametrize("held", [HeldOut(0.3), HeldOut(folds=3, fold=2)])
def test_what_is_held_out_is_a_function_of_names_and_not_of_their_order(held):
    whole = made(COUNTS)
    order = np.random.default_rng(0).permutation(len(whole.splits["train"]))
    split = whole.splits["train"].take(order, "shuffled")
    assert sorted(names(divided(replace(whole, whole=split), held))) == sorted(names(divided(whole, held)))
    less = divided(made(COUNTS, without="two/1"), held)  # another class stays as it was
    kept = [name for name in names(divided(whole, held)) if name.startswith(("many", "seven"))]
    assert [name for name in names(less) if name.startswith(("many", "seven"))] == kept


def test_pictures_that_stood_apart_are_left_alone_and_are_the_split_test(folders):
    data = find_data(folders)
    one = divided(data, HeldOut(0.25))
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 36, "valid": 12, "test": 15}
    assert names(one, "test") == names(data, "valid")
    assert sorted(names(one) + names(one, "train")) == sorted(names(data, "train"))
    assert "valid 12 pictures (a share of 0.25 of train/)" in one.summary()
    assert divided(data, HeldOut()) is data
    three = replace(data, splits={**data.splits, "test": data.split("train").take(np.arange(4), "more")})
    one = divided(three, HeldOut(0.25))  # a test split is left alone, and the other two are divided together
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 48, "valid": 15, "test": 4}


def test_what_was_said_of_the_splits_is_said_of_the_new_ones(tmp_path):
    root = write_folders(tmp_path, 3)
    (root / "white").mkdir()
    coloured("red", 9).save(root / "white" / "9.png")
    data = find_data(root)
    assert data.notes == ["valid has no picture of 1 of 4 classes (white); errors on it say nothing of these"]
    assert divided(data, HeldOut(0.4)).notes == data.notes
    (said,) = divided(data, HeldOut(folds=9, fold=1)).notes
    assert said.startswith("valid has no picture of 3 of 4 classes")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--valid", "0.2", "--folds", "5"], "give one of them"),
        (["--folds", "1"], "it takes 2 or more"),
        (["--folds", "3", "--fold", "4"], "fold was given 4 of 3 folds"),
        (["--fold", "2"], "without a number of folds; give folds"),
        (["--valid", "1"], "valid was given '1.0'; it takes"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_what_does_not_go_together_is_refused(refused, folders, tmp_path, command, words, said):
    start = ["evaluate", "tiny", folders] if command == "evaluate" else ["train", folders, "--out", tmp_path / "run"]
    assert said in refused(*start, *words)
    assert not (tmp_path / "run").exists()


def test_too_few_pictures_for_any_to_be_held_out_are_a_sentence():
    with pytest.raises(AlexNetError, match="too few pictures for any to be held out"):
        divided(made({"a": 1, "b": 1}), HeldOut(0.2))


def test_a_digest_tells_names_labels_and_classes():
    one = divided(made(COUNTS), HeldOut(0.2))
    labels = one.splits["train"].labels.copy()
    labels[:2] = 1
    others = [
        divided(made(COUNTS), HeldOut(0.3)),
        divided(made(COUNTS, without="many/3"), HeldOut(0.2)),
        replace(one, classes=["a", "b", "c", "d"]),
        replace(one, splits={**one.splits, "train": replace(one.splits["train"], labels=labels)}),
    ]
    assert digest(one) == digest(divided(made(COUNTS), HeldOut(0.2)))
    assert len({digest(x) for x in (one, *others)}) == 5


# -- runs -----------------------------------------------------------------------------------------------------------

SETS = [*TINY, "max_steps=1", "valid=0.4"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A narrow net's run on a folder without splits, two fifths held out, and the folder."""
    root = tmp_path_factory.mktemp("held")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
        train(write_folders(root / "data", 10), root / "run", None, SETS)
        yield root


def test_evaluate_takes_the_pictures_that_the_run_held_out(alexnet, small, tmp_path):
    held = divided(find_data(small / "data"), HeldOut(0.4))
    final = json.loads((small / "run" / run_files.METRICS).read_text().splitlines()[-1])
    copy = shutil.copy(small / "run" / run_files.LAST, tmp_path / "other.safetensors")
    moved = shutil.copytree(small / "data", tmp_path / "moved")
    for model, data in ((small / "run", small / "data"), (copy, small / "data"), (small / "run", moved)):
        table = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        _, out, err = alexnet("evaluate", model, data, "--pictures", table, "--json")
        facts = json.loads(out.splitlines()[-1])
        assert [json.loads(line)["file"] for line in table.read_text().splitlines()] == names(held)
        assert facts["images"] == 12
        assert facts["top1_error"] == pytest.approx(final["top1_error"], rel=1e-6)
        assert facts["loss"] == pytest.approx(final["loss"], rel=1e-5)
        assert "a share of 0.4 of whole folder" in err
        assert "--split all" not in err


def test_evaluate_says_where_pictures_are_not_those_that_were_held_out(alexnet, small, tmp_path):
    _, out, _ = alexnet("evaluate", small / "run", small / "data", "--folds", "2", "--json")
    err = alexnet("evaluate", small / "run", small / "data", "--folds", "2", "--json")[2]
    assert json.loads(out.splitlines()[-1])["images"] == 15
    assert "other pictures were held out when MODEL was trained, so it was trained on some of these" in err
    other = write_folders(tmp_path / "other", 10, first=30)
    _, out, err = alexnet("evaluate", small / "run", other, "--json")
    assert json.loads(out.splitlines()[-1])["images"] == 3
    assert "is not what MODEL was trained on" in err
    assert "these are the pictures that training would hold out; --split all takes all 30" in err


@pytest.mark.parametrize(
    "changed", [{"valid": float("nan")}, {"valid": 7.0}, {"folds": -1}, {"fold": "x"}, {"digest": 5}]
)
def test_facts_of_a_file_that_make_no_sense_say_nothing(changed):
    trained = {"valid": 0.4, "folds": 0, "fold": 1, "digest": "0", "step": 3}
    assert as_trained(made(COUNTS), trained | {"digest": digest(divided(made(COUNTS), HeldOut(0.4)))}) is not None
    assert as_trained(made(COUNTS), trained | changed) is None


def test_data_that_are_divided_already_are_taken_as_they_are(small):
    said: list[str] = []
    held = divided(find_data(small / "data"), HeldOut(0.4))
    assert evaluate(small / "run", held, device="cpu", say=said.append).images == 12
    assert "not what MODEL was trained on" not in " ".join(said)


def test_an_export_is_measured_on_what_the_run_held_out(small, tmp_path):
    pytest.importorskip("onnxruntime")
    assert export(small / "run", tmp_path / "net", "onnx", data=small / "data").change.images == 12
    export(small / "run", tmp_path / "small", "onnx", "w8")
    assert evaluate(tmp_path / "small.onnx", small / "data", device="cpu").images == 12


def test_members_that_held_out_others_than_the_first_are_named(small, tmp_path):
    train(small / "data", tmp_path / "run", None, [*TINY, "max_steps=1", "folds=5", "fold=3"])
    said: list[str] = []
    evaluate([small / "run", tmp_path / "run"], small / "data", device="cpu", say=said.append)
    assert any("other pictures were held out when MODEL 2 was trained" in line for line in said)
    assert not any("MODEL 1 was" in line for line in said)


def test_a_resumed_run_holds_out_the_same_and_refuses_another_share(small, tmp_path):
    run = shutil.copytree(small / "run", tmp_path / "run")
    train(small / "data", run, sets=["max_steps=2"], resume=True)
    trained = loading.load_classifier(run).trained
    assert (trained["valid"], trained["step"]) == (0.4, 2)
    with pytest.raises(AlexNetError, match=r"started with valid = 0.4, now valid = 0.2"):
        train(small / "data", run, sets=["valid=0.2"], resume=True)


def added(root: Path) -> None:
    (root / "white").mkdir()
    for n in range(2):
        coloured("red", n).save(root / "white" / f"{n}.png")


DIFFERENCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a class more": (added, "it has classes more (white)"),
    "a class less": (lambda root: shutil.rmtree(root / "red"), "it lacks classes (red)"),
    "a class renamed": (
        lambda root: (root / "red").rename(root / "rot"),
        "it has classes more (rot) and lacks classes (red)",
    ),
    "a picture less": (
        lambda root: (root / "blue" / "1.png").unlink(),
        "has other numbers of pictures in train (blue: 6, now 5)",
    ),
    "a picture renamed": (
        lambda root: (root / "blue" / "1.png").rename(root / "blue" / "x.png"),
        "as many pictures of each class, but other files",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_resume_on_other_data_names_what_differs(refused, small, tmp_path, name):
    change, said = DIFFERENCES[name]
    root = shutil.copytree(small / "data", tmp_path / "data")
    change(root)
    run = shutil.copytree(small / "run", tmp_path / "run")
    sentence = refused("train", root, "--out", run, "--resume", "--set", "max_steps=2")
    assert "the run was trained on 18 pictures of 3 classes, DATA" in sentence
    assert said in sentence
    assert sentence.endswith("give the data that it was started with.")


def test_a_state_of_before_there_was_a_digest_goes_on(small, tmp_path):
    run = shutil.copytree(small / "run", tmp_path / "run")
    state = checkpoint.read_state(run / run_files.STATE)
    del state["counts"], state["digest"]
    checkpoint.write_state(run / run_files.STATE, state)
    assert train(small / "data", run, sets=["max_steps=2"], resume=True).steps == 2


def other_bytes(root: Path) -> None:
    """The same pictures, or all but, under the same names."""
    for file in root.rglob("*.png"):
        Image.open(file).save(file, "JPEG", quality=75)


def test_a_resumed_run_says_where_the_same_names_hold_other_bytes(alexnet, small, tmp_path):
    run, root = shutil.copytree(small / "run", tmp_path / "run"), shutil.copytree(small / "data", tmp_path / "data")
    other_bytes(root)
    for data, steps, told in ((small / "data", 2, False), (root, 3, True)):
        status, out, _ = alexnet("train", data, "--out", run, "--resume", "--set", f"max_steps={steps}")
        assert status == 0
        assert ("but not the same bytes in its pictures" in out) == told


def test_a_run_that_is_given_a_test_split_sees_the_same_bytes_as_before(small):
    said: list[str] = []
    state = checkpoint.read_state(small / "run" / run_files.STATE)
    data = divided(find_data(small / "data"), HeldOut(0.4))
    data = replace(data, splits={**data.splits, "test": data.split("valid")})
    for contents in (state["contents"], pictures_digest(data)):  # as it is, and as it was in older states
        check_same_data({**state, "contents": contents}, data, said.append)
    assert said == []


def test_an_evaluation_is_not_gone_on_with_on_other_pictures_of_the_same_names(small, tmp_path):
    root = shutil.copytree(small / "data", tmp_path / "data")
    asked = []
    for change in (lambda root: None, other_bytes):
        change(root)
        with opened([small / "run"], root, "train", device="cpu") as task:
            asked.append(task.hashes()["DATA"])
    assert asked[0] != asked[1]


def test_what_tells_data_from_others_holds_where_they_are_copied_and_not_where_they_are_encoded_anew(small, tmp_path):
    found = {"here": small / "data", "copied": shutil.copytree(small / "data", tmp_path / "copied")}
    found["anew"] = shutil.copytree(small / "data", tmp_path / "anew")
    other_bytes(found["anew"])
    for encoding in ("raw", "jpeg"):
        pack(small / "data", tmp_path / encoding, size=32, encoding=encoding)
        found[encoding] = tmp_path / encoding
    data = {name: find_data(place) for name, place in found.items()}
    assert len({digest(one) for one in data.values()}) == 1
    assert pictures_digest(data["here"]) == pictures_digest(data["copied"])
    assert len({identity(one) for one in data.values()}) == 4
    for number, file in enumerate(sorted(found["copied"].rglob("*.png"))):
        file.rename(file.with_name(f"{number:03}.png"))  # in the order that they had
    renamed = find_data(found["copied"])
    assert identity(renamed) != identity(data["here"])
    assert identity(renamed, names=False) == identity(data["here"], names=False)


def test_all_takes_a_labelled_folder_whole_however_few_its_pictures(alexnet, refused, small, tmp_path):
    for name, colours in {"each": ("blue", "green", "red"), "one": ("red",)}.items():
        for colour in colours:
            (tmp_path / name / colour).mkdir(parents=True)
            coloured(colour, 50).save(tmp_path / name / colour / "a.png")
        assert "alexnet evaluate takes it as it is by --split all" in refused(
            "evaluate", small / "run", tmp_path / name
        )
        status, out, _ = alexnet("evaluate", small / "run", tmp_path / name, "--split", "all", "--json")
        assert status == 0
        assert json.loads(out.splitlines()[-1])["images"] == len(colours)
    _, out, _ = alexnet("evaluate", small / "run", small / "data", "--split", "all", "--json")
    assert json.loads(out.splitlines()[-1])["images"] == 30
