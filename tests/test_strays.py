"""What lies beside the data, or is called like them, is not taken for them, and what is not used is said."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.base import tables
from alexnet.base.errors import AlexNetError
from alexnet.data.faults import Fault, Note
from alexnet.data.layouts.registry import find_data
from alexnet.inference.prediction import COLUMNS
from archives import shard, shards, train_pictures, valid_pictures, write, write_tar
from conftest import COLOURS, coloured, encoded, rows, write_folders, write_parquet

NAMES = sorted(COLOURS)
PICTURE = encoded(coloured("red", 0, (8, 8)))


def answers(path: Path) -> None:
    """As alexnet predict writes it, of classes that the data do not have."""
    files = [one for one in sorted(path.parent.rglob("*")) if one.suffix in (".png", ".JPEG")]
    tables.write(path, COLUMNS, [(str(file), 1, f"answer{n % 5}", n % 5, 0.5, None) for n, file in enumerate(files)])


def index(path: Path) -> None:
    """A list of the pictures below its folder, by paths."""
    files = [one for one in sorted(path.parent.rglob("*")) if one.suffix in (".png", ".JPEG")]
    listed = {"path": [str(one.relative_to(path.parent)) for one in files], "label": [n % 2 for n in range(len(files))]}
    pq.write_table(pa.table(listed), path)


def features(path: Path) -> None:
    pq.write_table(pa.table({"filename": ["0.png"], "fc7": [[0.5]]}), path)


def pictures(path: Path) -> None:
    pq.write_table(pa.table({"image": [PICTURE] * 4, "label": ["x", "y"] * 2}), path)


def broken(path: Path) -> None:
    path.write_bytes(b"PAR1 and no more")


def labels(path: Path) -> None:
    path.write_text("filename,label\nred/0.png,x\nblue/0.png,y\n")


def classes(root: Path) -> None:
    write_folders(root, 4)


def splits(root: Path) -> None:
    write_folders(root / "train", 4)
    write_folders(root / "val", 2, first=100)


def wrapped(root: Path) -> None:
    splits(root / "set")


def flat(root: Path) -> None:
    write(root / "train", train_pictures())
    write(root / "val", valid_pictures())


STRAYS = {
    "answers": ("answers.parquet", answers), "answers as text": ("answers.csv", answers),
    "a list of paths": ("index.parquet", index), "features": ("features.parquet", features),
    "a broken file": ("train.parquet", broken), "labels": ("labels.csv", labels),
}  # fmt: skip


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("make", [classes, splits, wrapped, flat])
def test_a_stray_table_changes_no_data_of_folders_and_is_said(tmp_path, make, stray):
    make(tmp_path)
    before = find_data(tmp_path)
    name, put = STRAYS[stray]
    put(tmp_path / name)
    after = find_data(tmp_path)
    assert (after.layout, after.classes) == (before.layout, before.classes)
    for split, found in before.splits.items():
        assert after.splits[split].labels.tolist() == found.labels.tolist()
        assert [after.splits[split].read(i) for i in range(len(found))] == [found.read(i) for i in range(len(found))]
    assert f"has 1 file beside its folders of pictures ({name}); they are not used" in after.summary()


@pytest.mark.parametrize("put", [pictures, answers, index])
def test_a_parquet_file_in_a_class_folder_is_no_set(tmp_path, put):
    classes(tmp_path)
    put(tmp_path / "red" / "red.parquet")
    data = find_data(tmp_path)
    assert data.classes == NAMES
    assert "has 1 file other than pictures (red/red.parquet)" in data.summary()


def test_parquet_files_with_pictures_of_their_own_are_the_data_and_folders_beside_them_are_said(tmp_path):
    for folder in (".", "data"):
        root = tmp_path / f"in {folder}"
        classes(root)
        write_parquet(root / folder / "train.parquet", rows(10), ["a", "b", "c"])
        data = find_data(root)
        assert (data.layout, data.classes) == ("parquet", ["a", "b", "c"])
        assert "has class folders beside its parquet files; they are not used" in data.summary()


def test_a_list_of_paths_beside_flat_pictures_is_the_data(tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(4):
        coloured("red", n).save(tmp_path / "images" / f"{n}.png")
    index(tmp_path / "index.parquet")
    data = find_data(tmp_path)
    assert (data.layout, data.classes, len(data.whole)) == ("parquet", ["0", "1"], 4)


def test_a_networks_answers_are_never_labels(tmp_path):
    write_parquet(tmp_path / "a" / "train.parquet", rows(10), NAMES)
    answers(tmp_path / "a" / "answers.parquet")
    data = find_data(tmp_path / "a")
    assert (data.classes, len(data.whole)) == (NAMES, 30)
    assert "answers.parquet holds a network's answers; it is not used" in data.summary()
    (tmp_path / "b").mkdir()
    for n in range(4):
        coloured("red", n).save(tmp_path / "b" / f"{n}.png")
    for name in ("answers.parquet", "answers.csv"):
        answers(tmp_path / "b" / name)
        for given in (tmp_path / "b", tmp_path / "b" / name):
            with pytest.raises(
                AlexNetError, match=rf"{name}.* holds a network's answers \(rank, probability\) and no l"
            ):
                find_data(given)
        (tmp_path / "b" / name).unlink()
    labelled = "filename,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(4))
    (tmp_path / "b" / "labels.csv").write_text(labelled)
    for name in ("answers.parquet", "answers.csv"):
        answers(tmp_path / "b" / name)
    assert find_data(tmp_path / "b").classes == ["0", "1"]


def test_a_folder_beside_shards_that_holds_no_pictures_is_no_class(tmp_path):
    write(tmp_path, shards())
    (tmp_path / "logs").mkdir()
    write(tmp_path, {"notes/about.txt": b"x"})
    assert find_data(tmp_path).layout == "WebDataset of 3 shards"


MISSING = {
    "of training": {"train-00001-of-00003": 1, "test-00000-of-00001": 1},
    "in a folder": {"data/train-00000-of-00002": 1},
    "counted from 1": {"train-2-of-2": 1, "train-3-of-3": 1},
    "with a checksum": {"train-00001-of-00003-0123456789abcdef": 1},
    "none": {"train-00000-of-00002": 0, "train-00001-of-00002": 0, "test-00000-of-00001": 0},
    "none, with checksums": {"train-00000-of-00002-0123456789abcdef": 0, "train-00001-of-00002-fedcba9876543210": 0},
    "none, counted from 1": {"train-1-of-2": 0, "train-2-of-2": 0, "1-of-2000-flowers": 0},
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("ending", [".parquet", ".tar"])
def test_files_that_are_missing_of_a_numbered_set_are_told(tmp_path, name, ending):
    files = MISSING[name]
    if ending == ".tar":
        files = {file.removeprefix("data/"): bad for file, bad in files.items()}
    for file in files:
        path = tmp_path / f"{file}{ending}"
        write_parquet(path, rows(3), NAMES) if ending == ".parquet" else write_tar(path, shard(range(6)))
    faults: list[Fault] = []
    find_data(tmp_path, tell=faults.append)
    told = [str(one) for one in faults if not isinstance(one, Note)]
    assert len(told) == sum(files.values()) - (name == "of training")
    assert all("has 1 of the " in one and "fetch the others" in one for one in told)
    assert len(find_data(f"{tmp_path}/{next(iter(files))}{ending}", whole=True).split("all")) > 5  # one that is named
