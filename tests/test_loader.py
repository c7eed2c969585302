"""Batches: exact order, each picture once at any number of processes, the unreadable named and left out."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexnet.base.distributed import World
from alexnet.data import loader, stream
from alexnet.data.layouts.registry import find_data
from alexnet.data.loader import Batch, Pictures, batches, epoch_order, statistics
from alexnet.data.sources import Sources
from conftest import DEVICE, coloured, write_folders


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
    monkeypatch.setattr(loader, "free_memory", lambda: 0)
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


@pytest.mark.device
def test_batches_on_a_gpu_are_those_of_the_cpu_whether_copied_or_lying_there(faulty):
    positions = epoch_order(0, 0, len(faulty))
    wanted = list(batches(Pictures(faulty, 8, 3, 2), positions, 5, world()))
    pictures = Pictures(faulty, 8, 3, 2)
    for _ in range(2):  # the second time all are decoded, and lie on a GPU
        got = list(batches(pictures, positions, 5, World(0, 1, DEVICE)))
        for one, other in zip(got, wanted, strict=True):
            assert one.pictures.device.type == DEVICE.type
            assert torch.equal(one.pictures.cpu(), other.pictures)
            assert torch.equal(one.labels.cpu(), other.labels)
            assert one.rows.tolist() == other.rows.tolist()


class Card:
    """In the place of a GPU and of torch's streams: notes in which order it is asked for what, by whom."""

    def __init__(self, monkeypatch) -> None:
        self.told: list[tuple] = []
        self.stream, self.events = "work", 0
        work, copies = self.named("work"), self.named("copies")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: work)
        monkeypatch.setattr(torch.cuda, "stream", self.within)
        monkeypatch.setattr(loader, "_copies", lambda device: copies)
        monkeypatch.setattr(loader, "send", self.send)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda x, by: self.told.append((by.name, "holds", int(x.max())))
        )

    def named(self, name: str) -> SimpleNamespace:
        def record_event() -> SimpleNamespace:
            self.events += 1
            at = self.events
            self.told.append((name, "notes", at))
            return SimpleNamespace(at=at, synchronize=lambda: self.told.append(("CPU", "waits", at)))

        waits = lambda event: self.told.append((name, "waits", event.at))  # noqa: E731
        return SimpleNamespace(name=name, record_event=record_event, wait_event=waits)

    @contextmanager
    def within(self, stream):
        before, self.stream = self.stream, stream.name
        yield
        self.stream = before

    def send(self, x, device):
        self.told.append((self.stream, "copies", int(x.max())))
        return x.clone()


def test_batches_are_copied_to_a_gpu_beside_its_work_two_ahead_and_awaited_before_they_are_used(monkeypatch):
    card = Card(monkeypatch)
    given = [Batch(torch.full((2, 3, 4, 4), n), torch.tensor([n, n]), np.arange(2), 2) for n in range(12)]
    for n, batch in enumerate(loader._copied_ahead(iter(given), torch.device("cuda"))):
        card.told.append(("work", "uses", n))
        assert torch.equal(batch.pictures, given[n].pictures)
        assert torch.equal(batch.labels, given[n].labels)
    copied = [("copies", "copies", n) for n in range(12) for _ in "ab"]
    assert [what for what in card.told if what[1] == "copies"] == copied
    for n in range(12):
        used = card.told.index(("work", "uses", n))
        seen = card.told[:used]
        assert sum(what[1] == "copies" for what in seen) == 2 * min(n + 3, 12)
        (_, _, awaited) = seen[-3]
        assert seen[-3:] == [("work", "waits", awaited), *[("work", "holds", n)] * 2]
        noted = seen.index(("copies", "notes", awaited))
        assert seen[noted - 2 : noted] == [("copies", "copies", n)] * 2
    queued = []  # the CPU waits for none of the last steps, so that the GPU always has work
    for at, (who, _, which) in enumerate(card.told):
        if who == "CPU":
            before = card.told[: card.told.index(("work", "notes", which))]
            queued.append(sum(one[1] == "uses" for one in card.told[:at]) - sum(one[1] == "uses" for one in before))
    assert queued == [loader.QUEUED] * (12 - loader.COPIED - loader.QUEUED)
    # What is copied is held until the CPU has waited for its step.
    copies = [sum(one[1] == "copies" for one in card.told[:at]) / 2 for at in range(len(card.told))]
    waited = [sum(one[0] == "CPU" for one in card.told[:at]) for at in range(len(card.told))]
    assert max(made - done for made, done in zip(copies, waited, strict=True)) == loader.HELD


def test_pictures_for_a_gpu_are_decoded_into_pinned_memory(monkeypatch):
    asked, empty = [], torch.empty

    def allocate(*shape, pin_memory=False, **more):
        asked.append(pin_memory)
        return empty(*shape, **more)

    monkeypatch.setattr(torch, "empty", allocate)
    given = [np.full((9, 9, 3), n, np.uint8) for n in range(3)]
    found = [list(stream.named_batches(Sources(given), 8, 3, 2, device=torch.device(kind))) for kind in ("cpu", "cuda")]
    assert asked == [False, False, True, True]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.pixels, other.pixels)
