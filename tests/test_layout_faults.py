"""`alexnet check` lists the faults of a layout that can be told, with file and remedy; what cannot has status 2.

Each fault is made here in good data, and everything else refuses the same data with the same sentence.
"""

from __future__ import annotations

import json
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.checking import check
from alexnet.data.layouts import remote
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import pack
from archives import (
    IDS,
    KNOWN,
    cifar10,
    jpeg,
    shard,
    special,
    tar,
    train_pictures,
    valid_pictures,
    write,
    write_kaggle,
    write_official,
)
from conftest import COLOURS, coloured, encoded, rows, write_folders, write_parquet

NAMES = sorted(COLOURS)
CLASSES = {f"{KNOWN[0]}.tar": tar({"a.JPEG": jpeg(0, 0)}), f"{KNOWN[1]}.tar": tar(valid_pictures())[:4000]}


def splits(root: Path) -> None:
    write_folders(root / "train", 3)
    write_folders(root / "val", 2, first=100)


def flat(root: Path) -> None:
    write(root / "train", train_pictures())
    write(root / "val", valid_pictures())


def tiny(root: Path) -> None:
    for label, one in enumerate(IDS):
        write(root / "train" / one / "images", {f"{one}_{n}.JPEG": jpeg(label, n) for n in range(4)})
    write(root / "val" / "images", {f"val_{n}.JPEG": jpeg(n % 3, n) for n in range(6)})
    lines = [f"val_{n}.JPEG\t{IDS[n % 3]}\t0\t0\t9\t9" for n in range(6)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))


def cifar(root: Path) -> None:
    write(root, {name: pickle.dumps(batch, 2) for name, batch in cifar10()[0].items()})


def parquet(root: Path) -> None:
    write_parquet(root / "train-0.parquet", rows(3), NAMES)
    write_parquet(root / "train-1.parquet", rows(3, 10), NAMES)
    write_parquet(root / "valid-0.parquet", rows(1, 20), NAMES)


def shards(root: Path) -> None:
    write(root, {"train-0.tar": tar(shard(range(6))), "train-1.tar": tar(shard(range(6, 12)))})
    write(root, {"val-0.tar": tar(shard(range(20, 23)))})


def cut(file: str, kept: float = 0.8) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        whole = (root / file).read_bytes()
        (root / file).write_bytes(whole[: int(kept * len(whole))])

    return change


