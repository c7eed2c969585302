"""Flat pictures with a table of labels, as competitions and Hugging Face's folders have them."""

import re

import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.layouts import table
from alexnet.data.layouts.registry import find_data
from conftest import coloured


def write(root, tables, pictures):
    for file, text in tables.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
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
    "with spaces": ({"labels.csv": rows(IDS, "filename , label", ", ")}, IDS, ""),
    "with spaces in quotes": (
        {"labels.csv": rows(IDS, '"filename", "of, whom", "label"', ', "me, too", ')}, IDS, "",
    ),
    "in UTF-16": ({"labels.csv": rows(IDS, "filename,label").encode("utf-16")}, IDS, ""),
    "in UTF-16 without a mark": ({"labels.csv": rows(IDS, "filename,label").encode("utf-16-le")}, IDS, ""),
    "of an old Mac": ({"labels.csv": rows(IDS, "filename,label").replace("\n", "\r")}, IDS, ""),
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


@pytest.mark.parametrize("column", ["split", "Set", "subset", "partition", "fold"])
@pytest.mark.parametrize("words", [("train", "test"), ("training", "Validation"), ("TRAIN", "dev")])
def test_a_column_of_splits_decides_before_names(tmp_path, column, words):
    said = dict(zip(IDS, [words[0], words[0], words[1], words[1]], strict=True))
    lines = [f"{name},{label},{said[name]}" for name, label in zip(IDS, LABELS, strict=True)]
    write(tmp_path, {"train.csv": "\n".join([f"file,label,{column}", *lines])}, IDS)
    data = find_data(tmp_path)
    assert listed(data) == {"train": {"a.png": "cat", "b.png": "dog"}, "valid": {"c.png": "cat", "d.png": "dog"}}
    assert len(data.split(words[1])) == 2


def test_a_column_that_says_no_split_is_said_and_not_used(tmp_path):
    lines = [f"{name},{label},{n}" for n, (name, label) in enumerate(zip(IDS, LABELS, strict=True))]
    write(tmp_path, {"labels.csv": "\n".join(["file,label,fold", *lines])}, IDS)
    data = find_data(tmp_path)
    assert len(data.whole) == 4
    assert "has a column fold that says no split (0, 1, 2, 3); it is not used" in data.summary()


def test_classes_that_are_one_number_keep_one_order(tmp_path):
    names = ["1", "00001", "2", "001", "x", "01", "0001"]  # a set of words has another order in each process
    lines = "".join(f"{n}.png,{name}\n" for n, name in enumerate(names))
    write(tmp_path, {"a.csv": f"file,label\n{lines}"}, ["0.png"])
    assert find_data(tmp_path, whole=True).classes == ["x", "00001", "0001", "001", "01", "1", "2"]


def test_a_table_of_no_use_beside_one_of_labels_is_said(tmp_path):
    write(tmp_path, {"labels.csv": rows(IDS, "file,label"), "old.csv": "file,label\nnone.png,cat\n"}, IDS)
    data = find_data(tmp_path)
    assert len(data.whole) == 4
    assert "old.csv has the columns file and label, and its first picture (none.png) is not there; it" in data.summary()


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
        (
            {"a.csv": "filename,class\nnowhere.png,cat\n"},
            "a.csv has the columns filename and class, and its first picture (nowhere.png) is not there; put",
        ),
        ({"a.csv": "filename,class\n"}, "and its first pictures are not there"),
        (
            {"a.csv": "filename,class\na.png,café\n".encode("latin-1")},
            "is no text in UTF-8 ('utf-8' codec can't",
        ),
        ({"a.csv": "filename,class,split\na.png,cat,train\na.png,cat,test\n"}, "several rows, as train and as test"),
        (
            {"a.csv": "filename,class,split\na.png,cat,train\nb.png,dog,other\n"},
            "says the split of some rows and 'other' of others (the first is row 2); write train, val or test",
        ),
        ({"a.csv": rows(IDS, "filename,path")}, "call its columns filename and label"),
        ({"test.csv": rows(IDS, "filename,kind")}, "call its columns filename and label"),
        ({"a.csv": "filename,width\na.png,100\nb.png,101\nc.png,101\nd.png,102\n"}, "call its columns filename and"),
        ({"a.csv": "filename,ratio\na.png,0.5\nb.png,1\nc.png,0.5\nd.png,1\n"}, "call its columns filename and"),
        ({"a.csv": "filename,caption\na.png,a cat\nb.png,a dog\n"}, "call its columns filename and label"),
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


