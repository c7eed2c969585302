"""Parquet files, shards and labels as people write them: the right pictures with the right labels, or one sentence."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.data.checking import check
from alexnet.data.layouts import parquet_rows
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import pack
from alexnet.data.pictures import decode
from alexnet.data.sources import Sources
from alexnet.inference.matching import match_classes
from archives import tar
from conftest import COLOURS, coloured, encoded

NAMES = sorted(COLOURS)
LABELS = [0, 1, 2, 2, 1, 0]
PIXELS = [coloured(NAMES[label], n, (8, 8)) for n, label in enumerate(LABELS)]
PICTURES = [encoded(one) for one in PIXELS]
WORDS = [NAMES[label] for label in LABELS]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def described(**features) -> dict:
    return {"huggingface": json.dumps({"info": {"features": features}})}


def classes(column: str = "label", names: list[str] = NAMES) -> dict:
    return described(**{column: {"names": names, "_type": "ClassLabel"}})


def structs(type: pa.DataType = STRUCT) -> pa.Array:
    return pa.array([{"bytes": b, "path": f"{n}.png"} for n, b in enumerate(PICTURES)], type)


def write(path: Path, columns: dict, metadata: dict | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, **options)
    return path


IMAGES = {
    "structs": structs(),
    "large structs": structs(pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])),
    "bytes": pa.array(PICTURES, pa.binary()),
    "large bytes": pa.array(PICTURES, pa.large_binary()),
    "lists of one struct": pa.array([[{"bytes": b, "path": None}] for b in PICTURES], pa.list_(STRUCT)),
    "lists of one": pa.array([[b] for b in PICTURES], pa.list_(pa.binary())),
    "bytes as numbers": pa.array([list(b) for b in PICTURES], pa.list_(pa.uint8())),
    "pixels": pa.array([np.asarray(one).tolist() for one in PIXELS], pa.list_(pa.list_(pa.list_(pa.uint8())))),
    "paths": pa.array([f"pics/{n}.png" for n in range(6)]),
    "structs of a path": pa.array([{"bytes": None, "path": f"pics/{n}.png"} for n in range(6)], STRUCT),
    "a dictionary": pa.array(PICTURES, pa.binary()).dictionary_encode(),
}
NUMBERS = {
    **{f"{kind}": pa.array(LABELS, kind) for kind in (
        pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64(), pa.float32(),
        pa.float64(), pa.decimal128(9, 0),
    )},
    "lists of one": pa.array([[label] for label in LABELS]),
}  # fmt: skip
TEXTS = {
    "strings": pa.array(WORDS), "large strings": pa.array(WORDS, pa.large_string()),
    "dictionary": pa.array(WORDS).dictionary_encode(),
}  # fmt: skip


def seen(split) -> list[bytes]:
    return [np.asarray(decode(split.read(i))).tobytes() for i in range(len(split))]


@pytest.mark.parametrize("form", IMAGES)
def test_every_form_of_a_column_of_pictures_gives_them_to_training_and_to_predict(tmp_path, form):
    for n, contents in enumerate(PICTURES):
        (tmp_path / "pics").mkdir(exist_ok=True)
        (tmp_path / "pics" / f"{n}.png").write_bytes(contents)
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", {"image": IMAGES[form], "label": LABELS}, classes(), row_group_size=4)
    wanted = [np.asarray(one).tobytes() for one in PIXELS]
    data = find_data(tmp_path)
    assert seen(data.split("train")) == wanted
    assert data.split("train").labels.tolist() == LABELS
    found = list(Sources(str(tmp_path / "test.parquet")))
    assert [np.asarray(decode(source)).tobytes() for _, source in found] == wanted


@pytest.mark.parametrize("form", [*NUMBERS, *TEXTS])
@pytest.mark.parametrize("column", ["label", "labels", "fine_label", "class"])
def test_every_form_of_a_column_of_labels_gives_them(tmp_path, form, column):
    given = NUMBERS.get(form, TEXTS.get(form))
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", {"img": structs(), column: given, "coarse_label": [0] * 6}, None)
    data = find_data(tmp_path)
    assert data.split("train").labels.tolist() == data.split("valid").labels.tolist() == LABELS
    assert data.classes == (NAMES if form in TEXTS else ["0", "1", "2"])
    assert data.named == (form in TEXTS)
    assert "has other columns of labels beside" in data.summary()


def test_labels_that_are_truth_values_have_their_names(tmp_path):
    write(tmp_path / "train.parquet", {"image": structs(), "label": pa.array([x == 0 for x in LABELS])})
    data = find_data(tmp_path)
    assert (data.classes, data.named) == (["False", "True"], True)


def test_each_files_labels_are_read_by_its_own_names(tmp_path):
    write(tmp_path / "train.parquet", {"image": structs(), "label": LABELS}, classes())
    write(tmp_path / "test.parquet", {"image": structs(), "label": [2 - x for x in LABELS]}, classes(names=NAMES[::-1]))
    data = find_data(tmp_path)
    assert data.split("valid").labels.tolist() == LABELS
    write(tmp_path / "test.parquet", {"image": structs(), "label": LABELS}, classes(names=["a", "b", "c"]))
    with pytest.raises(AlexNetError, match=r"test.parquet has other class names than train.parquet \(more: a, b, c"):
        find_data(tmp_path)


REFUSED = {
    "several labels a row": ({"image": structs(), "label": [[0, 1]] * 6}, "has several labels a row"),
    "fractions": ({"image": structs(), "label": [0.5] * 6}, "column label has fractions"),
    "dates": ({"image": structs(), "label": pa.array([0] * 6, pa.date32())}, "it must hold whole numbers from 0"),
    "no pictures": ({"size": [1] * 6, "label": LABELS}, "it needs a column of pictures"),
    "no labels": ({"image": structs(), "size": [1] * 6}, "it needs a column 'label'"),
    "a label out of bounds": ({"image": structs(), "label": [1 << 40, *LABELS[1:]]}, "has a label 1,099,511,627,776"),
    "a label below 0": ({"image": structs(), "label": [-7, *LABELS[1:]]}, "label -7 of 0.png (train, row 0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_columns_that_cannot_be_told_are_refused_and_listed(tmp_path, name):
    columns, said = REFUSED[name]
    write(tmp_path / "train.parquet", columns)
    with pytest.raises(AlexNetError) as caught:
        find_data(tmp_path)
    assert said in str(caught.value)
    write(tmp_path / "test.parquet", columns)
    assert any(
        said in f"{one.file} {one.fault}" or said in f"{one.fault}; {one.remedy}" for one in check(tmp_path).problems
    )


def test_rows_that_are_no_picture_are_named_one_by_one(tmp_path):
    odd = [b"", None, b"no picture", *PICTURES[3:]]
    write(tmp_path / "train.parquet", {"image": pa.array(odd, pa.binary()), "label": LABELS})
    report = check(tmp_path, full=True)
    found = [(one.split, one.file) for one in report.problems if one.kind == "unreadable"]
    assert sorted(file for _, file in found) == ["row 0", "row 1", "row 2"]
    write(tmp_path / "train.parquet", {"image": pa.array([[b, b] for b in PICTURES]), "label": LABELS})
    assert "a list of 2 pictures in a row; give one a row" in check(tmp_path).problems[0].fault


def test_sets_beside_one_another_are_refused_and_pointers_are_called_so(tmp_path):
    for name in ("cropped_digits", "full_numbers"):
        write(tmp_path / name / "train-0.parquet", {"image": structs(), "label": LABELS})
    with pytest.raises(AlexNetError, match=r"has several sets of parquet files .*; give one of them, .*cropped_digits"):
        find_data(tmp_path)
    for name, wanted in (("train.parquet", "Git LFS"), ("train.tar", "Git LFS")):
        (tmp_path / "p").mkdir(exist_ok=True)
        file = tmp_path / "p" / name
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 15305732\n")
        with pytest.raises(AlexNetError, match=wanted):
            find_data(file)
        assert wanted in str(next(iter(Sources(str(file))))[1])
        file.unlink()


@pytest.mark.parametrize("repeated", [False, True])
def test_memory_is_bounded_however_large_a_row_group_is_or_grows(tmp_path, monkeypatch, repeated):
    """One row group: 24 MB of pictures, or 60 MB that a dictionary has once."""
    monkeypatch.setattr(parquet_rows, "HELD", 1 << 20)
    large, count = np.random.default_rng(0).integers(0, 256, 60_000, np.uint8).tobytes(), 1000 if repeated else 400
    several = [large if repeated else n.to_bytes(4, "big") + large[4:] for n in range(count)]
    table = {"image": pa.array(several, pa.binary()), "label": [n % 2 for n in range(count)]}
    write(tmp_path / "train.parquet", table, use_dictionary=repeated, write_batch_size=4, data_page_size=1 << 16)
    split = find_data(tmp_path, whole=True).split("all")
    own, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    del table
    pa.set_memory_pool(own)
    tracemalloc.start()
    try:
        for i in (*range(0, count, 97), 0, count - 1):
            assert split.read(i) == several[i]
        assert [source == several[n] for n, (_, source) in enumerate(Sources(str(tmp_path)))] == [True] * count
        assert own.max_memory() + tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_row_groups_that_do_not_fit_are_read_again_and_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_rows, "HELD", 4 * len(PICTURES[0]))
    write(tmp_path / "train.parquet", {"image": structs(), "label": LABELS}, row_group_size=1)
    split = find_data(tmp_path, whole=True).split("all")
    order = np.random.default_rng(0).permutation(np.tile(np.arange(6), 5))
    assert [split.read(int(i)) for i in order] == [PICTURES[i] for i in order]


# -- shards ---------------------------------------------------------------------------------------------------------

PAIRED = {
    "dots in names": lambda n: (f"img.v1.{n}.png", f"img.v1.{n}.cls"),
    "dots in folders": lambda n: (f"data/22.0/{n}.png", f"data/22.0/{n}.cls"),
    "input and output": lambda n: (f"{n}.input.png", f"{n}.output.cls"),
    "capitals": lambda n: (f"{n}.PNG", f"{n}.CLS"),
    "one in two folders": lambda n: (f"{n % 2}/{n}.png", f"{n % 2}/{n}.cls"),
}


@pytest.mark.parametrize("form", PAIRED)
@pytest.mark.parametrize("apart", [False, True])
def test_pictures_and_classes_of_a_shard_meet_by_their_names_in_any_order(tmp_path, form, apart):
    pairs = [PAIRED[form](n) for n in range(6)]
    pictures = [(name, PICTURES[n]) for n, (name, _) in enumerate(pairs)]
    found = [(name, b"%d\n" % LABELS[n]) for n, (_, name) in enumerate(pairs)]
    files = [*found[::-1], *pictures] if apart else [one for pair in zip(pictures, found, strict=True) for one in pair]
    (tmp_path / "train.tar").write_bytes(tar(dict(files)))
    split = find_data(tmp_path, whole=True).split("all")
    assert [split.read(i) for i in range(6)] == PICTURES
    assert split.labels.tolist() == LABELS


def test_other_pictures_of_a_sample_are_not_taken_for_its_own(tmp_path):
    files = {}
    for n in range(6):
        files |= {f"{n}.png": PICTURES[n], f"{n}.cls": b"%d" % LABELS[n], f"{n}.mask.png": PICTURES[0]}
    (tmp_path / "train.tar").write_bytes(tar(files))
    data = find_data(tmp_path, whole=True)
    assert [data.split("all").read(i) for i in range(6)] == PICTURES
    assert "has 6 further files of samples with picture and label" in data.summary()


SHARDS = {
    "captions": ({f"{n}.png": PICTURES[n] for n in range(6)} | {f"{n}.txt": b"a dog" for n in range(6)},
                 "has pictures and no .cls beside them that says their class (it holds 6 .png, 6 .txt)"),
    "class folders": ({f"{one}/{n}.png": PICTURES[n] for one in ("cat", "dog") for n in range(3)},
                      "if its folders (cat, dog) are the classes, unpack it and give the folder"),
    "n01440764": ({f"n01440764_{n}.JPEG": PICTURES[n] for n in range(2)},
                  "of ImageNet, still packed; unpack each such archive into a folder of its name, or give the folder"),
    "no pictures": ({"a.txt": b"x", "b.txt": b"x"}, "has no pictures (it holds 2 .txt)"),
    "nothing": ({}, "has no pictures (it holds no files)"),
    "names": ({"0.png": PICTURES[0], "0.cls": b"cat"}, "0.cls holds 'cat'; it must hold a class index"),
    "binary numbers": ({"0.png": PICTURES[0], "0.cls": bytes(8)}, "0.cls holds bytes, b'\\x00"),
    "none": ({"0.png": PICTURES[0], "0.cls": b"-1"}, "0.cls holds '-1'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_another_says_what_it_holds(tmp_path, name):
    files, said = SHARDS[name]
    file = tmp_path / "train" / (f"{name}.tar" if name.startswith("n0") else "train.tar")
    file.parent.mkdir()
    file.write_bytes(tar(files))
    with pytest.raises(AlexNetError) as caught:
        find_data(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_class_names_beside_shards_may_have_a_mark_or_be_broken(tmp_path, mark):
    files = {f"{n}.png": PICTURES[n] for n in range(6)} | {f"{n}.cls": b"%d" % LABELS[n] for n in range(6)}
    (tmp_path / "train.tar").write_bytes(tar(files))
    (tmp_path / "classes.txt").write_bytes(mark + "café\r\ntea\r\nwater\r\n".encode())
    assert find_data(tmp_path).classes == ["café", "tea", "water"]
    (tmp_path / "classes.txt").write_text("café\ntea\nwater\n", "latin-1")
    with pytest.raises(AlexNetError, match=r"classes.txt cannot be read .*; save it as UTF-8, a class a line"):
        find_data(tmp_path)


# -- names of classes -----------------------------------------------------------------------------------------------

OWN = list(labels.imagenet().values())
# As lists of ImageNet's words have them: 134 and 517, 638 and 639 begin alike.
HUB = [f"{name}, other words" for name in OWN]
HUB[134], HUB[517], HUB[638], HUB[639] = "crane", "crane", "maillot", "maillot, tank suit"


def data_of(tmp_path: Path, names: list[str] | None, given: list[int]):
    table = {"image": pa.array([PICTURES[n % 6] for n in range(len(given))], pa.binary()), "label": given}
    write(tmp_path / "val.parquet", table, classes(names=names) if names else None)
    return find_data(tmp_path)


@pytest.mark.parametrize("names", [HUB, OWN, list(labels.imagenet()), [n.replace(" ", "_") for n in OWN], None])
@pytest.mark.parametrize("network", [OWN, HUB, list(labels.imagenet())])
def test_lists_of_imagenets_classes_meet_whoever_wrote_them(tmp_path, names, network):
    given = [0, 134, 517, 638, 639, 999]
    data = data_of(tmp_path, names, given)
    assert len(set(data.classes)) == 1000
    assert match_classes(data, data.split("valid"), network).labels.tolist() == given


def test_two_classes_of_one_name_stay_two(tmp_path):
    data = data_of(tmp_path, ["crane", "crane", "gull"], [0, 1, 2])
    assert data.classes == ["crane (class 0)", "crane (class 1)", "gull"]
    assert match_classes(data, data.split("valid"), ["crane", "crane", "gull"]).labels.tolist() == [0, 1, 2]
    with pytest.raises(AlexNetError, match=r"does not know \(crane \(class 0\), crane \(class 1\)\)"):
        match_classes(data, data.split("valid"), ["gull", "crane", "tern"])


def test_words_after_a_comma_do_not_make_two_classes_one(tmp_path):
    data = data_of(tmp_path, ["red, dark", "red, light", "blue"], [0, 1, 2])
    assert len(set(data.classes)) == 3
    with pytest.raises(AlexNetError, match="does not know"):
        match_classes(data, data.split("valid"), ["red", "blue"])


def test_labels_without_names_are_the_numbers_of_outputs(tmp_path):
    data = data_of(tmp_path, None, [0, 2, 7])
    assert match_classes(data, data.split("valid"), OWN).labels.tolist() == [0, 2, 7]
    with pytest.raises(AlexNetError, match=r"does not know \(7\)"):
        match_classes(data, data.split("valid"), ["cat", "dog", "owl"])


def test_a_pack_keeps_that_labels_have_no_names(tmp_path):
    for names in (None, ["red", "blue"]):
        table = {"image": pa.array(PICTURES, pa.binary()), "label": [0, 0, 0, 1, 1, 1]}
        write(tmp_path / f"{names}.parquet", table, classes(names=names) if names else None)
        data = find_data(tmp_path / f"{names}.parquet")
        pack(data.path, tmp_path / f"pack {names}", 16)
        packed = find_data(tmp_path / f"pack {names}")
        assert (packed.named, packed.classes) == (data.named, data.classes) == (names is not None, data.classes)
        known = ["red", "blue", "owl"]
        seen, expected = (match_classes(one, one.split("valid"), known).labels.tolist() for one in (packed, data))
        assert seen == expected


def test_labels_that_do_not_begin_at_0_are_said(tmp_path):
    assert (
        "has labels from 1 on and no class names, so that class 0 is empty" in data_of(tmp_path, None, [1, 2]).summary()
    )


def test_evaluate_says_what_is_assumed_and_goes_on_where_validation_lacks_a_class(alexnet, tiny_run, tmp_path):
    data_of(tmp_path, None, [0, 1, 1])
    status, out, err = alexnet("evaluate", tiny_run, tmp_path)
    assert status == 0, err
    assert "have no names: label 0 is taken for blue, 1 for green" in out
    for n, name in enumerate(NAMES):
        for split in ("train", "val")[: 2 - (n == 2)]:
            (tmp_path / "folders" / split / name).mkdir(parents=True)
            (tmp_path / "folders" / split / name / "0.png").write_bytes(PICTURES[n])
    table = tmp_path / "classes.csv"
    status, out, err = alexnet("evaluate", tiny_run, tmp_path / "folders", "--per-class", table)
    assert status == 0, err
    assert "valid has no picture of 1 of 3 classes (red)" in out
    assert [line.split(",")[:2] for line in table.read_text().splitlines()[1:]] == [
        ["blue", "1"],
        ["green", "1"],
        ["red", "0"],
    ]


# -- bits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("bits", "unused"), [(10, 6), (12, 4), (14, 2), (16, 0)])
def test_check_says_how_many_upper_bits_are_unused(tmp_path, form, bits, unused):
    values = np.random.default_rng(0).integers(0, 1 << bits, (20, 20)).astype(np.uint16)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(values if name == "a" else (values >> 8).astype(np.uint8)).save(tmp_path / name / "0.x", form)
    said = [(one.file, one.fault) for one in check(tmp_path, full=True).problems if one.kind == "unused bits"]
    assert said == ([("a/0.x", f"the upper {unused} of its 16 bits are unused")] if unused else [])
