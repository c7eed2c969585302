"""Packs hold what was packed, byte for byte the same however they were made, and say when they are damaged."""

from __future__ import annotations

import hashlib
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

from alexnet import train
from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError, Interrupted
from alexnet.base.metrics import read as read_metrics
from alexnet.cli import run as run_command
from alexnet.data import loader
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures, batches, epoch_order, statistics
from alexnet.data.packs import job, shards, writing
from alexnet.data.packs.reading import HEADER, STATE, checksum, verify
from alexnet.data.packs.writing import pack
from alexnet.data.statistics import Sums
from conftest import TINY, coloured, write_folders
from test_processes import SETS, losses, wait_for_step
from together import group


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files of 8 pictures of 32 x 32, in place of thousands."""
    monkeypatch.setattr(job, "SHARD", {"raw": 8 * 32 * 32 * 3, "jpeg": 8 * 32 * 32 * 3})
    monkeypatch.setattr(writing, "CHUNK", 3 * 32 * 32 * 3)
    monkeypatch.setattr(writing, "LEAST", 3)


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
    """The coloured pictures of conftest in both encodings, 32 x 32, in several files each."""
    root = tmp_path_factory.mktemp("packs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SHARD", {"raw": 8 * 32 * 32 * 3, "jpeg": 16 * 32 * 32 * 3})
        for encoding in ("raw", "jpeg"):
            pack(folders, root / encoding, 32, encoding)
    return {encoding: root / encoding for encoding in ("raw", "jpeg")}


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


def test_a_pack_is_read_with_numpy_alone(folders, packs):
    root = packs["raw"]
    files = sorted(root.glob("train-0*.npy"))
    assert len(files) == 6
    pixels, labels = np.concatenate([np.load(f) for f in files]), np.load(root / "train-labels.npy")
    names, header = json.loads((root / "train-names.json").read_text()), json.loads((root / HEADER).read_text())
    assert pixels.shape == (48, 32, 32, 3)
    assert all(name.startswith(header["classes"][label]) for name, label in zip(names, labels, strict=True))
    np.testing.assert_allclose(np.load(root / "mean.npy"), pixels.astype(np.float64).mean(0), rtol=1e-6)
    for entry in header["files"]:
        whole = (root / entry["name"]).read_bytes()
        assert (len(whole), hashlib.sha256(whole).hexdigest()) == (entry["bytes"], entry["sha256"])
    stated = header.pop("sha256")
    assert stated == hashlib.sha256(json.dumps(header, separators=(",", ":")).encode()).hexdigest()


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
    assert "going on: 16 of 63 pictures are packed" in said
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


PROGRAM = """
import sys
from alexnet.data.packs import job, writing
job.SHARD, writing.CHUNK, writing.LEAST = {"raw": 8 * 32 * 32 * 3}, 3 * 32 * 32 * 3, 3
writing.pack(sys.argv[1], sys.argv[2], 32, workers=2)
"""


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


# -- used in place of DATA -----------------------------------------------------------------------------------------


def test_training_from_a_pack_is_training_from_its_source(alexnet, folders, packs, tmp_path):
    sets = [*TINY, "stored=32", "max_steps=4"]
    for name, data in (("folders", folders), ("pack", packs["raw"])):
        train(data, tmp_path / name, "author_2012", sets)
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("folders", "pack"))
    assert [line["loss"] for line in one if "loss" in line] == [line["loss"] for line in two if "loss" in line]
    results = [alexnet("evaluate", tmp_path / "pack", data, "--json") for data in (folders, packs["raw"])]
    facts = [json.loads(out.splitlines()[-1]) for _, out, _ in results]
    assert facts[0]["loss"] == facts[1]["loss"]


@pytest.mark.slow
def test_killed_as_two_processes_and_gone_on_with_as_three_a_run_from_a_pack_is_that_of_one(folders, tmp_path):
    pack(folders, tmp_path / "pack", 36)
    sets = [*SETS, "--set", "stored=36", "--set", "checkpoint_every=2", "--set", "neighbours=4"]
    train(tmp_path / "pack", tmp_path / "alone", sets=sets[1::2])
    two = group(2, tmp_path, "train", tmp_path / "pack", "--out", tmp_path / "killed", *sets)
    wait_for_step(tmp_path / "killed", random.Random(2012).randint(4, 9), two[0])
    for process in two:
        process.kill()
        process.wait()
    before = losses(tmp_path / "killed")
    three = group(3, tmp_path, "train", tmp_path / "pack", "--out", tmp_path / "killed", "--resume")
    assert [process.wait() for process in three] == [0, 0, 0], three[0].err
    alone = losses(tmp_path / "alone")
    assert 0 < len(before) < len(alone) == 14
    assert losses(tmp_path / "killed") == pytest.approx(alone, rel=1e-4)
    assert read_metrics(tmp_path / "killed" / "metrics.jsonl")[-1]["images"] == 15


def test_a_pack_of_another_size_is_resized_and_that_is_said_once(packs, tiny_run):
    from alexnet.inference.evaluation import evaluate

    said: list[str] = []
    result = evaluate(tiny_run, packs["raw"], split="all", say=said.append)
    assert result.images == 63
    pictures = Pictures(find_data(packs["raw"]).split("train"), 20, 3, 1)
    assert pictures.notes() == ["the pack's pictures of 32 x 32 are resized to 20 as they are read"]
    expected = Image.fromarray(pictures.split.read(5)).resize((20, 20), Image.Resampling.BILINEAR)
    assert (pictures.get(np.array([5]))[0][0].transpose(1, 2, 0) == np.asarray(expected)).all()


@pytest.mark.parametrize("neighbours", [1, 4])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_together_see_each_picture_of_a_pack_once_and_in_order(packs, size, neighbours, monkeypatch):
    monkeypatch.setattr(loader, "WINDOW", 16)
    monkeypatch.setattr("alexnet.data.packs.reading.memory", lambda: size << 30 if size % 2 else 0)  # mapped, and read
    split = find_data(packs["raw"]).split("train")
    positions = epoch_order(1, 2, len(split), neighbours)
    alone = list(batches(Pictures(split, 32, 3, 1), positions, 7, world(), neighbours=neighbours))
    assert sorted(torch.cat([b.labels for b in alone]).tolist()) == sorted(split.labels.tolist())
    expected = np.stack([split.read(int(i)) for i in positions])
    assert (torch.cat([b.pictures for b in alone]).permute(0, 2, 3, 1).numpy() == expected).all()
    parts = [
        list(batches(Pictures(split, 32, 3, 2), positions, 7, world(r, size), 3, None, neighbours)) for r in range(size)
    ]
    for number, whole in enumerate(alone[3:]):  # from the middle of the epoch
        assert torch.equal(torch.cat([part[number].pictures for part in parts]), whole.pictures)
        assert torch.equal(torch.cat([part[number].labels for part in parts]), whole.labels)


def test_neighbours_stay_within_windows_and_come_from_everywhere(monkeypatch):
    monkeypatch.setattr(loader, "WINDOW", 256)
    positions = epoch_order(3, 1, 10_000, 16)
    assert sorted(positions) == list(range(10_000))
    assert (positions == epoch_order(3, 1, 10_000, 16)).all()
    assert (positions != epoch_order(3, 2, 10_000, 16)).any()
    first = np.sort(positions[:256])
    assert len(np.unique(first // 16)) == 16  # whole runs, 16 of them
    assert np.ptp(first) > 5_000
    assert (np.diff(positions[:256]) == 1).mean() < 0.2  # and shuffled within


def test_a_batch_that_is_held_is_never_written_over_and_one_that_is_not_makes_room(packs):
    split = find_data(packs["raw"]).split("train")
    pictures, positions = Pictures(split, 32, 3, 1), epoch_order(0, 0, len(split))
    held = list(batches(pictures, positions, 4, world()))
    assert len({b.pictures.data_ptr() for b in held}) == len(held)
    places = [batch.pictures.data_ptr() for batch in batches(pictures, positions, 4, world())]
    assert len(set(places)) < len(places)
    expected = np.stack([split.read(int(i)) for i in positions])
    assert (torch.cat([b.pictures for b in held]).permute(0, 2, 3, 1).numpy() == expected).all()


# -- what can be wrong ---------------------------------------------------------------------------------------------


def refusal(action, *arguments) -> str:
    with pytest.raises(AlexNetError) as caught:
        action(*arguments)
    return str(caught.value)


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
    assert "GB are free there" in refusal(pack, source, tmp_path / "pack", 32)
    monkeypatch.undo()
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))" + PROGRAM
    words = [sys.executable, "-c", program, str(source), str(tmp_path / "pack")]
    result = subprocess.run(words, capture_output=True, text=True)
    assert "CannotWrite: cannot write" in result.stderr
    assert "then the same command goes on" in result.stderr


@pytest.fixture
def copy(packs, tmp_path) -> Path:
    for name, text in contents(packs["raw"]).items():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(text)
    return tmp_path / "copy"


def test_files_that_are_short_missing_or_from_the_future_are_refused_at_open(copy):
    file, header = copy / "train-00002.npy", json.loads((copy / HEADER).read_text())
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "train-00002.npy has 24,703 bytes, its pack says 24,704" in refusal(find_data, copy)
    file.unlink()
    assert "train-00002.npy is missing from the pack" in refusal(find_data, copy)
    file.write_bytes(whole)
    find_data(copy)
    (copy / HEADER).write_text(json.dumps(header).replace('"blue"', '"blau"'))
    assert "pack.json is damaged" in refusal(find_data, copy)
    (copy / HEADER).write_text(json.dumps({**header, "version": 2}))
    assert "was made by a newer version (format 2, this one reads 1)" in refusal(find_data, copy)
    (copy / HEADER).write_text(json.dumps(header)[:-40])
    assert "pack.json is damaged" in refusal(find_data, copy)
    del header["sha256"], header["splits"]
    (copy / HEADER).write_text(json.dumps({**header, "sha256": checksum(header)}))
    assert "does not fit together" in refusal(find_data, copy)


@pytest.mark.parametrize("place", [20, 70, 128, 5000, -1])
def test_a_changed_byte_anywhere_is_found(copy, place):
    assert [fault for _, fault in verify(copy) if fault] == []
    whole = bytearray((copy / "train-00001.npy").read_bytes())
    whole[place] ^= 1
    (copy / "train-00001.npy").write_bytes(whole)
    faults = [fault for _, fault in verify(copy) if fault]
    assert [fault["file"] for fault in faults] == ["train-00001.npy"]
    if 0 <= place < 128:
        assert "train-00001.npy is damaged" in refusal(
            Pictures(find_data(copy).split("train"), 32, 3, 1).get, np.arange(16)
        )


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_pictures_are_the_same_mapped_and_read(packs, monkeypatch, memory):
    monkeypatch.setattr("alexnet.data.packs.reading.memory", lambda: memory)
    split = find_data(packs["raw"]).split("train")
    rows = np.array([47, 0, 8, 9, 7, 30])
    expected = np.concatenate([np.load(f) for f in sorted(packs["raw"].glob("train-0*.npy"))])[rows]
    assert (Pictures(split, 32, 3, 2).get(rows)[0].transpose(0, 2, 3, 1) == expected).all()
    assert (split.store._open(0).map is not None) == (memory > 0)


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_a_file_cut_short_while_it_is_read_is_an_error_and_not_a_crash(copy, monkeypatch, memory):
    monkeypatch.setattr("alexnet.data.packs.reading.memory", lambda: memory)
    pictures = Pictures(find_data(copy).split("train"), 32, 3, 1)
    pictures.get(np.array([8]))
    os.truncate(copy / "train-00001.npy", 10_000)
    assert "cut short while it was read" in refusal(pictures.get, np.array([15]))


def test_a_damaged_jpeg_in_a_pack_is_no_broken_picture(packs, tmp_path):
    for name, text in contents(packs["jpeg"]).items():
        (tmp_path / name).write_bytes(text)
    whole = bytearray((tmp_path / "train-00001.npy").read_bytes())
    whole[128:140] = b"x" * 12
    (tmp_path / "train-00001.npy").write_bytes(whole)
    assert "train-00001.npy is damaged" in refusal(
        Pictures(find_data(tmp_path).split("train"), 32, 3, 1).get, np.array([16])
    )


def test_where_torchvision_cannot_decode_pillow_does_with_the_same_pixels(packs, monkeypatch):
    split, rows = find_data(packs["jpeg"]).split("train"), np.arange(48)
    expected = Pictures(split, 32, 3, 2).get(rows)[0]

    def decode_jpeg(*_):
        raise RuntimeError("decode_jpeg: torchvision not compiled with libJPEG support")

    monkeypatch.setattr("torchvision.io.decode_jpeg", decode_jpeg)
    assert (Pictures(split, 32, 3, 2).get(rows)[0] == expected).all()


def test_a_pack_can_be_packed_again(packs, tmp_path):
    pack(packs["raw"], tmp_path / "again", 16)
    assert find_data(tmp_path / "again").split("train").store.side == 16
    assert run_command(["pack", str(packs["raw"]), str(tmp_path / "jpeg"), "--size", "32", "--encoding", "jpeg"]) == 0
    assert contents(tmp_path / "jpeg")["train-labels.npy"] == contents(packs["raw"])["train-labels.npy"]
