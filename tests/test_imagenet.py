"""ImageNet in every form in which its owners hold it, and what can be wrong with each."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.data.layouts import tars
from alexnet.data.layouts.registry import find_data
from archives import (
    HUMAN,
    IDS,
    KNOWN,
    jpeg,
    refusal,
    shows,
    special,
    tar,
    train_pictures,
    valid_pictures,
    write,
    write_kaggle,
    write_official,
)

# -- tables -------------------------------------------------------------------------------------------------------


def test_the_tables_of_imagenet_have_their_known_properties():
    ids, table = list(labels.imagenet()), labels.validation()
    assert ids == sorted(ids)
    assert np.bincount(table).tolist() == [50] * 1000
    # The first three validation pictures, as published with the challenge: snake, ski, dog.
    assert [ids[n] for n in table[:3]] == ["n01751748", "n09193705", "n02105855"]
    devkit = labels.devkit()
    assert sorted(devkit) == list(range(1, 1001))
    assert sorted(devkit.values()) == ids
    assert [devkit[n] for n in (1, 2, 449)] == ["n02119789", "n02100735", "n01440764"]


def test_wordnet_ids_and_names_are_the_same_classes():
    assert labels.position(["tench", "goldfish"])["n01443537"] == 1
    assert labels.position(["n01440764", "n01443537"])["goldfish"] == 1
    assert labels.position(["tench", "cat"]) == {"tench": 0, "cat": 1}


def test_official_archives_are_read_without_unpacking(tmp_path):
    write_official(tmp_path, train_pictures(), valid_pictures())
    before = sorted(tmp_path.rglob("*"))
    data = find_data(tmp_path)
    assert data.classes == HUMAN
    train, valid = data.split("train"), data.split("valid")
    assert {train.name(i): train.read(i) for i in range(len(train))} == train_pictures()
    assert {valid.name(i): valid.read(i) for i in range(len(valid))} == valid_pictures()
    for split in (train, valid):
        shows(split, data.classes, HUMAN)
    assert sorted(tmp_path.rglob("*")) == before
    alone = find_data(tmp_path / "ILSVRC2012_img_train.tar")
    assert (len(alone.split("train")), len(alone.split("valid"))) == (9, 3)


def test_the_validation_archive_alone_has_all_classes_for_a_published_model(tmp_path):
    write_official(tmp_path, train_pictures(), valid_pictures())
    data = find_data(tmp_path / "ILSVRC2012_img_val.tar")
    assert list(data.splits) == ["valid"]
    assert data.classes == list(labels.imagenet().values())
    assert sorted(data.split("valid").labels) == [0, 0, 1, 1, 2, 2]


LEFT = {
    # archives left beside what they were unpacked into: folders, archives, what is read
    "training pictures only": (("train", "val"), ["train"], "class folders"),
    "validation pictures only": (("train", "val"), ["val"], "class folders"),
    "validation pictures, flat": (("train", "flat"), ["train"], "ImageNet with a flat validation folder"),
    "nothing to hold out": (("train",), ["train"], "class folders"),
    "both": (("train", "val"), ["train", "val"], "ImageNet's official archives"),
    "nothing unpacked yet": (("empty",), ["train"], "ImageNet's official archives"),
}


@pytest.mark.parametrize("name", LEFT)
def test_an_archive_left_beside_unpacked_folders_hides_none_of_them(tmp_path, name):
    folders, archives, layout = LEFT[name]
    write_official(tmp_path, train_pictures(10), valid_pictures())
    for kind in {"train", "val"} - {*archives}:
        (tmp_path / f"ILSVRC2012_img_{kind}.tar").unlink()
    for kind, pictures in (("train", train_pictures(10)), ("val", train_pictures(2)), ("flat", valid_pictures())):
        if kind in folders:
            write(tmp_path / kind.replace("flat", "val"), pictures)
    if "empty" in folders:
        (tmp_path / "train").mkdir()
    data = find_data(tmp_path)
    assert data.layout == layout
    assert data.classes == HUMAN
    assert len(data.split("train")) == (30 if len(folders) == 2 else 27)
    files = [f"ILSVRC2012_img_{kind}.tar" for kind in archives]
    said = {
        "both": "has folders beside its archives (train, val); they are not used", "nothing unpacked yet": "",
    }.get(name, f"has 1 file beside its folders of pictures ({files[0]}); they are not used")  # fmt: skip
    assert said in data.summary()


def test_a_flat_validation_folder_is_labelled_by_its_names(tmp_path):
    write(tmp_path / "train", train_pictures())
    write(tmp_path / "val", valid_pictures())
    data = find_data(tmp_path)
    assert "flat" in data.summary()
    assert data.classes == HUMAN
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, HUMAN)
    write(tmp_path / "val", {"cat.JPEG": jpeg(0, 0)})
    assert "cat.JPEG that is none of ImageNet's validation pictures" in refusal(tmp_path)
    (tmp_path / "val" / "cat.JPEG").rename(tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG")
    assert "ILSVRC2012_val_00050001.JPEG that is none" in refusal(tmp_path)


def test_a_flat_validation_folder_of_anything_else_is_refused_and_not_passed_over(tmp_path):
    write(tmp_path / "train", train_pictures())
    write(tmp_path / "val", {"1.JPEG": jpeg(0, 0)})
    assert "has pictures but no class folders" in refusal(tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")  # a test set without labels, as competitions have
    assert "tenth" in find_data(tmp_path).split("valid").origin


def test_kaggles_tables_label_its_flat_validation_folder(tmp_path):
    data = find_data(write_kaggle(tmp_path, solution=True))
    assert data.classes == ["tench", "goldfish", "dog"]
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 12, "valid": 6}
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, data.classes)
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2\n")
    assert "has no line for ILSVRC2012_val_00000002.JPEG" in refusal(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("id,class\na,b\n")
    assert "is not Kaggle's table" in refusal(tmp_path)


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data"])
def test_kaggles_folders_are_read_from_each_on_the_way(tmp_path, monkeypatch, below):
    write_kaggle(tmp_path, solution=True)
    monkeypatch.chdir(tmp_path / below)
    for given in (tmp_path / below, "."):
        data = find_data(given)
        assert (data.layout, data.classes) == ("ImageNet as on Kaggle", ["tench", "goldfish", "dog"])
        shows(data.split("valid"), data.classes, data.classes)
        assert "test has no class folders, so nothing says what it shows; it is not used" in data.summary()


def test_kaggle_without_its_tables_is_labelled_by_name(tmp_path):
    base = write_kaggle(tmp_path, solution=False) / "ILSVRC" / "Data" / "CLS-LOC"
    assert "has pictures of classes that are not trained on (n01" in refusal(tmp_path)
    for path in (base / "val").iterdir():
        path.unlink()
    for one in (base / "train").iterdir():
        if one.name not in KNOWN:
            one.rename(base / "train" / KNOWN[2])
    write(base / "val", valid_pictures())
    data = find_data(tmp_path)
    assert data.classes == HUMAN
    shows(data.split("valid"), data.classes, HUMAN)


def write_tiny(root) -> list[str]:
    """Lines of its annotations."""
    for label, one in enumerate(IDS):
        write(root / "train" / one / "images", {f"{one}_{n}.JPEG": jpeg(label, n) for n in range(4)})
        (root / "train" / one / f"{one}_boxes.txt").write_text(f"{one}_0.JPEG\t0\t0\t62\t62\n")
    valid = {f"val_{n}.JPEG": jpeg(n % 3, n) for n in range(6)}
    write(root / "val" / "images", valid)
    lines = [f"{name}\t{IDS[n % 3]}\t0\t32\t44\t62" for n, name in enumerate(valid)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("\n".join(reversed(IDS)) + "\n")
    (root / "words.txt").write_text("n02084071\tdog, domestic dog\nn00001740\tentity\n")
    write(root / "test" / "images", {"test_0.JPEG": jpeg(0, 0)})
    return lines


def test_tiny_imagenet_as_stanford_packs_it(tmp_path):
    lines = write_tiny(tmp_path)
    data = find_data(tmp_path)
    assert data.classes == ["tench", "goldfish", "dog"]
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 12, "valid": 6}
    assert "test has no class folders, so nothing says what it shows; it is not used" in data.summary()
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, data.classes)
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join([*lines, "val_9.JPEG\tn99999999\t0"]))
    assert "classes that are not trained on (n99999999)" in refusal(tmp_path)


@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("annotations", [False, True])
def test_tiny_imagenet_whose_validation_pictures_a_script_has_sorted(tmp_path, inner, emptied, annotations):
    lines = write_tiny(tmp_path)
    for line in lines:
        file, one, *_ = line.split("\t")
        (tmp_path / "val" / one / inner).mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / "images" / file).rename(tmp_path / "val" / one / inner / file)
    if not emptied:
        (tmp_path / "val" / "images").rmdir()
    if not annotations:
        (tmp_path / "val" / "val_annotations.txt").unlink()
    data = find_data(tmp_path)
    assert (data.layout, data.classes) == ("class folders", IDS)
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 12, "valid": 6}
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, data.classes)
    assert ("val has empty folders of no class in train/ (images)" in data.summary()) == emptied
    assert "test has no class folders" in data.summary()


def test_class_folders_of_wordnet_ids_get_names(tmp_path):
    write(tmp_path, train_pictures())
    assert find_data(tmp_path).classes == HUMAN
    (tmp_path / "n01484850").rename(tmp_path / "shark")
    assert find_data(tmp_path).classes == ["n01440764", "n01443537", "shark"]


def test_members_that_lead_out_of_an_archive_or_are_no_files_are_refused(tmp_path):
    path = tmp_path / "ILSVRC2012_img_val.tar"
    for contents, said in [
        (special("../../ILSVRC2012_val_00000001.JPEG"), "leads out of it (../../"),
        (special("/etc/passwd"), "leads out of it (/etc/passwd)"),
        (special("a.JPEG", tarfile.SYMTYPE, "/etc/passwd"), "no plain file (a.JPEG)"),
        (special("a.JPEG", tarfile.LNKTYPE, "b.JPEG"), "no plain file (a.JPEG)"),
        (special("a.JPEG", tarfile.FIFOTYPE), "no plain file (a.JPEG)"),
        (b"no tar at all", "is not a whole tar archive"),
    ]:
        path.write_bytes(contents)
        assert said in refusal(tmp_path)


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    whole = tar(valid_pictures())
    path = tmp_path / "ILSVRC2012_img_val.tar"
    end = len(whole.rstrip(b"\0"))
    for cut in [*range(1, end, 997), *range(512, end, 512)]:
        path.write_bytes(whole[:cut])
        said = refusal(tmp_path)
        assert "cut short" in said or "not a whole tar" in said, cut
    train = tar({f"{one}.tar": tar({"a.JPEG": jpeg(n, 0), "b.JPEG": jpeg(n, 1)}) for n, one in enumerate(KNOWN)})
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train)
    path.unlink()
    data = find_data(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train[:3000])
    with pytest.raises(AlexNetError, match="cut short"):
        data.split("train").read(2)


def test_a_header_that_claims_gigabytes_takes_none(tmp_path):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 6 << 30
    path = tmp_path / "ILSVRC2012_img_val.tar"
    with open(path, "wb") as file:
        file.write(member.tobuf())
        file.truncate(7 << 30)  # sparse
    assert "a header of more than a megabyte" in refusal(tmp_path)


def test_a_listing_has_what_tarfile_lists(tmp_path):
    files = {f"{'d' * n}/{'long' * n}.jpg": bytes([n]) * (n * 100) for n in range(1, 60)}
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{format}.tar"
        with tarfile.open(path, "w", format=format) as archive:
            for name, contents in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(contents)
                if format == tarfile.USTAR_FORMAT and len(name) > 100:
                    continue
                archive.addfile(member, io.BytesIO(contents))
        with tarfile.open(path) as archive:
            expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
        assert [tuple(one) for one in tars.archive_members(path)] == expected
        assert all(tars.read(path, start, size) == files[name] for name, start, size in expected)
