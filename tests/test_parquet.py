"""Which columns of a parquet file are the pictures, the labels and the splits, whatever stands beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.checking import check
from alexnet.data.layouts.registry import find_data
from alexnet.data.sources import Sources
from conftest import coloured, encoded

PICTURES = [encoded(coloured("red", n, (8, 8))) for n in range(6)]
OTHERS = [encoded(coloured("blue", n, (8, 8))) for n in range(6)]
LABELS = [0, 1, 2, 2, 1, 0]
WORDS = ["cat", "dog", "owl", "owl", "dog", "cat"]


def write(path: Path, columns: dict, names: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    described = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(described)} if names else None)
    pq.write_table(table, path, row_group_size=4)
    return path


def contents(split) -> list[bytes]:
    return [split.read(i) for i in range(len(split))]


BYTES = ["image_bytes", "content", "image", "data"]
PATHS = ["path", "image_path", "filename", "file_name"]


@pytest.mark.parametrize("own", BYTES)
@pytest.mark.parametrize("path", PATHS)
def test_a_column_of_bytes_is_the_pictures_wherever_a_path_stands_beside_it(tmp_path, own, path):
    for n, other in enumerate(OTHERS):  # whether or not there are such files
        (tmp_path / f"{n}.png").write_bytes(other)
    names = [f"{n}.png" for n in range(6)]
    for number, columns in enumerate(({own: PICTURES, path: names}, {path: names, own: PICTURES})):
        file = write(tmp_path / f"{number}.parquet", columns | {"label": LABELS})
        assert contents(find_data(file, whole=True).split("all")) == PICTURES
        assert [source for _, source in Sources(str(file))] == PICTURES


def test_further_columns_of_pictures_are_said(tmp_path):
    write(tmp_path / "a.parquet", {"thumbnail": OTHERS, "image": PICTURES, "label": LABELS})
    data = find_data(tmp_path, whole=True)
    assert contents(data.split("all")) == PICTURES
    assert "has other columns of pictures beside image (thumbnail); they are not used" in data.summary()


@pytest.mark.parametrize("bare", ["train", "test"])
def test_numbers_in_one_file_and_names_in_another_are_refused(tmp_path, bare):
    """Whoever wrote dog, cat and 0, 1 meant 0 for dog; in the order of sorted names it is cat."""
    other = {"train": "test", "test": "train"}[bare]
    write(tmp_path / f"{bare}.parquet", {"image": PICTURES[:2], "label": [0, 1]})
    write(tmp_path / f"{other}.parquet", {"image": PICTURES[2:4], "label": ["dog", "cat"]})
    said = f"{bare}.parquet has numbers where {other}.parquet has names of classes; give names in both"
    with pytest.raises(AlexNetError, match=said):
        find_data(tmp_path)
    report = check(tmp_path)
    assert next(one.fault for one in report.problems if one.kind == "structure") in said
    write(tmp_path / f"{bare}.parquet", {"image": PICTURES[:2], "label": [0, 1]}, ["dog", "cat"])
    data = find_data(tmp_path)  # names that the file states say which is which
    assert [[data.classes[n] for n in data.split(name).labels] for name in ("train", "valid")] == [["dog", "cat"]] * 2


FORMS = {
    "strings": lambda values: pa.array(values),
    "large strings": lambda values: pa.array(values, pa.large_string()),
    "views": lambda values: pa.array(values, pa.string_view()),
    "a dictionary": lambda values: pa.array(values).dictionary_encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("column", ["split", "Set", "subset", "partition", "fold"])
def test_a_column_of_splits_decides_before_the_names_of_files(tmp_path, form, column):
    said = ["train", "test", "train", "validation", "train", "test"]
    write(tmp_path / "train.parquet", {"image": PICTURES, "label": WORDS, column: FORMS[form](said)})
    write(tmp_path / "test-more.parquet", {"image": OTHERS, "label": WORDS})
    data = find_data(tmp_path, tell=lambda fault: None)
    assert {name: contents(split) for name, split in data.splits.items()} == {
        "train": [PICTURES[0], PICTURES[2], PICTURES[4]], "valid": [PICTURES[3]],
        "test": [PICTURES[1], PICTURES[5], *OTHERS],
    }  # fmt: skip
    assert [data.classes[n] for n in data.split("test").labels] == ["dog", "cat", *WORDS]


def test_a_column_of_splits_that_says_none_or_some_is_said_or_refused(tmp_path):
    write(tmp_path / "a.parquet", {"image": PICTURES, "label": WORDS, "set": ["blue", "red"] * 3})
    data = find_data(tmp_path, whole=True)
    assert len(data.split("all")) == 6
    assert "has a column set that says no split (blue, red); it is not used" in data.summary()
    said = ["train", "train", None, "test", "test", "test"]
    write(tmp_path / "a.parquet", {"image": PICTURES, "label": WORDS, "split": said})
    with pytest.raises(AlexNetError, match=r"says the split of some rows and '' of others \(the first is row 3\)"):
        find_data(tmp_path)


def test_rows_to_guess_have_no_labels_and_are_passed_over(tmp_path):
    said = ["train"] * 4 + ["test"] * 2
    write(tmp_path / "a.parquet", {"image": PICTURES, "label": [0, 1, 0, 1, -1, None], "split": said})
    data = find_data(tmp_path, whole=True)
    assert {name: contents(split) for name, split in data.splits.items()} == {"train": PICTURES[:4]}
    assert "has no labels in its split test" in data.summary()


def test_arrows_views_are_read_as_what_they_are_of(tmp_path):
    columns = {"image": pa.array(PICTURES, pa.binary_view()), "label": pa.array(WORDS, pa.string_view())}
    write(tmp_path / "own" / "a.parquet", columns)
    for n, picture in enumerate(PICTURES):
        (tmp_path / f"{n}.png").write_bytes(picture)
    names = pa.array([f"{n}.png" for n in range(6)], pa.string_view())
    write(tmp_path / "paths.parquet", {"path": names, "label": columns["label"]})
    for file in (tmp_path / "own", tmp_path / "paths.parquet"):
        data = find_data(file, whole=True)
        split = data.split("all")
        read = [one if isinstance(one, bytes) else one.read_bytes() for one in contents(split)]
        assert (read, [data.classes[n] for n in split.labels]) == (PICTURES, WORDS)


@pytest.mark.parametrize("names", [None, [f"class {n}" for n in range(1000)]])
def test_a_thousand_labels_without_names_are_said_to_be_taken_for_imagenets(tmp_path, names):
    write(tmp_path / "a.parquet", {"image": PICTURES[:2], "label": [0, 999]}, names)
    said = "has labels without names; they are taken for ImageNet's 1,000 classes, in the order of their sorted WordNet"
    assert (said in find_data(tmp_path, whole=True).summary()) == (names is None)
    write(tmp_path / "a.parquet", {"image": PICTURES[:2], "label": [0, 998]}, names)
    assert said not in find_data(tmp_path, whole=True).summary()


NUMBERS = [0, 0, 0, 1, 1, 2]
NUMBERED = {
    "numbers": (pa.array(NUMBERS), None, None),
    "small numbers": (pa.array(NUMBERS, pa.uint8()), None, None),
    "truth values": (pa.array([False] * 4 + [True] * 2), None, None),
    "fractions": (pa.array([0.0] * 5 + [1.5]), None, None),
    "of names": (pa.array(NUMBERS), ["train", "validation", "test"], [3, 2, 1]),
    "of names that say none": (pa.array(NUMBERS), ["north", "south", "west"], None),
}


@pytest.mark.parametrize("column", ["split", "fold"])
@pytest.mark.parametrize("form", NUMBERED)
def test_a_column_of_splits_in_numbers_says_them_by_their_names_or_is_said(tmp_path, form, column):
    values, names, counts = NUMBERED[form]
    table = pa.table({"image": PICTURES, "label": WORDS, column: values})
    described = {"info": {"features": {column: {"names": names, "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), tmp_path / "a.parquet")
    data = find_data(tmp_path, tell=lambda fault: None, whole=True)
    assert [len(split) for split in data.splits.values()] == (counts or [6])
    assert (f"has a column {column} that says no split" in data.summary()) == (counts is None)


@pytest.mark.parametrize("column", [{}, {"label": pa.nulls(2, pa.int64())}, {"id": [1, 2]}])
def test_pictures_to_guess_beside_labelled_ones_are_said_and_passed_over(tmp_path, column):
    write(tmp_path / "train.parquet", {"image": PICTURES, "label": LABELS})
    write(tmp_path / "test.parquet", {"image": OTHERS[:2], **column})
    data = find_data(tmp_path)
    assert contents(data.whole) == PICTURES
    assert "has no labels in its split test; it is not used" in data.summary()
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(AlexNetError, match="label"):
        find_data(tmp_path)
