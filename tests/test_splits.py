"""Which pictures are trained on is said by the names of folders and files, in every layout by the same words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.checking import check
from alexnet.data.dataset import split_word
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import pack
from archives import tar, valid_pictures
from conftest import coloured, encoded, write_folders, write_parquet

CLASSES = ["cat", "dog", "owl"]
PICTURE = [encoded(coloured("red", n, (4, 4))) for n in range(40)]

# The name of what is trained on, of what is held out.
PAIRS = [
    ("train", "val"), ("Train", "Valid"), ("TRAIN", "TEST"), ("Training", "Testing"), ("training", "validation"),
    ("train", "dev"), ("train_set", "test_set"), ("TrainSet", "EvalSet"), ("trainset", "testset"),
    ("training_data", "holdout"), ("seg_train", "seg_test"), ("train2017", "val2017"), ("train_0", "eval-0"),
    ("imgs_train", "imgs_val"), ("trn", "held-out"), ("cifar.train", "cifar.test"), ("train_val", "Evaluation"),
    ("DataTraining", "DataTest"), ("train-images", "TESTSET"),
]  # fmt: skip
NO_SPLIT = ["latest", "contest", "boat", "developer", "pretrain", "trainer", "attestation", "prétest", "part-0", "a"]


def put(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


def as_folders(root: Path, name: str, first: int, classes: list[str] = CLASSES) -> None:
    for label, one in enumerate(classes):
        for n in range(2):
            put(root / name / one / f"{n}.png", PICTURE[first + 2 * label + n])


def as_nested_folders(root: Path, name: str, first: int) -> None:
    as_folders(root / "archive" / name, name, first)


def as_image_folders(root: Path, name: str, first: int) -> None:
    as_folders(root / "set" / name, "images", first)


def labelled(first: int) -> list[tuple[bytes, int]]:
    return [(PICTURE[first + n], n // 2) for n in range(6)]


def as_parquet(root: Path, name: str, first: int) -> None:
    write_parquet(root / f"{name}.parquet", labelled(first), CLASSES)


def as_parquet_of_the_hub(root: Path, name: str, first: int) -> None:
    write_parquet(root / "data" / f"set-{name}-00000-of-00001.parquet", labelled(first), CLASSES)


def as_parquet_in_folders(root: Path, name: str, first: int) -> None:
    write_parquet(root / "plain_text" / name / "0000.parquet", labelled(first), CLASSES)


def as_shards(root: Path, name: str, first: int) -> None:
    files = {f"{n}.png": contents for n, (contents, _) in enumerate(labelled(first))}
    put(
        root / f"{name}-000.tar",
        tar(files | {f"{n}.cls": str(label).encode() for n, (_, label) in enumerate(labelled(0))}),
    )


def as_shards_in_folders(root: Path, name: str, first: int) -> None:
    as_shards(root / name, "0", first)


def as_shards_of_an_address(root: Path, name: str, first: int) -> None:
    as_shards(root, name, first)


LAYOUTS = [
    as_folders, as_nested_folders, as_image_folders, as_parquet, as_parquet_of_the_hub, as_parquet_in_folders,
    as_shards, as_shards_in_folders, as_shards_of_an_address,
]  # fmt: skip


def where(make: Callable, root: Path) -> Path | str:
    return f"file://{root}/*.tar" if make is as_shards_of_an_address else root


def contents(split) -> set[bytes]:
    return {source if isinstance(source := split.read(i), bytes) else source.read_bytes() for i in range(len(split))}


@pytest.mark.parametrize("make", LAYOUTS)
def test_the_words_of_names_say_in_every_layout_what_is_trained_on(tmp_path, make):
    for number, (train, held_out) in enumerate(PAIRS):
        root = tmp_path / str(number)
        make(root, train, 0)
        make(root, held_out, 6)
        data = find_data(where(make, root))
        assert {name: contents(split) for name, split in data.splits.items()} == {
            "train": set(PICTURE[:6]), "valid": set(PICTURE[6:12]),
        }, (train, held_out)  # fmt: skip
        assert [data.split("train").labels.tolist(), data.split("valid").labels.tolist()] == [[0, 0, 1, 1, 2, 2]] * 2


@pytest.mark.parametrize("make", LAYOUTS)
def test_test_pictures_are_a_split_of_their_own_beside_validation_pictures(tmp_path, make):
    for number, name in enumerate(("train", "dev", "Testing")):
        make(tmp_path, name, 6 * number)
    data = find_data(where(make, tmp_path))
    wanted = {name: set(PICTURE[6 * n : 6 * n + 6]) for n, name in enumerate(("train", "valid", "test"))}
    assert {name: contents(split) for name, split in data.splits.items()} == wanted
    assert contents(data.split("eval")) == wanted["test"]
    assert len(data.split("all")) == 18


def test_a_pack_keeps_test_pictures_apart_too(tmp_path):
    for number, name in enumerate(("train", "dev", "Testing")):
        as_folders(tmp_path / "data", name, 6 * number)
    pack(tmp_path / "data", tmp_path / "pack", 4, workers=1)
    data = find_data(tmp_path / "pack")
    assert {name: split.origin for name, split in data.splits.items()} == {
        "train": "train/", "valid": "dev/", "test": "Testing/",
    }  # fmt: skip
    assert data.split("test").labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("name", ["val", "Testing"])
def test_pictures_to_hold_out_alone_are_evaluated_and_never_trained_on(tmp_path, make, name):
    make(tmp_path, name, 0)
    data = find_data(where(make, tmp_path))
    assert {split: contents(found) for split, found in data.splits.items()} == {"valid": set(PICTURE[:6])}
    with pytest.raises(AlexNetError, match="has no split 'train'; it has valid"):
        data.split("train")


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("names", [("fold_0", "fold_1", "fold_2"), ("Fold1", "Fold2"), ("train_test", "eval_train")])
def test_parts_of_which_no_word_says_whether_to_train_on_them_are_refused(tmp_path, make, names):
    for number, name in enumerate(names):
        make(tmp_path, name, 6 * number)
    with pytest.raises(AlexNetError, match="of which nothing says whether to train on them"):
        find_data(where(make, tmp_path))


def test_words_that_only_contain_those_of_splits_say_none():
    assert {name: split_word(name) for name in NO_SPLIT} == dict.fromkeys(NO_SPLIT)


@pytest.mark.parametrize("make", [as_parquet, as_shards])
def test_files_without_a_split_beside_training_files_are_left_out_and_named(tmp_path, make):
    for number, name in enumerate(("train", "test", "extra")):
        make(tmp_path, name, 6 * number)
    data = find_data(tmp_path)
    assert {len(split) for split in data.splits.values()} == {6}
    assert "has files beside those of its splits (extra" in data.summary()


# -- folders --------------------------------------------------------------------------------------------------------


def refusal(path: object) -> str:
    with pytest.raises(AlexNetError) as caught:
        find_data(path)
    return str(caught.value)


@pytest.mark.parametrize("names", [("images", "images2"), ("site_a", "site_b", "site_c"), ("left", "right")])
def test_folders_that_hold_the_same_subfolders_are_no_classes(tmp_path, names):
    for name in names:
        as_folders(tmp_path, name, 0, CLASSES if name != names[-1] else CLASSES[:2])
    assert f"has folders that hold the same subfolders ({', '.join(names)}: cat, dog" in refusal(tmp_path)
    assert str(tmp_path / names[0]) in refusal(tmp_path)
    assert len(find_data(tmp_path / names[0]).classes) == 3


def test_splits_below_the_classes_are_refused(tmp_path):
    for name in CLASSES:
        as_folders(tmp_path, name, 0, ["train", "val"])
    assert "put the splits above the classes: train/CLASS and val/CLASS" in refusal(tmp_path)


def test_folders_below_classes_are_read_where_they_differ_or_are_one(tmp_path):
    as_folders(tmp_path / "a", "plants", 0, ["rose", "tulip"])
    as_folders(tmp_path / "a", "animals", 4, ["cat", "dog"])
    data = find_data(tmp_path / "a")
    assert data.classes == ["animals", "plants"]
    assert (
        "folders in them (animals: cat, dog; plants: rose, tulip); their pictures are of the class above"
        in data.notes[0]
    )
    for name in CLASSES:
        as_folders(tmp_path / "b", name, 0, ["images"])
    assert find_data(tmp_path / "b").classes == CLASSES
    assert not find_data(tmp_path / "b").notes


def test_one_class_folder_with_folders_in_it_names_the_way_out(tmp_path):
    as_folders(tmp_path, "flowers", 0, ["rose", "tulip"])
    assert f"if those are the classes give {tmp_path / 'flowers'}" in refusal(tmp_path)


def test_each_real_folder_is_entered_once_however_links_lead(tmp_path):
    as_folders(tmp_path / "data", ".", 0)
    as_folders(tmp_path, "outside", 6, ["more"])
    os.symlink("..", tmp_path / "data" / "cat" / "all")  # to itself
    os.symlink("../dog", tmp_path / "data" / "cat" / "another")  # to another class
    os.symlink("../../outside/more", tmp_path / "data" / "dog" / "linked")  # to what is nowhere else
    os.symlink("loop", tmp_path / "data" / "owl" / "loop.png")
    data = find_data(tmp_path / "data", tell=lambda fault: None)
    names = sorted(name for split in data.splits.values() for name in map(split.name, range(len(split))))
    assert names == sorted(
        [f"{one}/{n}.png" for one in CLASSES for n in range(2)] + [f"dog/linked/{n}.png" for n in range(2)]
        + ["owl/loop.png"]
    )  # fmt: skip
    assert (
        f"{Path('cat/all')} leads to {tmp_path / 'data'}, which is read already; it is not followed" in data.summary()
    )
    assert "cat/another leads to" in data.summary()


def test_one_folder_as_two_classes_or_as_two_splits_is_refused(tmp_path):
    as_folders(tmp_path, "train", 0)
    os.symlink("cat", tmp_path / "train" / "kitten")
    assert f"kitten is the same folder as {tmp_path / 'train' / 'cat'}" in refusal(tmp_path / "train")
    (tmp_path / "train" / "kitten").unlink()
    os.symlink("train", tmp_path / "val")
    assert f"{tmp_path / 'val' / 'cat'} is the same folder as {tmp_path / 'train' / 'cat'}" in refusal(tmp_path)


def test_links_that_lead_nowhere_are_named(tmp_path):
    as_folders(tmp_path, ".", 0)
    os.symlink("/nowhere/bird.png", tmp_path / "cat" / "bird")
    report = check(tmp_path, full=True)
    assert [(one.kind, one.file) for one in report.problems] == [("unreadable", "cat/bird")]
    os.symlink("/nowhere/bird", tmp_path / "bird")
    assert "has links that lead nowhere (bird to /nowhere/bird)" in refusal(tmp_path)


@pytest.mark.parametrize("closed", ["", "train", "train/cat", "train/cat/deeper"])
def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch, closed):
    as_folders(tmp_path, "train", 0)
    as_folders(tmp_path, "val", 6)
    put(tmp_path / "train" / "cat" / "deeper" / "a.png", PICTURE[20])
    real = os.scandir, os.listdir

    def guarded(number: int) -> Callable:
        def call(path="."):
            if Path(path) == tmp_path / closed:
                raise PermissionError(13, "Permission denied", str(path))
            return real[number](path)

        return call

    monkeypatch.setattr(os, "scandir", guarded(0))
    monkeypatch.setattr(os, "listdir", guarded(1))
    assert f"{tmp_path / closed} cannot be listed (Permission denied)" in refusal(tmp_path)


def test_what_is_no_picture_in_a_class_folder_is_passed_over_and_counted(tmp_path):
    as_folders(tmp_path, ".", 0)
    put(tmp_path / "cat" / "notes.txt", b"about cats")
    put(tmp_path / "dog" / "metadata.jsonl", b"{}")
    put(tmp_path / "dog" / "unnamed", PICTURE[9])
    put(tmp_path / "owl" / "broken.png", b"no picture")
    put(tmp_path / "beside.png", PICTURE[10])
    os.mkfifo(tmp_path / "owl" / "pipe")
    data = find_data(tmp_path)
    assert len(data.split("all")) == 8
    assert "has 2 files other than pictures (cat/notes.txt, dog/metadata.jsonl)" in data.summary()
    assert "has 1 picture beside its class folders (beside.png)" in data.summary()
    assert "pipe is a device or a pipe" in data.summary()
    report = check(tmp_path, full=True)
    assert [one.file for one in report.problems if one.kind == "unreadable"] == ["owl/broken.png"]
    assert len([one for one in report.problems if one.kind == "not used"]) == 3


@pytest.mark.parametrize("empty", [False, True])
def test_a_class_that_only_validation_lacks_is_said_and_no_reason_to_stop(tmp_path, empty):
    as_folders(tmp_path, "train", 0)
    as_folders(tmp_path, "val", 6, CLASSES[:2])
    if empty:
        (tmp_path / "val" / "owl").mkdir()
    data = find_data(tmp_path)
    assert data.classes == CLASSES
    assert "valid has no picture of 1 of 3 classes (owl); errors on it say nothing of these" in data.summary()
    (tmp_path / "train" / "dog").rename(tmp_path / "train" / "wolf")
    assert "has other classes in val/ than in train/ (more: dog" in refusal(tmp_path)


@pytest.mark.parametrize("place", ["val", ".", "ILSVRC2012_img_val", "Validation"])
def test_imagenets_validation_pictures_alone_are_evaluated(tmp_path, place):
    for name, picture in valid_pictures().items():
        put(tmp_path / place / name, picture)
    data = find_data(tmp_path)
    assert list(data.splits) == ["valid"]
    assert len(data.classes) == 1000
    assert sorted(data.split("valid").labels) == [0, 0, 1, 1, 2, 2]
    assert find_data(tmp_path / place).split("valid").labels.tolist() == data.split("valid").labels.tolist()


def test_what_is_held_but_not_read_is_named_with_the_way_to_what_is(tmp_path):
    for file, way in {
        "a/set.zip": "unpack it", "b/train.tar.gz": "unpack it", "c/train/data-00000.arrow": "to_parquet",
        "d/train/0.jpg": "sort them into a folder a class", "e/images.npz": "write its pictures",
    }.items():  # fmt: skip
        put(tmp_path / file, PICTURE[0])
        assert way in refusal(tmp_path / file[0]), file


@pytest.mark.parametrize("emptied", [["val"], ["val", "test"], ["test"]])
def test_a_split_whose_class_folders_are_all_empty_is_said_and_not_used(tmp_path, emptied):
    for name in ("train", "val", "test"):
        write_folders(tmp_path / name, 3)
    for file in (file for name in emptied for file in (tmp_path / name).rglob("*.png")):
        file.unlink()
    data = find_data(tmp_path)
    for name in emptied:
        assert f"{name} has no pictures in its class folders; it is not used" in data.summary()
    left = 3 - len(emptied)
    assert (len(data.splits), data.whole is not None) == (max(left, 2), left == 1)