HAM = [f"part_{1 + n // 2}/{x}" for n, x in enumerate(IDS)]
SPREAD = {
    "by their names": ({"labels.csv": rows(IDS, "filename,label")}, HAM),
    "without endings": ({"HAM.csv": rows([x[0] for x in IDS], "image_id,label")}, HAM),
    "by paths": ({"labels.csv": rows(HAM, "path,label")}, HAM),
    "beside masks": (
        {"labels.csv": rows([f"images/{x}" for x in IDS], "filename,label").replace("images/d", "more/d")},
        [*(f"{folder}/{x}" for folder in ("images", "masks") for x in IDS), "more/d.png"],
    ),
    "a folder in another": ({"labels.csv": rows(IDS, "filename,label")}, [x.replace("1/", "1/inner/") for x in HAM]),
}  # fmt: skip


@pytest.mark.parametrize("shape", SPREAD)
@pytest.mark.parametrize("given", ["folder", "table"])
def test_a_table_that_names_pictures_in_several_folders_says_their_classes(tmp_path, shape, given):
    tables, pictures = SPREAD[shape]
    write(tmp_path, tables, pictures)
    (name,) = tables
    data = find_data(tmp_path if given == "folder" else tmp_path / name)
    both = {split.read(i): data.classes[n] for split in data.splits.values() for i, n in enumerate(split.labels)}
    assert {path.stem: label for path, label in both.items()} == dict(zip("abcd", LABELS, strict=True))
    assert all(path.is_file() and "masks" not in str(path) for path in both)
    assert (given == "table") or "the folders are not taken for classes" in data.summary()


@pytest.mark.parametrize(
    ("table", "pictures", "fault"),
    [
        (rows(IDS, "file,label"), [f"{folder}/{x}" for folder in ("images", "masks") for x in IDS],
         r"names a.png, which is in several folders \(.*images, .*masks\); write the folder .* or take the table away"),
        (rows(HAM, "file,label").replace("cat", "part_1"), HAM,
         r"says other classes than the folders of its pictures, and some of their names \(part_1\); give .* if it is"),
    ],
)  # fmt: skip
def test_a_table_and_folders_that_could_both_say_the_classes_are_refused(tmp_path, table, pictures, fault):
    write(tmp_path, {"labels.csv": table}, pictures)
    with pytest.raises(AlexNetError, match=fault):
        find_data(tmp_path)


CATS = [f"{label}/{x}" for x, label in zip(IDS, LABELS, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        rows(CATS, "file,label"), rows(IDS, "file,label"), rows(CATS, "file,label").replace(",cat", ",tabby"),
        rows([f"none{n}" for n in range(4)], "id,label"), rows(CATS, "file,width"),
        "file,label\na.png,x\nc.png,y\n", "id,label\na,x\nb,x\n" + "".join(f"{n},y\n" for n in range(9)),
    ],
)  # fmt: skip
def test_class_folders_are_what_they_are_beside_a_table_that_says_the_same_or_nothing_of_them(tmp_path, text):
    write(tmp_path, {"labels.csv": text}, CATS)
    data = find_data(tmp_path)
    assert (data.layout, data.classes) == ("class folders", ["cat", "dog"])
    assert "labels.csv" in data.summary()


@pytest.mark.parametrize("names", [IDS, [f"one/{x}" for x in IDS]])
def test_folders_beside_a_table_that_says_where_its_pictures_are_are_not_looked_through(tmp_path, monkeypatch, names):
    """They may be all that somebody has."""
    write(tmp_path, {"labels.csv": rows(names, "file,label"), "one/x.txt": "", "two/x.txt": ""}, names)
    monkeypatch.setattr(table, "files_below", None)
    assert find_data(tmp_path / "labels.csv").classes == ["cat", "dog"]