def lost(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink()


def text(file: str, contents: str) -> Callable[[Path], None]:
    return lambda root: (root / file).write_text(contents) and None


def renamed(one: str, other: str) -> Callable[[Path], None]:
    return lambda root: (root / one).rename(root / other) and None


def empty_class(root: Path) -> None:
    (root / "train" / "red" / "note.txt").write_text("no picture")
    for path in (root / "train" / "red").glob("*.png"):
        path.unlink()


def train_without_classes(root: Path) -> None:
    for path in sorted((root / "train").rglob("*.png")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for folder in (root / "train").iterdir():
        if folder.is_dir():
            folder.rmdir()


def unsorted(root: Path) -> None:
    for path in sorted((root / "val").rglob("*.png")):
        path.rename(root / "val" / f"{path.parent.name}{path.name}")
    for folder in (root / "val").iterdir():
        if folder.is_dir():
            folder.rmdir()


def relabelled(root: Path) -> None:
    write_parquet(root / "train-1.parquet", [(encoded(coloured("red", 60)), 3), *rows(3, 10), (b"", -4)], NAMES)


def wrong_batch(root: Path) -> None:
    batch = cifar10()[0]["data_batch_3"]
    (root / "data_batch_3").write_bytes(pickle.dumps(batch | {"labels": [0, 1, 2, 0]}, 2))


FAULTS = {
    # what it is: good data, what is done to it, file, fault, pictures of train and valid that are still looked at
    "a class folder with another name": (
        splits, renamed("val/red", "val/rot"), "", "other classes in val/ than in train/ (more: rot; missing: red)",
        9, 6,
    ),
    "a class folder that is empty": (splits, empty_class, "train", "class folders without a picture (red)", 6, 6),
    "a validation folder without class folders": (splits, unsorted, "val", "has pictures but no class folders", 9, 0),
    "a training folder without class folders": (splits, train_without_classes, "train", "has no class folders", 0, 6),
    "a file among the flat pictures": (flat, text("val/cat.JPEG", ""), "val", "file cat.JPEG that is none", 12, 6),
    "a table that is another": (
        lambda root: write_kaggle(root, True), text("LOC_val_solution.csv", "a,b\n"), "LOC_val_solution.csv",
        "is not Kaggle's table", 12, 0,
    ),
    "a picture that the table lacks": (
        lambda root: write_kaggle(root, True), text("ILSVRC/Data/CLS-LOC/val/more.JPEG", ""), "LOC_val_solution.csv",
        "has no line for more.JPEG", 12, 6,
    ),
    "annotations lost": (tiny, lost("val/val_annotations.txt"), "val/val_annotations.txt", "is missing", 12, 0),
    "annotations of an unknown class": (
        tiny, text("val/val_annotations.txt", f"val_0.JPEG\tn99999999\nval_1.JPEG\t{IDS[1]}\n"), "val",
        "classes that are not trained on (n99999999)", 12, 1,
    ),
    "annotations without a class": (
        tiny, text("val/val_annotations.txt", f"val_0.JPEG\nval_1.JPEG\t{IDS[1]}\n"), "val/val_annotations.txt",
        "lines without a file and a class", 12, 1,
    ),
    "an archive cut short": (
        lambda root: write_official(root, train_pictures(), valid_pictures()), cut("ILSVRC2012_img_val.tar", 0.6),
        "ILSVRC2012_img_val.tar", "is cut short or damaged", 12, 4,
    ),
    "an archive cut in a picture": (
        lambda root: write(root, {"ILSVRC2012_img_val.tar": tar(valid_pictures())[:4000]}), lambda root: None,
        "ILSVRC2012_img_val.tar", "is cut short or damaged", None, 1,
    ),
    "an archive with a link": (
        lambda root: write(root, {"ILSVRC2012_img_val.tar": special("a.JPEG", tarfile.SYMTYPE, "/etc/passwd")}),
        lambda root: None, "ILSVRC2012_img_val.tar", "no plain file (a.JPEG)", None, 0,
    ),
    "a class archive cut short": (
        lambda root: write(root, {"ILSVRC2012_img_train.tar": tar(CLASSES)}), lambda root: None,
        rf"ILSVRC2012_img_train.tar ({KNOWN[1]}.tar)", "is cut short", 2, None,
    ),
    "CIFAR without a file": (cifar, lost("data_batch_2"), "data_batch_2", "is missing", 16, 4),
    "CIFAR without its names": (cifar, lost("batches.meta"), "batches.meta", "is missing", 20, 4),
    "CIFAR with labels out of range": (cifar, wrong_batch, " (data_batch_3)", "labels that are not 0 to 1", 16, 4),
    "CIFAR cut short": (cifar, cut("data_batch_1"), " (data_batch_1)", "is not a whole pickle", 16, 4),
    "a parquet file cut short": (parquet, cut("train-1.parquet"), "train-1.parquet", "not a whole parquet file", 9, 3),
    "a shard cut short": (shards, cut("train-1.tar", 0.5), "train-1.tar", "cut short", 9, 3),
}  # fmt: skip


def listed(alexnet, root: Path) -> tuple[list[dict], dict]:
    status, out, err = alexnet("check", root, "--full", "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 1, err
    assert facts["layout"]
    return [one for one in facts["problems"] if one["kind"] == "structure"], facts


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_layout_is_listed_with_file_and_remedy_and_the_rest_is_looked_at(alexnet, tmp_path, name):
    make, change, file, fault, train, valid = FAULTS[name]
    make(tmp_path)
    change(tmp_path)
    (one,), facts = listed(alexnet, tmp_path)
    assert one["file"].startswith(str(tmp_path))
    assert one["file"].removeprefix(str(tmp_path)).removeprefix("/") == file
    assert fault in one["fault"]
    assert one["remedy"]
    there = {split: found["pictures"] for split, found in facts["splits"].items() if found["pictures"]}
    assert there == {split: count for split, count in (("train", train), ("valid", valid)) if count}
    with pytest.raises(AlexNetError, match=re.escape(fault)):
        find_data(tmp_path)


def test_every_fault_of_a_layout_is_listed_and_pictures_are_looked_at_beside_it(alexnet, tmp_path):
    shards(tmp_path)
    broken = shard(range(6)) | {"a.jpg": jpeg(0, 90), "b.cls": b"0", "c.jpg": jpeg(0, 91), "c.cls": b"cat"}
    broken |= {"d.jpg": b"", "d.cls": b"1"}
    write(tmp_path, {"train-0.tar": tar(broken), "train-1.tar": b"no tar"})
    found, facts = listed(alexnet, tmp_path)
    assert {(Path(one["file"].split(": ")[0]).name, one["fault"].split(" (")[0]) for one in found} == {
        ("train-0.tar", "has a without its .cls"),
        ("train-0.tar", "has b without its .jpg"),
        ("train-0.tar", "holds 'cat'"),
        ("train-1.tar", "is not a whole tar archive"),
    }
    assert ("unreadable", "d.jpg") in {(one["kind"], one["file"]) for one in facts["problems"]}
    _, out, _ = alexnet("check", tmp_path)
    assert "broken: 4 × structure; what it touches is not looked at" in out
    assert re.search(r"train-1\.tar: is not a whole tar archive .*; copy it again", out)


def test_each_label_out_of_range_is_listed(alexnet, tmp_path):
    parquet(tmp_path)
    relabelled(tmp_path)
    found, facts = listed(alexnet, tmp_path)
    wanted = [("label 3 of 0.png", 9), ("label -4 of 10.png", 19)]
    assert [one["fault"] for one in found] == [
        f"{what} (train, row {row}) is outside the class list, 0 to 2" for what, row in wanted
    ]
    assert facts["splits"]["train"]["pictures"] == 18
    assert "unreadable" not in {one["kind"] for one in facts["problems"]}


def test_a_class_that_is_in_valid_only_is_broken_and_one_that_is_in_train_only_is_odd(alexnet, tmp_path):
    write_parquet(tmp_path / "train.parquet", [r for r in rows(5) if r[1] != 1], NAMES)
    write_parquet(tmp_path / "valid.parquet", [r for r in rows(1, 9) if r[1] != 0], NAMES)
    (one,), facts = listed(alexnet, tmp_path)
    assert "other classes in valid than in train (green only in valid)" in one["fault"]
    odd = [(one["split"], one["file"]) for one in facts["problems"] if one["kind"] == "one split only"]
    assert odd == [("train", "green"), ("valid", "blue")]
    assert facts["looked_at"] == 12


def test_one_class_alone_is_listed(alexnet, tmp_path):
    write(tmp_path, {f"cat/{n}.jpg": jpeg(0, n) for n in range(20)})
    (one,), facts = listed(alexnet, tmp_path)
    assert one["fault"] == "has one class (cat)"
    assert facts["looked_at"] == 20


def test_rows_of_a_parquet_file_that_cannot_be_read_are_listed_by_number(alexnet, tmp_path):
    parquet(tmp_path)
    whole = bytearray((tmp_path / "train-0.parquet").read_bytes())
    whole[4:2000] = b"\xff" * 1996  # pictures of the first of two groups of rows
    (tmp_path / "train-0.parquet").write_bytes(whole)
    found, facts = listed(alexnet, tmp_path)
    assert [(one["split"], one["file"]) for one in found] == [("train", f"row {row}") for row in range(7)]
    assert all("train-0.parquet has rows that cannot be read" in one["fault"] for one in found)
    assert facts["looked_at"] == 2 + 9 + 3


def test_a_shard_from_afar_that_cannot_be_read_is_listed(alexnet, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    system = fsspec.filesystem("memory")
    for name, numbers in {"train-0": range(5), "train-1": range(5, 12), "val-0": range(20, 26)}.items():
        system.pipe_file(f"/structure/{name}.tar", tar(shard(numbers)))
    real = type(system).cat_file

    def cat_file(self, path, start, end):
        if path.endswith("train-1.tar"):
            raise TimeoutError("the line is down")
        return real(self, path, start, end)

    monkeypatch.setattr(type(system), "cat_file", cat_file)
    (one,), facts = listed(alexnet, "memory://structure")
    assert one["file"] == "/structure/train-1.tar"
    assert one["fault"] == "cannot be read (the line is down), tried 3 times"
    assert facts["splits"]["train"]["pictures"] == 5


@pytest.mark.parametrize("quick", [False, True])
def test_a_pack_without_one_of_its_files_is_listed(alexnet, folders, tmp_path, quick):
    pack(folders, tmp_path, 16)
    (tmp_path / "train-00000.npy").unlink()
    status, out, _ = alexnet("check", tmp_path, "--json", *["--quick"] * quick)
    assert status == 1
    (one,) = json.loads(out.splitlines()[-1])["problems"]
    assert one["kind"] == "damaged"
    assert "train-00000.npy is missing from the pack" in one["fault"]


def test_what_cannot_be_told_has_status_2(refused, tmp_path):
    assert "does not exist" in refused("check", tmp_path / "none")
    (tmp_path / "notes.txt").write_text("hello")
    assert "none of the known layouts" in refused("check", tmp_path)
    assert "has no tar shards" in refused("check", f"{tmp_path}/*.tar")


def test_good_data_of_every_layout_has_no_fault(tmp_path):
    made = {
        "splits": splits, "flat": flat, "tiny": tiny, "cifar": cifar, "parquet": parquet, "shards": shards,
        "kaggle": lambda root: write_kaggle(root, True),
        "official": lambda root: write_official(root, train_pictures(), valid_pictures()),
    }  # fmt: skip
    for name, make in made.items():
        make(tmp_path / name)
        assert not [one for one in check(tmp_path / name).problems if one.kind == "structure"], name
