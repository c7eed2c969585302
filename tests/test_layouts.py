"""DATA found by looking at it, and one sentence for each way in which it can be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data, stratified
from conftest import COLOURS, coloured, encoded, rows, write_folders, write_parquet

NAMES = sorted(COLOURS)


def test_class_folders_with_splits(folders):
    data = find_data(folders)
    assert data.classes == NAMES
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 48, "valid": 15}
    train = data.split("train")
    assert all(train.name(i).startswith(data.classes[train.labels[i]]) for i in range(48))
    for name in ("val", "valid", "validation", "dev"):
        assert data.split(name) is data.split("valid")
    with pytest.raises(AlexNetError, match="has no split 'test'; it has train and valid"):
        data.split("test")
    assert "val/" in data.summary()


def test_all_is_every_split_one_after_another(folders):
    data = find_data(folders)
    whole, train, valid = (data.split(name) for name in ("all", "train", "valid"))
    assert len(whole) == 63
    for i, (split, row) in {0: (train, 0), 47: (train, 47), 48: (valid, 0), 62: (valid, 14)}.items():
        assert (whole.read(i), whole.labels[i]) == (split.read(row), split.labels[row])
    assert (whole.name(0), whole.name(48)) == ("train/blue/0.png", "valid/blue/100.png")  # no name stands twice


def test_class_folders_without_splits_hold_out_the_same_tenth_each_time(tmp_path):
    write_folders(tmp_path, 20)
    one, two = find_data(tmp_path), find_data(tmp_path)
    assert (len(one.split("train")), len(one.split("valid"))) == (54, 6)
    names = [{d.split(s).name(i) for i in range(len(d.split(s)))} for d in (one, two) for s in ("train", "valid")]
    assert names[0] == names[2]
    assert names[1] == names[3]
    assert not names[0] & names[1]
    assert np.bincount(one.split("valid").labels).tolist() == [2, 2, 2]
    assert "no validation split" in one.summary()


def test_the_first_of_several_validation_folders_is_taken_and_named(tmp_path):
    for name in ("train", "test", "valid"):
        write_folders(tmp_path / name, 2)
    assert find_data(tmp_path).split("valid").origin == "valid/"


def test_a_class_may_be_called_train(tmp_path):
    for name in ("boat", "train"):
        (tmp_path / name).mkdir()
        for n in range(3):
            coloured("red", n).save(tmp_path / name / f"{n}.png")
    assert find_data(tmp_path).classes == ["boat", "train"]


def test_hidden_files_and_litter_are_not_pictures(tmp_path):
    write_folders(tmp_path, 10)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "red" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "red" / ".hidden.png").write_bytes(b"x")
    assert sum(map(len, find_data(tmp_path).splits.values())) == 30


def test_parquet_gives_bytes_labels_and_names(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows(5), NAMES)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows(4, 5), NAMES)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", rows(2, 50), NAMES)
    data = find_data(tmp_path)
    assert data.classes == NAMES
    train = data.split("train")
    assert (len(train), len(data.split("valid"))) == (27, 6)
    expected = rows(5) + rows(4, 5)
    for i in (0, 6, 7, 14, 15, 26):  # across row groups of 7 and files
        assert (train.read(i), train.labels[i]) == expected[i]
    assert data.split("valid").origin == "test"


def test_parquet_in_a_data_folder_or_as_one_file(tmp_path):
    file = write_parquet(tmp_path / "set" / "data" / "train.parquet", rows(20), NAMES)
    for path in (tmp_path / "set", file):
        data = find_data(path)
        assert (len(data.split("train")), len(data.split("valid"))) == (54, 6)


def test_an_unlabelled_test_split_is_passed_over(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows(20), NAMES)
    write_parquet(tmp_path / "test-0.parquet", [(b, -1) for b, _ in rows(2)], NAMES)
    assert "tenth" in find_data(tmp_path).split("valid").origin
    write_parquet(tmp_path / "validation-0.parquet", rows(2), NAMES)
    assert find_data(tmp_path).split("valid").origin == "validation"


def test_parquet_without_names_has_numbers(tmp_path):
    write_parquet(tmp_path / "train.parquet", rows(10), None)
    assert find_data(tmp_path).classes == ["0", "1", "2"]


def test_digits_are_split_fixed_and_stratified():
    data = find_data("digits")
    train, valid = data.split("train"), data.split("valid")
    assert len(train) + len(valid) == 1797
    assert np.ptp(np.bincount(valid.labels)) <= 2
    assert not {train.name(i) for i in range(len(train))} & {valid.name(i) for i in range(len(valid))}


def test_a_class_of_one_picture_stays_in_training():
    kept, out = stratified(np.array([0] * 10 + [1]), 0.1)
    assert 10 in kept
    assert len(out) == 1


# -- what can be wrong ------------------------------------------------------------------------------------------


def refusal(path) -> str:
    with pytest.raises(AlexNetError) as caught:
        find_data(path)
    return str(caught.value)


def test_data_that_is_missing_empty_or_something_else(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none")
    assert "is an empty folder" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert "none of the known layouts" in refusal(tmp_path)
    assert "none of the known layouts" in refusal(tmp_path / "notes.txt")


def test_one_class_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    coloured("red", 0).save(tmp_path / "cat" / "0.png")
    assert "has one class (cat)" in refusal(tmp_path)


def test_class_folders_without_pictures_are_named(tmp_path):
    write_folders(tmp_path, 3)
    (tmp_path / "white").mkdir()
    (tmp_path / "black").mkdir()
    (tmp_path / "black" / "notes.txt").write_text("hello")
    assert "without a picture (black, white)" in refusal(tmp_path)
    coloured("red", 0).save(tmp_path / "white" / "picture", "PNG")  # a picture, whatever its name
    assert "without a picture (black)" in refusal(tmp_path)


def test_other_classes_in_valid_than_in_train_are_named(tmp_path):
    write_folders(tmp_path / "train", 3)
    write_folders(tmp_path / "val", 3)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "rot")
    assert "other classes in val/ than in train/ (more: rot; missing: red)" in refusal(tmp_path)


def test_parquet_faults_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_parquet(tmp_path / "a" / "train.parquet", [*rows(3), (encoded(coloured("red", 9)), 3)], NAMES)
    assert "label 3 of 9.png (train, row 9) is outside the class list, 0 to 2" in refusal(tmp_path / "a")
    (tmp_path / "b").mkdir()
    pq.write_table(pa.table({"text": ["x"], "score": [0.5]}), tmp_path / "b" / "train.parquet")
    assert "has the columns text, score; it needs a column of pictures" in refusal(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train.parquet").write_bytes(b"PAR1 and no more")
    assert "not a whole parquet file" in refusal(tmp_path / "c")
    write_parquet(tmp_path / "d" / "train.parquet", [r for r in rows(5) if r[1] != 1], NAMES)
    write_parquet(tmp_path / "d" / "valid.parquet", rows(1), NAMES)
    assert "other classes in valid than in train (green only in valid)" in refusal(tmp_path / "d")


def test_a_file_in_the_folder_of_layouts_is_all_that_a_layout_takes(tmp_path, monkeypatch):
    from alexnet.base import entries
    from alexnet.data import layouts as folder
    from alexnet.data.layouts import base

    (tmp_path / "listed.py").write_text(
        "from alexnet.data.dataset import Data\n"
        "from alexnet.data.layouts.base import Layout\n"
        "from alexnet.data.layouts.digits import digits\n"
        'LAYOUT = Layout(5, "a list", lambda root: root.name == "mine.list", lambda root, tell: digits())\n'
    )
    before = base.expected()
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    monkeypatch.setattr(entries, "_FOUND", {})
    (tmp_path / "mine.list").touch()
    assert find_data(tmp_path / "mine.list").layout == "handwritten digits"
    assert base.expected() == before.replace("a pack, or the word digits", "a pack, a list, or the word digits")
