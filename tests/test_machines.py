"""Machines that are not alike, and those that do not come: one sentence, before any work."""

from __future__ import annotations

import socket
import time
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

from alexnet.base import distributed
from alexnet.base.distributed import World, process_group
from alexnet.base.errors import Agreed, AlexNetError, Lost
from alexnet.training import run
from alexnet.training.recipe import resolve
from alexnet.training.restarts import RunLock
from together import threads

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Beside(World):
    """The first of two processes, the other of which differs from it by some facts."""

    other: tuple[tuple[str, str], ...] = ()

    def gather(self, value):
        return [value, {**value, **dict(self.other), "host": "elsewhere"}]


@pytest.mark.parametrize(
    ("what", "theirs", "then"),
    [
        ("alexnet", "0.0.9", "install the same on every machine"),
        ("torch", "2.11.0", "install the same on every machine"),
        ("device", "cuda", "say --device cpu"),
    ],
)
def test_machines_that_are_not_alike_are_refused_by_what_differs(what, theirs, then):
    distributed._check_alike(Beside(0, 2, CPU))
    with pytest.raises(
        AlexNetError, match=rf"process 1 of 2, on elsewhere, has {what} {theirs}, and the first, on"
    ) as e:
        distributed._check_alike(Beside(0, 2, CPU, ((what, theirs),)))
    assert str(e.value).endswith(f"; {then}.")


def test_machines_that_would_train_in_other_precisions_are_refused(folders, tmp_path, monkeypatch):
    """As a machine with bfloat16 instructions beside one without."""
    own = iter([(torch.float32, "this one"), (torch.bfloat16, "that one")])
    monkeypatch.setattr(run, "choose_precision", lambda *_: next(own))

    def begun(world):
        recipe = resolve("author_2012", ["variant=alexnet32", "batch_size=8"])
        run.prepare(tmp_path / "run", recipe, None, folders, world, lambda _: None, True, RunLock(tmp_path / "run"))

    with pytest.raises(AlexNetError, match=r"has precision (float32|bfloat16), and the first") as e:
        threads(2, begun)
    assert str(e.value).endswith("; say --set precision=float32.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '', which is no number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', which is no number"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x', which is no number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": ""}, "LOCAL_RANK is '', which is no number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE is not set"),
    ],
)
def test_processes_that_were_started_by_hand_are_told_what_is_missing(monkeypatch, facts, said):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(AlexNetError, match=rf"^{said}, and .* start them with torchrun"),
        process_group("cpu", timeout=1),
    ):
        pass


@pytest.mark.parametrize(
    ("visible", "said"),
    [("0", "CUDA_VISIBLE_DEVICES=0 shows it 1; start as many"), (None, "there are 1; start as many")],
)
def test_a_process_without_a_gpu_of_its_own_is_told_why(monkeypatch, visible, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(AlexNetError, match=rf"process 1 of this machine has no GPU of its own: {said}"):
        distributed._own(torch.device("cuda"), 1)


GONE = RuntimeError("NCCL error: remote process exited")


@pytest.mark.parametrize(
    ("device", "error", "waits"),
    [
        ("cuda", None, True), ("cuda", Agreed("all end"), True), ("cuda", GONE, False), ("cuda", MemoryError(), False),
        ("cuda", KeyboardInterrupt(), False), ("cpu", GONE, True),
    ],
    ids=str,
)  # fmt: skip
def test_nobody_waits_on_a_gpu_for_a_process_that_is_gone(device, error, waits, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    waited = []
    monkeypatch.setattr(distributed, "choose_device", torch.device)
    monkeypatch.setattr(distributed, "_own", lambda chosen, local: chosen)
    monkeypatch.setattr(distributed, "_store", lambda *given: None)
    monkeypatch.setattr(distributed, "_check_alike", lambda world: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *given, **more: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: waited.append(1))
    ends = pytest.raises(Lost if error is GONE else type(error)) if error else nullcontext()
    with ends, process_group(device):
        if error:
            raise error
    assert bool(waited) == waits


@pytest.mark.parametrize("rank", [0, 1])
def test_a_meeting_to_which_no_other_comes_ends_after_the_time_limit_with_a_sentence(monkeypatch, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    facts = {
        "WORLD_SIZE": 3,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": 3,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    for name, value in facts.items():
        monkeypatch.setenv(name, str(value))
    began = time.monotonic()
    with (
        pytest.raises(
            AlexNetError, match=r"the 3 processes did not find each other within 1 s \(.*\); start all of them"
        ),
        process_group("cpu", timeout=1),
    ):
        pass
    assert time.monotonic() - began < 20
