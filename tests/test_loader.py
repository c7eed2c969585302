"""Batches: exact order, each picture once at any number of processes, the unreadable named and left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet.base.distributed import World
from alexnet.data import loader
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Pictures, batches, epoch_order, statistics
from conftest import coloured, write_folders


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


BROKEN = ("blue/3.png", "green/4.png", "red/5.png")


@pytest.fixture
def faulty(tmp_path):
    """54 pictures, of which those of BROKEN are."""
    write_folders(tmp_path, 20)
    (tmp_path / "blue" / "3.png").write_bytes(b"")
    (tmp_path / "green" / "4.png").write_text("not a picture")
    whole = (tmp_path / "red" / "5.png").read_bytes()
    (tmp_path / "red" / "5.png").write_bytes(whole[: len(whole) // 2])
    return find_data(tmp_path).split("train")


@pytest.mark.parametrize("neighbours", [1, 7])
def test_the_order_is_a_permutation_that_seed_and_epoch_decide(neighbours):
    one = epoch_order(3, 5, 100, neighbours)
    assert sorted(one) == list(range(100))
    assert (one == epoch_order(3, 5, 100, neighbours)).all()
    assert (one != epoch_order(3, 6, 100, neighbours)).any()
    assert (one != epoch_order(4, 5, 100, neighbours)).any()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_together_see_each_readable_picture_of_a_batch_once(faulty, size):
    alone = list(batches(Pictures(faulty, 8, 3, 1), epoch_order(0, 0, len(faulty)), 8, world()))
    parts = [
        list(batches(Pictures(faulty, 8, 3, 1), epoch_order(0, 0, len(faulty)), 8, world(r, size))) for r in range(size)
    ]
    for number, whole in enumerate(alone):
        mine = [part[number] for part in parts]
        assert [m.size for m in mine] == [whole.size] * size
        assert np.concatenate([m.rows for m in mine]).tolist() == whole.rows.tolist()
        assert torch.equal(torch.cat([m.pictures for m in mine]), whole.pictures)
        assert torch.equal(torch.cat([m.labels for m in mine]), whole.labels)
    assert sum(len(b.labels) for b in alone) == 54 - sum(faulty.name(i) in BROKEN for i in range(54))


def test_unreadable_pictures_are_named_with_their_fault(tmp_path, faulty):
    pictures = Pictures(faulty, 8, 3, 2)
    pictures.get(np.arange(len(faulty)))
    faults = {one["file"]: one["error"] for one in pictures.failures(world())}
    known = {"blue/3.png": "empty, 0 bytes", "green/4.png": "not a picture", "red/5.png": "broken picture"}
    assert faults
    for name, fault in faults.items():
        assert fault.startswith(known[name])


def test_batches_can_start_and_end_anywhere(faulty):
    pictures = Pictures(faulty, 8, 3, 2)
    positions = epoch_order(0, 0, len(faulty))
    whole = list(batches(pictures, positions, 8, world()))
    some = list(batches(pictures, positions, 8, world(), 2, 5))
    assert len(some) == 3
    assert all(torch.equal(a.pictures, b.pictures) for a, b in zip(some, whole[2:5], strict=True))


def test_pictures_kept_in_memory_and_pictures_decoded_anew_are_the_same(faulty, monkeypatch):
    kept = Pictures(faulty, 8, 3, 2)
    assert kept.kept is not None
    monkeypatch.setattr(loader, "_free_memory", lambda: 0)
    anew = Pictures(faulty, 8, 3, 2)
    assert anew.kept is None
    rows = np.array([5, 1, 40, 7, 5, 20])
    for _ in range(2):
        for a, b in zip(kept.get(rows), anew.get(rows), strict=True):
            assert (a == b).all()


def test_labels_stand_beside_their_pictures(folders):
    split = find_data(folders).split("train")
    colours = {"blue": 2, "green": 1, "red": 0}
    for batch in batches(Pictures(split, 8, 3, 1), epoch_order(1, 0, len(split)), 16, world()):
        strongest = batch.pictures.float().mean((2, 3)).argmax(1)
        expected = [colours[find_data(folders).classes[label]] for label in batch.labels.tolist()]
        assert strongest.tolist() == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_colour_axes_are_those_of_numpy_in_float64(folders, channels):
    split = find_data(folders).split("train")
    pictures = Pictures(split, 16, channels, 2)
    got = statistics(pictures, world())
    pixels = pictures.get(np.arange(len(split)))[0].astype(np.float64)
    np.testing.assert_allclose(got.mean.numpy(), pixels.mean(0), rtol=1e-6)
    flat = pixels.transpose(0, 2, 3, 1).reshape(-1, channels)
    covariance = np.atleast_2d(np.cov(flat.T, bias=True))
    axes, std = got.colour_axes.double().numpy(), got.colour_std.double().numpy()
    np.testing.assert_allclose((axes.T * std**2) @ axes, covariance, rtol=1e-4, atol=1e-3)
    assert (np.diff(std) <= 0).all()


def test_statistics_do_not_depend_on_the_number_of_processes(folders, monkeypatch):
    split = find_data(folders).split("train")
    alone = statistics(Pictures(split, 16, 3, 1), world())
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(World, "sum", lambda self, tensor: sums.append(tensor.clone()) or tensor)
    for rank in range(3):
        statistics(Pictures(split, 16, 3, 1), world(rank, 3))
    total = sum(sums)
    monkeypatch.setattr(World, "sum", lambda self, tensor: tensor.copy_(total))
    shared = statistics(Pictures(split, 16, 3, 1), world(1, 3))
    for name in ("mean", "colour_std", "colour_axes"):
        assert torch.equal(getattr(alone, name), getattr(shared, name)), name


def test_a_large_picture_is_stored_at_its_size(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(2):
            coloured("red", n, (300, 500)).save(tmp_path / name / f"{n}.jpg")
    pixels, readable = Pictures(find_data(tmp_path).split("train"), 256, 3, 1).get(np.array([0]))
    assert pixels.shape == (1, 3, 256, 256)
    assert readable.all()


def test_memory_of_a_batch_is_used_again_once_nobody_holds_any_part_of_it():
    memory = loader._Memory((4, 4, 3), torch.uint8, pinned=False)
    one = memory.take(8)
    at, view = one.data_ptr(), one.permute(0, 3, 1, 2)[2:]
    del one
    held = [memory.take(8) for _ in range(3)]
    assert at not in {other.data_ptr() for other in held}
    del view
    assert memory.take(5).data_ptr() == at
    assert memory.take(8).data_ptr() == at
    assert memory.take(9).shape == (9, 4, 4, 3)
