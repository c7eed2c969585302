"""Packs in place of what was packed: the same batches, training and answers; damage is said and never a crash."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import train
from alexnet.base.metrics import read as read_metrics
from alexnet.cli import run as run_command
from alexnet.data import loader
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures, batches, epoch_order
from alexnet.data.packs.reading import HEADER, checksum, verify
from alexnet.data.packs.writing import pack
from conftest import TINY
from launched import SETS, losses, wait_for_step
from packed import both_packs, contents, refusal, small, world
from together import group


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    small(monkeypatch)


@pytest.fixture(scope="module")
def packs(tmp_path_factory, folders) -> dict[str, Path]:
    return both_packs(tmp_path_factory, folders)


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


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_files_of_another_pack_of_as_many_pictures_are_refused_at_open(packs, tmp_path, encoding):
    files = contents(packs[encoding])
    for name in files:
        if name == HEADER or name[-9:-4].isdigit():  # pictures are too many to be read through at each opening
            continue
        other = bytearray(files[name])
        other[-2] ^= 1  # as long, and still an array or names
        for each, whole in files.items():
            (tmp_path / each).write_bytes(other if each == name else whole)
        assert f"{name} is not that of this pack" in refusal(find_data, tmp_path)
    find_data(packs[encoding])


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
@pytest.mark.parametrize(("allowed", "most"), [(1, 3), (8, 4), (1024, 8)])
def test_no_more_files_are_open_than_the_process_may_have(packs, monkeypatch, memory, allowed, most):
    monkeypatch.setattr("alexnet.data.packs.reading.memory", lambda: memory)
    monkeypatch.setattr("alexnet.data.packs.reading.open_files", lambda: allowed)
    splits = find_data(packs["raw"]).splits
    assert [len(split.store.starts) - 1 for split in splits.values()] == [6, 2]
    for name, split in splits.items():
        expected = np.concatenate([np.load(f) for f in sorted(packs["raw"].glob(f"{name}-0*.npy"))])
        for row in np.random.default_rng(0).permutation(len(split)):
            assert (split.read(int(row)) == expected[row]).all()
    there = [os.readlink(f"/proc/self/fd/{number}") for number in open_numbers()]
    assert sum(str(packs["raw"].resolve()) in name for name in there) <= most


def open_numbers() -> list[int]:
    with os.scandir("/proc/self/fd") as found:
        numbers = [int(one.name) for one in found]
    return [number for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")]


@contextmanager
def no_file_more() -> Iterator[None]:
    """The process may open no further file."""
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, kept)


@pytest.mark.parametrize("kind", ["raw", "jpeg", "folders"])
def test_too_many_open_files_are_not_taken_for_damage(packs, folders, kind):
    split = find_data(packs.get(kind, folders)).split("train")
    pictures = Pictures(split, 32, 3, 1)
    if kind == "jpeg":
        assert split.store._ends.any()
    with no_file_more():
        said = refusal(pictures.get, np.arange(4))
    assert "cannot be opened as too many files are open already" in said
    assert "ulimit -n" in said
    assert len(pictures.get(np.arange(4))[0]) == 4


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
