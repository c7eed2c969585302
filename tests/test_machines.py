"""Machines that are not alike, and those that do not come: one sentence, before any work."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import pytest
import torch

from alexnet.base import distributed
from alexnet.base.distributed import World, process_group
from alexnet.base.errors import AlexNetError

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


@pytest.mark.parametrize("rank", [0, 1])
def test_a_meeting_to_which_no_other_comes_ends_after_the_time_limit_with_a_sentence(monkeypatch, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    facts = {"WORLD_SIZE": 3, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
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
