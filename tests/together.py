"""Several processes that work together in a test: as threads of this one, which is quick, or real ones."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.base.distributed import World

LIMIT = 300  # seconds


@dataclass
class Meeting:
    """Where the threads of one world put what the others need."""

    size: int
    places: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places, self.barrier = [None] * self.size, threading.Barrier(self.size, timeout=LIMIT)

    def all(self, rank: int, mine: Any) -> list[Any]:
        self.places[rank] = mine
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Thread(World):
    """A world whose processes are threads: the same answers without torch.distributed."""

    meeting: Meeting

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack([x.clone() for x in self.meeting.all(self.rank, tensor.clone())]).sum(0))

    def exchange(self, pieces: Tensor, to: list[int], of: list[int]) -> Tensor:
        assert len(pieces) == sum(to)
        sent = self.meeting.all(self.rank, pieces.split(to))
        found = torch.cat([parts[self.rank] for parts in sent])
        assert [len(parts[self.rank]) for parts in sent] == of
        return found

    def gather(self, value: Mapping) -> list[Mapping]:
        return self.meeting.all(self.rank, value)

    def of_first(self, value: Any) -> Any:
        return self.meeting.all(self.rank, value)[0]

    def table(self, row: list[int]) -> list[list[int]]:
        return self.meeting.all(self.rank, row)

    def wrap(self, model: nn.Module) -> nn.Module:
        """As it is: who tests it averages gradients."""
        return model


def threads(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` gives in each of so many worlds, in order of rank."""
    meeting = Meeting(size)

    def call(rank: int) -> Any:
        try:
            return function(Thread(rank, size, torch.device("cpu"), meeting), *arguments)
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        calls = [pool.submit(call, rank) for rank in range(size)]
        errors = [error for one in calls if (error := one.exception())]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [one.result() for one in calls]


def processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` gives in so many processes, as torchrun would start them, in order of rank."""
    port = free_port()
    with ProcessPoolExecutor(size, server()) as pool:
        calls = [pool.submit(_call, rank, size, port, function, arguments) for rank in range(size)]
        return [call.result(LIMIT) for call in calls]


def server() -> Any:
    """Starts processes from one that has loaded torch once for all of them: that takes seconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["alexnet.training.loop", "torch._dynamo"])
    return context


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Command:
    """A command of alexnet in a process of its own, with methods as a Popen has them; `err` is what it said there."""

    def __init__(self, folder: Path, *words: Any, **environment: str) -> None:
        self.said = Path(mkdtemp(dir=folder)) / "err"
        arguments = ([*map(str, words)], self.said, environment)
        self.process = server().Process(target=_command, args=arguments)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, limit: float = LIMIT) -> int:
        self.process.join(limit)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"it had not ended after {limit} s: {self.err}")
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()

    @property
    def err(self) -> str:
        return self.said.read_text()


def group(size: int, folder: Path, *words: Any, **environment: str) -> list[Command]:
    """The same command in so many processes, as torchrun would start them, in order of rank."""
    port = free_port()
    return [Command(folder, *words, **environment, **ranked(rank, size, port)) for rank in range(size)]


def ranked(rank: int, size: int, port: str) -> dict[str, str]:
    """What torchrun tells a process."""
    one, all_ = str(rank), str(size)
    there = {"RANK": one, "LOCAL_RANK": one, "WORLD_SIZE": all_, "LOCAL_WORLD_SIZE": all_}
    return {**there, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _command(words: list[str], said: Path, environment: dict[str, str]) -> None:
    from alexnet.cli import run

    torch.set_num_threads(1)
    os.environ |= environment
    for number, place in ((1, os.devnull), (2, said)):
        file = os.open(place, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.exit(run(words))


def _call(rank: int, size: int, port: str, function: Callable[..., Any], arguments: tuple) -> Any:
    torch.set_num_threads(1)
    os.environ |= ranked(rank, size, port)
    return function(*arguments)
