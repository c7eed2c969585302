"""Flat pictures with a table of labels, as competitions and Hugging Face's folders have them."""

import re

import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data
from conftest import coloured


def write(root, tables, pictures):
    for file, text in tables.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    for number, file in enumerate(pictures):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        coloured("red", number).save(root / file)


def listed(data):
    """By split: the file that each picture is read from, below DATA's folder, and its class."""
    return {
        name: {
            str(split.read(i).relative_to(data.path)): data.classes[label]
            for i, label in enumerate(split.labels.tolist())
        }
        for name, split in data.splits.items()
    }  # fmt: skip


IDS = [f"{letter}.png" for letter in "abcd"]
LABELS = ["cat", "dog", "cat", "dog"]


def rows(names, head, by=","):
    return head + "\n" + "".join(f"{name}{by}{label}\n" for name, label in zip(names, LABELS, strict=True))


SHAPES = {
    "beside the pictures": ({"labels.csv": rows(IDS, "filename,label")}, IDS, ""),
    "of Excel, with a mark and semicolons": ({"labels.csv": "\ufeff" + rows(IDS, "image;kind", ";")}, IDS, ""),
    "by tabs": ({"labels.tsv": rows(IDS, "file\tclass", "\t")}, IDS, ""),
    "pictures in a folder": ({"labels.csv": rows(IDS, "image,label")}, [f"images/{x}" for x in IDS], "images/"),
    "names without endings": ({"a.csv": rows("abcd", "id,breed")}, [f"img/{x}" for x in IDS], "img/"),
    "names without endings, which are capital": ({"a.csv": rows("abcd", "id,label")}, [f"{x}.PNG" for x in "abcd"], ""),
    "of Windows": ({"a.csv": rows([f"img\\{x}" for x in IDS], "path,label")}, [f"img/{x}" for x in IDS], "img/"),
    "alone below": ({"set/labels.csv": rows(IDS, "filename,label")}, [f"set/{x}" for x in IDS], "set/"),
    "metadata.csv in train": (
        {"train/metadata.csv": rows(IDS, "file_name,label")}, [f"train/{x}" for x in IDS], "train/",
    ),
    "a competition's, whose test pictures are called like those to train on": (
        {"train.csv": rows("abcd", "id,label"), "sample_submission.csv": rows("abcd", "id,label")},
        [f"{folder}/{x}" for folder in ("test", "train") for x in IDS], "train/",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_table_gives_its_pictures_their_classes(tmp_path, shape):
    tables, pictures, below = SHAPES[shape]
    write(tmp_path, tables, pictures)
    data = find_data(tmp_path)
    both = {name.replace("PNG", "png"): label for part in listed(data).values() for name, label in part.items()}
    assert both == {below + name: label for name, label in zip(IDS, LABELS, strict=True)}
    assert data.classes == ["cat", "dog"]


def test_a_tables_name_its_folder_or_the_paths_in_it_say_the_split(tmp_path):
    paths = ["train/a.png", "train/b.png", "test/c.png", "test/d.png"]
    for name, tables in {
        "names": {"train.csv": "file,label\na.png,9\nb.png,10\n", "test.csv": "file,label\nc.png,9\nd.png,10\n"},
        "folders": {f"{x}/metadata.csv": f"file,label\n{y}.png,9\n{z}.png,10\n" for x, y, z in (
            ("train", "a", "b"), ("test", "c", "d"))},
        "paths": {"all.csv": "path,label\n" + "".join(f"{p},{9 + n % 2}\n" for n, p in enumerate(paths))},
    }.items():  # fmt: skip
        write(tmp_path / name, tables, paths)
        data = find_data(tmp_path / name)
        assert listed(data) == {
            "train": {paths[0]: "9", paths[1]: "10"}, "valid": {paths[2]: "9", paths[3]: "10"},
        }, name  # fmt: skip
        assert data.classes == ["9", "10"]  # in the order of numbers
    write(tmp_path / "several", {"x.csv": rows(IDS, "file,label")}, [*IDS, "other.png"])
    data = find_data(tmp_path / "several" / "x.csv")  # the table itself
    assert len(data.whole) == 4
    assert any("does not name 1 picture" in note and "other.png" in note for note in data.notes)


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ({"boxes.csv": "filename,class\na.png,cat\na.png,dog\n"}, "a.png in several rows, as cat and as dog"),
        (
            {"a.csv": "filename,class\na.png,cat\nb.png,\n"},
            "has 1 row without a picture or without a class (the first is line 3)",
        ),
        ({x: "filename,class\na.png,cat\nb.png,dog\n" for x in ("a.csv", "b.csv")}, "several tables for train"),
        ({"fold1.csv": "filename,class\na.png,cat\nb.png,dog\n"}, "does not say whether to train"),
        ({"a.csv": "filename,age,weight\na.png,1,2\nb.png,3,4\n"}, "call its columns filename and label"),
        ({"a.csv": "a.png,cat\nb.png,dog\n"}, "call its columns filename and label"),
        ({"a.csv": "filename,class\nnowhere.png,cat\n"}, "call its columns filename and label"),
    ],
)
def test_a_table_that_says_no_class_for_certain_is_refused(tmp_path, tables, fault):
    write(tmp_path, tables, IDS)
    with pytest.raises(AlexNetError, match=re.escape(fault)):
        find_data(tmp_path)


def test_class_folders_are_taken_before_a_table_beside_them(tmp_path):
    write(
        tmp_path, {"labels.csv": "filename,label\ncat/a.png,x\ndog/a.png,y\n"}, ["cat/a.png", "dog/a.png", "dog/b.png"]
    )
    assert find_data(tmp_path).classes == ["cat", "dog"]
