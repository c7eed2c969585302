"""Packs hold what was packed, byte for byte the same however they were made."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.base.errors import AlexNetError, Interrupted
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures, statistics
from alexnet.data.packs import shards, writing
from alexnet.data.packs.reading import HEADER, STATE
from alexnet.data.packs.writing import pack
from alexnet.data.statistics import Sums
from conftest import coloured, write_folders
from packed import PROGRAM, both_packs, contents, refusal, small, world


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    small(monkeypatch)


@pytest.fixture
def source(tmp_path) -> Path:
    """48 + 15 pictures, of which three cannot be read."""
    write_folders(tmp_path / "source" / "train", 16)
    write_folders(tmp_path / "source" / "val", 5, first=100)
    (tmp_path / "source" / "train" / "blue" / "3.png").write_bytes(b"")
    (tmp_path / "source" / "train" / "red" / "4.png").write_text("no picture")
    (tmp_path / "source" / "val" / "green" / "101.png").write_text("no picture")
    return tmp_path / "source"


@pytest.fixture(scope="module")
def packs(tmp_path_factory, folders) -> dict[str, Path]:
    return both_packs(tmp_path_factory, folders)


def test_a_raw_pack_holds_what_the_loader_makes_of_the_source(folders, packs):
    before, after = find_data(folders), find_data(packs["raw"])
    assert after.classes == before.classes
    for name in ("train", "valid"):
        one, two = before.split(name), after.split(name)
        assert (one.labels == two.labels).all()
        assert [one.name(i) for i in range(len(one))] == [two.name(i) for i in range(len(two))]
        for size, channels in ((32, 3), (32, 1)):
            pixels = [Pictures(split, size, channels, 2).get(np.arange(len(split)))[0] for split in (one, two)]
            if channels == 3:
                assert (pixels[0] == pixels[1]).all()
            else:  # gray from the resized colours, not resized gray
                assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 2
    assert two.store is not None


def test_mean_and_colours_of_a_pack_are_those_of_the_loader_bit_for_bit(folders, packs):
    expected = statistics(Pictures(find_data(folders).split("train"), 32, 3, 1), world())
    got = statistics(Pictures(find_data(packs["raw"]).split("train"), 32, 3, 1), world())
    for name in ("mean", "colour_std", "colour_axes"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize(("size", "channels"), [(20, 3), (48, 3), (32, 1)])
def test_statistics_of_a_resized_pack_are_near_those_of_its_resized_pictures(packs, size, channels):
    pictures = Pictures(find_data(packs["raw"]).split("train"), size, channels, 1)
    pixels = pictures.get(np.arange(len(pictures)))[0].astype(np.float64)
    got = statistics(pictures, world())
    assert np.abs(got.mean.numpy() - pixels.mean(0)).max() < 1  # rounding to grey levels, 48 pictures
    spread = np.sqrt(np.linalg.eigvalsh(np.atleast_2d(np.cov(pixels.transpose(1, 0, 2, 3).reshape(channels, -1)))))
    assert got.colour_std.numpy()[0] == pytest.approx(spread[-1], rel=0.1)  # smoothing takes some noise away


def test_a_jpeg_pack_holds_jpeg_files_of_its_quality(packs):
    root = packs["jpeg"]
    raw, split = find_data(packs["raw"]).split("train"), find_data(root).split("train")
    ends, file = np.load(root / "train-ends.npy"), np.load(root / "train-00000.npy")
    for i in range(16):
        whole = file[(ends[i - 1] if i else 0) : ends[i]].tobytes()
        buffer = io.BytesIO()
        Image.fromarray(raw.read(i)).save(buffer, "JPEG", quality=writing.QUALITY)
        assert whole == buffer.getvalue() == split.read(i)
    rows = np.array([0, 20, 47, 3, 16, 15])
    expected = np.stack([np.asarray(Image.open(io.BytesIO(split.read(int(i))))) for i in rows])
    assert (Pictures(split, 32, 3, 2).get(rows)[0].transpose(0, 2, 3, 1) == expected).all()


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_bytes_are_the_same_at_any_number_of_workers_and_after_any_interruption(
    source, tmp_path, monkeypatch, encoding
):
    whole = pack(source, tmp_path / "whole", 32, encoding, workers=1)
    expected = contents(tmp_path / "whole")
    assert str(tmp_path).encode() not in b"".join(expected.values())
    for workers in (2, 5):
        pack(source, tmp_path / f"by{workers}", 32, encoding, workers=workers)
        assert contents(tmp_path / f"by{workers}") == expected
    real, writes = writing.ShardWriter.add, 0

    def add(self, data, sizes) -> None:
        nonlocal writes
        writes += 1
        if writes % 7 == 0:
            raise KeyboardInterrupt
        real(self, data, sizes)

    monkeypatch.setattr(writing.ShardWriter, "add", add)
    said: list[str] = []
    parts = None
    while parts is None:
        try:
            parts = pack(source, tmp_path / "parts", 32, encoding, say=said.append)
        except KeyboardInterrupt:
            assert not list((tmp_path / "parts").glob(".*"))
    assert "going on: of 63 pictures 16 are packed" in said
    assert contents(tmp_path / "parts") == expected
    assert parts.failed == whole.failed
    assert len(whole.failed) == 3


@pytest.mark.parametrize(("side", "channels"), [(1, 3), (5, 1), (64, 3), (130, 3)])
def test_sums_are_those_of_whole_numbers(side, channels):
    """The largest values too, in more pictures than 16 bits hold at once."""
    pixels = np.random.default_rng(side).integers(0, 256, (300, side, side, channels), np.uint8)
    pixels[:290] |= 0xF0
    pixels[:, 0] = 255
    sums = Sums(side, channels).add(pixels[:7]).add(pixels[7:])
    stride = max(1, side // 64)
    colours = pixels[:, ::stride, ::stride].reshape(-1, channels).astype(np.int64)
    assert (sums.total == pixels.astype(np.int64).sum(0)).all()
    assert (sums.products == colours.T @ colours).all()
    assert (sums.colours == colours.sum(0)).all()
    assert sums.counts.tolist() == [300, len(colours)]


def test_a_growing_file_is_put_on_the_disk_as_it_grows(source, tmp_path, monkeypatch):
    pack(source, tmp_path / "whole", 32)
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(shards, "SYNCED", 4 * 32 * 32 * 3)
    monkeypatch.setattr(shards.os, "fsync", lambda file: synced.append(os.fstat(file).st_size) or real(file))
    pack(source, tmp_path / "parts", 32)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert [size for size in synced if size == 128 + 6 * 32 * 32 * 3]  # two chunks of three, of a file of eight


def test_a_pack_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path):
    write_folders(tmp_path / "source", 300)
    pack(tmp_path / "source", tmp_path / "whole", 32)
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "source"), str(tmp_path / "parts")]
    clock, killed = random.Random(2012), 0
    for _ in range(4):
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "parts" / STATE).exists():
            time.sleep(0.01)
        time.sleep(clock.uniform(0.0, 0.5))
        killed += process.poll() is None
        process.kill()
        process.wait()
        if (tmp_path / "parts" / HEADER).exists():
            break
    if not (tmp_path / "parts" / HEADER).exists():
        pack(tmp_path / "source", tmp_path / "parts", 32)
    assert killed
    got = {name: text for name, text in contents(tmp_path / "parts").items() if not name.startswith(".")}
    assert got == contents(tmp_path / "whole")


def test_broken_pictures_are_left_out_listed_and_give_status_1(alexnet, source, tmp_path):
    status, out, err = alexnet("pack", source, tmp_path / "pack", "--size", 32, "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 1
    assert facts["pictures"] == {"train": 46, "valid": 14}
    assert [one["file"] for one in facts["failed"]] == ["blue/3.png", "red/4.png", "green/101.png"]
    assert "red/4.png: not a picture" in err
    data = find_data(tmp_path / "pack")
    split = data.split("train")
    assert len(split) == 46
    assert all(split.name(i).startswith(data.classes[split.labels[i]]) for i in range(46))
    assert json.loads((tmp_path / "pack" / HEADER).read_text())["left_out"][0]["error"] == "empty, 0 bytes"


def test_ctrl_c_says_how_to_go_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.StopRequest, "__enter__", lambda self: self.received.append(2) or self)
    with pytest.raises(Interrupted, match="stopped after 3 pictures; the same command goes on") as caught:
        pack(source, tmp_path / "pack", 32)
    assert caught.value.status == 130
    (tmp_path / "pack" / STATE).write_bytes(b"")
    assert "not finished" in refusal(find_data, tmp_path / "pack")
    assert "packing.npz is damaged" in refusal(pack, source, tmp_path / "pack", 32)


def test_a_folder_that_is_not_free_is_refused(source, packs, tmp_path):
    assert "already holds a pack" in refusal(pack, source, packs["raw"], 32)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    assert "holds other files (mine.txt)" in refusal(pack, source, tmp_path / "other", 32)
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(pack, source, tmp_path / "file")


def test_data_without_a_picture_to_train_on_are_refused_before_any_is_packed(source, tmp_path):
    data = find_data(source)
    data = replace(data, splits={"valid": data.splits["valid"]})
    with pytest.raises(AlexNetError, match="has no pictures to train on, of which a pack keeps the mean"):
        pack(data, tmp_path / "pack", 32)
    assert not (tmp_path / "pack").exists()


def test_a_changed_source_or_other_settings_cannot_go_on(source, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_finish", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(source, tmp_path / "pack", 32)
    assert "was begun with size 32, encoding raw" in refusal(pack, source, tmp_path / "pack", 40)
    coloured("red", 999).save(source / "train" / "red" / "0.png")
    assert "has changed since packing" in refusal(pack, source, tmp_path / "pack", 32)


def test_a_picture_that_goes_while_it_is_packed_is_no_broken_picture(source, tmp_path):
    data = find_data(source)
    (source / "train" / "red" / "7.png").unlink()
    assert "has gone since packing began" in refusal(pack, data, tmp_path / "pack", 32)


def test_a_full_disk_is_one_sentence_and_the_pack_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "MB are free there" in refusal(pack, source, tmp_path / "pack", 32)
    monkeypatch.undo()
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))" + PROGRAM
    words = [sys.executable, "-c", program, str(source), str(tmp_path / "pack")]
    result = subprocess.run(words, capture_output=True, text=True)
    assert "CannotWrite: cannot write" in result.stderr
    assert "then the same command goes on" in result.stderr
