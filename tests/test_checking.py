"""`alexnet check` says what DATA is, and names each picture that is broken or odd, made here with real encoders."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from alexnet.data import checking
from alexnet.data.checking import check
from alexnet.data.packs.reading import HEADER
from alexnet.data.packs.writing import pack
from alexnet.data.problems import text
from conftest import coloured, encoded, write_folders

CUT = encoded(coloured("red", 900, (200, 150)), "JPEG")


def bomb() -> bytes:
    """A PNG of few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")


def with_segment(jpeg: bytes, contents: bytes) -> bytes:
    """A JPEG with one more APP1 segment, which holds EXIF or XMP."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(contents) + 2) + contents + jpeg[2:]


def odd_pictures() -> dict[str, bytes]:
    fresh = iter(range(1000, 2000))

    def one(size: tuple[int, int] = (40, 36)) -> Image.Image:
        return coloured("red", next(fresh), size)

    deep = (np.asarray(one().convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\x0f\x60\0\0\0\0\0\0\0"
    return {
        "empty.jpg": b"",
        "cut.jpg": CUT[: len(CUT) // 2],
        "text.jpg": b"this is no picture",
        "bomb.png": bomb(),
        "cmyk.jpg": encoded(one().convert("CMYK"), "JPEG"),
        "png.JPEG": encoded(one(), "PNG"),
        "exif.jpg": with_segment(encoded(one(), "JPEG"), exif),
        "xmp.jpg": with_segment(
            encoded(one(), "JPEG"), b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='a'><b>\xff"
        ),
        "good_xmp.png": encoded(one(), "PNG", pnginfo=xmp),
        "progressive.jpg": encoded(one(), "JPEG", progressive=True),
        "sixteen.png": encoded(Image.fromarray(deep)),
        "palette.gif": encoded(one().quantize(16), "GIF"),
        "thin.png": encoded(one((1, 300))),
        "gray.jpg": encoded(one().convert("L"), "JPEG"),
        "pages.tiff": encoded(one(), "TIFF", save_all=True, append_images=[one((8, 8)), one((9, 9))]),
        "moving.gif": encoded(one().quantize(16), "GIF", save_all=True, append_images=[one().quantize(4)]),
    }


BROKEN = {"empty.jpg": "empty, 0 bytes", "cut.jpg": "broken", "text.jpg": "not a picture", "bomb.png": "larger than"}
ODD = {"cmyk.jpg": "CMYK", "png.JPEG": "other format", "exif.jpg": "metadata", "xmp.jpg": "metadata"}
ODD |= {"pages.tiff": "several pictures", "moving.gif": "several pictures"}


@pytest.fixture
def odd(tmp_path) -> Path:
    write_folders(tmp_path / "train", 6)
    write_folders(tmp_path / "val", 2, first=100)
    for name, contents in odd_pictures().items():
        (tmp_path / "train" / "red" / name).write_bytes(contents)
    return tmp_path


def test_every_broken_or_odd_picture_is_named_with_its_fault_and_no_other(alexnet, odd):
    status, out, err = alexnet("check", odd, "--full", "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 1
    found = {Path(one["file"]).name: (one["kind"], one["fault"]) for one in facts["problems"]}
    assert set(found) == set(BROKEN) | set(ODD)
    for name, fault in BROKEN.items():
        assert found[name][0] == "unreadable"
        assert fault in found[name][1]
    for name, kind in ODD.items():
        assert found[name][0] == kind, found[name]
    assert found["pages.tiff"][1] == "TIFF of 3 pictures"
    assert found["png.JPEG"][1] == "PNG named .jpeg"
    assert all(one["remedy"] for one in facts["problems"])
    assert (facts["layout"], facts["classes"], facts["looked_at"]) == ("class folders", 3, 6 * 3 + 2 * 3 + 12)
    assert facts["splits"]["train"]["pictures"] == 34
    assert facts["sizes"]["width"] == [1, 36, 40]
    assert facts["kinds"]["JPEG CMYK"] == 1
    assert "broken: 4 × unreadable" in err


@pytest.mark.filterwarnings("ignore::UserWarning")  # as the package has it outside of tests
def test_packing_leaves_out_what_check_calls_broken_and_nothing_else(odd, tmp_path):
    result = pack(odd, tmp_path / "pack", 32)
    assert {Path(one["file"]).name for one in result.failed} == set(BROKEN)


def test_the_same_picture_twice_is_found_within_and_across_splits_and_classes(tmp_path):
    write_folders(tmp_path / "train", 6)
    write_folders(tmp_path / "val", 2, first=100)
    copy = {
        ("train/red/0.png", "train/red/copy.png"): "twice",
        ("train/blue/0.png", "val/blue/copy.png"): "two splits",
        ("train/green/0.png", "train/red/other.bmp"): "two classes",
    }
    for source, target in copy:
        Image.open(tmp_path / source).save(tmp_path / target)  # encoded anew: the pixels are the same
    report = check(tmp_path, full=True)
    found = {(one.kind, f"{dict(train='train', valid='val')[one.split]}/{one.file}") for one in report.problems}
    assert found == {(kind, target) for (_, target), kind in copy.items()}
    assert report.broken
    (fault,) = [one.fault for one in report.problems if one.kind == "two classes"]
    assert "as red and as green" in fault


def test_good_data_is_called_so_and_a_sample_is_enough_to_describe_it(alexnet, folders, monkeypatch):
    monkeypatch.setattr(checking, "SAMPLE", 10)
    status, out, _ = alexnet("check", folders)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].endswith("class folders, 3 classes")
    assert lines[1] == "  train: 48 pictures (train/), 16 a class"
    assert lines[3].startswith("  20 looked at: 20 PNG RGB; 36 to 36 pixels wide")
    assert lines[-1] == "nothing is broken"


def test_a_class_without_pictures_in_one_split_is_odd(tmp_path):
    from conftest import COLOURS, write_parquet

    rows = [(encoded(coloured(name, n)), label) for n in range(4) for label, name in enumerate(sorted(COLOURS))]
    write_parquet(tmp_path / "train.parquet", rows, sorted(COLOURS))
    write_parquet(tmp_path / "valid.parquet", [(encoded(coloured("red", 90)), 2)], sorted(COLOURS))
    report = check(tmp_path)
    assert [(one.kind, one.split, one.file) for one in report.problems] == [
        ("one split only", "valid", "blue"),
        ("one split only", "valid", "green"),
    ]
    assert not report.broken


def test_a_pack_is_verified_file_by_file_unless_quick(alexnet, folders, tmp_path):
    pack(folders, tmp_path, 16)
    assert alexnet("check", tmp_path)[0] == 0
    whole = bytearray((tmp_path / "valid-00000.npy").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "valid-00000.npy").write_bytes(whole)
    (tmp_path / "mean.npy").write_bytes(b"short")
    status, out, _ = alexnet("check", tmp_path, "--json")
    assert status == 1
    assert sorted(one["file"] for one in json.loads(out.splitlines()[-1])["problems"]) == [
        "mean.npy",
        "valid-00000.npy",
    ]
    (tmp_path / HEADER).write_text("{}")
    assert [one.file for one in check(tmp_path).problems] == [HEADER]


def test_quick_does_not_read_a_pack(folders, tmp_path):
    pack(folders, tmp_path, 16)
    whole = bytearray((tmp_path / "valid-00000.npy").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "valid-00000.npy").write_bytes(whole)
    assert not check(tmp_path, quick=True).problems
    assert check(tmp_path).broken


def test_long_lists_are_cut_for_people_only(tmp_path):
    write_folders(tmp_path, 10)
    for n in range(30):
        (tmp_path / "red" / f"bad{n}.png").write_bytes(b"")
    report = check(tmp_path, full=True)
    assert len(report.problems) == 30
    lines = list(text(report))
    assert sum("empty, 0 bytes" in line for line in lines) == 20
    assert "  and 10 more; --json names all" in lines


def test_what_is_no_data_is_refused(refused, tmp_path):
    assert "is an empty folder" in refused("check", tmp_path)
