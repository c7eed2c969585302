"""Who am I among the processes? The only file that imports torch.distributed.

A `World` of one process makes the same calls, which then do nothing, so that no other file asks.
"""

from __future__ import annotations

import copy
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from platform import node
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.base.device import choose_device
from alexnet.base.errors import Agreed, AlexNetError, Interrupted, Lost, first_line
from alexnet.base.version import __version__

TIMEOUT = 600.0  # seconds that a process waits for another


class _Warmed(nn.Module):
    """A model which, called with None for input, passes once through its parameters.

    DDP forms the buckets that it sums anew after the first pass, in the order of that one. A run that goes on would
    sum its first step in another order than a run left alone, and three numbers' sum depends on the order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Any, *more: Any) -> Any:
        if images is not None:
            return self.model(images, *more)
        return torch.stack([(one * 0).sum() for one in self.parameters() if one.requires_grad]).sum()


@dataclass(frozen=True)
class World:
    """This process' number, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes, in place; a CPU tensor goes by gloo and never waits for a GPU."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Mapping) -> list[Mapping]:
        """Every process' mapping, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Mapping] = [{}] * self.size
        dist.all_gather_object(values, value)
        return values

    def exchange(self, pieces: Tensor, to: list[int], of: list[int]) -> Tensor:
        """What the others have for this process for what it has for them, flat and in order of rank: `to` and `of`
        are the numbers that it sends each and gets from each, itself included."""
        if self.size == 1:
            return pieces
        found = pieces.new_empty(sum(of))
        dist.all_to_all_single(found, pieces, of, to)
        return found

    def collect(self, value: Any) -> list[Any]:
        """Every process' value, in order of rank, on the first; nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, values)
        return values or []

    def of_first(self, value: Any) -> Any:
        """The first process' value, on all."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def table(self, row: list[int]) -> list[list[int]]:
        """Every process' row of whole numbers, in order of rank."""
        if self.size == 1:
            return [row]
        rows = [torch.zeros(len(row), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(rows, torch.tensor(row, dtype=torch.int64))
        return [one.tolist() for one in rows]

    def agree(self, error: AlexNetError | None) -> None:
        """Raise the error in every process where one of them has met it; all call this at the same place."""
        if self.size == 1 and error is not None:
            raise error
        if not any(met for (met,) in self.table([error is not None])):
            return
        mine = {"error": str(error), "status": getattr(error, "status", 0), "host": node()} if error else {}
        rank, first = next((rank, one) for rank, one in enumerate(self.gather(mine)) if one)
        where = f"process {rank} of {self.size}, on {first['host']}: " if rank else ""
        if first["status"]:
            raise Interrupted(where + first["error"], first["status"])
        raise Agreed(where + first["error"])

    def check_alike(self, then: str, **mine: str) -> None:
        """Refuse processes that differ in one of `mine`, and so would not compute the same; `then`: what to do."""
        if self.size == 1:
            return
        rows = self.gather(mine | {"host": node()})
        for rank, row in enumerate(rows):
            for what in mine:
                if row[what] != rows[0][what]:
                    raise Agreed(
                        f"process {rank} of {self.size}, on {row['host']}, has {what} {row[what]}, and the first, on "
                        f"{rows[0]['host']}, {rows[0][what]}; {then}."
                    )

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error within the block ends all processes alike; the block must not talk to them."""
        try:
            yield
        except AlexNetError as error:
            if self.size == 1:
                raise
            self.agree(error)
        else:
            self.agree(None)

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            self.sum(torch.zeros(1))

    def normalised(self, model: nn.Module) -> nn.Module:
        """The model, whose batch normalisation, if it has any, is over all processes' pictures.

        Then it is another one of the same weights and statistics, so that what is saved keeps the layers of its plan.
        """
        if self.size == 1 or not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
            return model
        if self.device.type != "cuda":
            raise AlexNetError(
                "batch normalisation over several processes needs a GPU each; train it with one process, or a "
                "variant without batch normalisation."
            )
        shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
        return nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model, shared))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        net = nn.parallel.DistributedDataParallel(_Warmed(model), device_ids=ids, gradient_as_bucket_view=True)
        # Buffers stay alike by themselves: LRN's bands are constants, and SyncBatchNorm's statistics are everyone's.
        # Said so, and not by an argument, as torch is giving that another name.
        net.broadcast_buffers = False
        net(None).backward()
        model.zero_grad()
        return net

    def slice(self, count: int) -> range:
        """This process' share of `count` things: contiguous, sizes differing by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


def alone(device: torch.device | None = None) -> World:
    """A world of one process, whatever the environment says."""
    return World(0, 1, device or torch.device("cpu"))


@contextmanager
def process_group(device: str | torch.device = "auto", timeout: float = TIMEOUT) -> Iterator[World]:
    """The world that torchrun describes in the environment, or a world of one process.

    Who waits for another process for more than `timeout` seconds, or finds it gone, ends with a sentence.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield World(0, 1, choose_device(device))
        return
    rank, local, _ = (_number(name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    chosen = _own(choose_device(device), local)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    try:
        store = _store(rank, size, timeout)
        limit = timedelta(seconds=timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise AlexNetError(
            f"the {size} processes did not find each other within {timeout:g} s ({first_line(error)}); start all of "
            "them, and see to it that MASTER_ADDR and MASTER_PORT lead to the first from every machine."
        ) from None
    together = False  # whether the others end here, too
    try:
        world = World(rank, size, chosen)
        _check_alike(world)
        yield world
        together = True
    except Agreed:
        together = True
        raise
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        silent = "imed out" in str(error)
        what = f"has not answered for {timeout:g} s" if silent else "has ended"
        raise Lost(
            f"another of the {size} processes {what}; what was saved is whole: start all of them again to go on."
        ) from None
    finally:
        # NCCL's destroy waits for sums that are under way, and so for another process that is gone, until its watchdog
        # aborts this one, which then has said nothing. Left alone the group is aborted when the program ends
        # (ProcessGroupNCCL.cpp: shutdown and the destructor). By reading: no machine with two GPUs was there to try.
        if together or backend == "gloo":
            dist.destroy_process_group()


def _number(name: str, alone: int | None = None) -> int:
    """A whole number that torchrun sets in the environment; `alone` where it is not set and need not be."""
    given = os.environ.get(name)
    if given is None and alone is not None:
        return alone
    if given is None or not given.isdecimal():
        what = "is not set" if given is None else f"is '{given}', which is no number"
        raise AlexNetError(
            f"{name} {what}, and processes that train together need WORLD_SIZE, RANK, LOCAL_RANK and "
            "LOCAL_WORLD_SIZE in their environment; start them with torchrun, which sets them all."
        )
    return int(given)


def _check_alike(world: World) -> None:
    """Refuse another alexnet or torch, or a GPU on one machine alone."""
    version = torch.__version__.partition("+")[0]
    world.check_alike("install the same on every machine", alexnet=__version__, torch=version)
    world.check_alike("say --device cpu", device=world.device.type)


def _own(device: torch.device, local: int) -> torch.device:
    """The device of this machine's process of that number: each has a GPU of its own."""
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise AlexNetError(
            f"--device {device} names one GPU, and each of several processes takes its own; say --device cuda, and in "
            "CUDA_VISIBLE_DEVICES which GPUs are meant."
        )
    if local >= torch.cuda.device_count():
        if seen := os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise AlexNetError(
                f"process {local} of this machine has no GPU of its own: CUDA_VISIBLE_DEVICES={seen} shows it "
                f"{torch.cuda.device_count()}; start as many processes as it shows, or where a scheduler has bound a "
                "GPU to each process, let it show all to all (Slurm: --gpus-per-node, not --gpus-per-task)."
            )
        raise AlexNetError(
            f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
            "start as many processes as GPUs, or say --device cpu."
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _store(rank: int, size: int, timeout: float) -> dist.Store:
    """Where the processes of this start find each other.

    torchrun keeps one store over its restarts, and with it the addresses of processes that are gone. So the first
    process names this start, and tells its name to each process that it sees, by what that one calls itself.
    """
    store, *_ = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout)))
    me, until = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"alexnet/here/{rank}", me)
    if rank:
        start = store.get(f"alexnet/start of/{me}").decode()
        store.set(f"alexnet/{start}/{rank}", "")
        return dist.PrefixStore(start, store)
    missing, told = set(range(1, size)), set[bytes]()
    while missing:
        for other in sorted(missing):
            here = f"alexnet/here/{other}"
            if store.check([here]) and (name := store.get(here)) not in told:
                store.set(f"alexnet/start of/{name.decode()}", me)
                told.add(name)
        missing -= {other for other in missing if store.check([f"alexnet/{me}/{other}"])}
        if missing and time.monotonic() > until:
            raise RuntimeError(f"{size - len(missing)} of {size} came")
        time.sleep(0.01)
    return dist.PrefixStore(me, store)


# What torch's errors say where another process is gone or stuck.
LOST = ("Connection closed", "Connection reset", "Broken pipe", "imed out", "gloo", "NCCL")


def job() -> str:
    """What tells the job of torchrun that this process belongs to from others, after restarts too; "" without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return name if name != "none" else f"none on {node()}, {os.getppid()}"  # where the user has given no --rdzv-id


def started_again(recorded: str) -> bool:
    """Whether torchrun has started that job's processes again, because one had ended or a machine came or went."""
    if os.environ.get("TORCHELASTIC_RUN_ID") == "none" and not restarts():
        return False  # another process of the same number
    return bool(recorded) and recorded == job()


def restarts() -> int:
    """How often torchrun has started this job's processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def local_processes() -> int:
    """How many processes share this machine's memory and cores."""
    return _number("LOCAL_WORLD_SIZE", 1)
