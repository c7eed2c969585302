"""Who am I among the processes? The only file that imports torch.distributed.

A `World` of one process makes the same calls, which then do nothing, so that no other file asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.base.device import choose_device
from alexnet.base.errors import AlexNetError


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

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            self.sum(torch.zeros(1))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes."""
        if self.size == 1:
            return model
        if any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
            if self.device.type != "cuda":
                raise AlexNetError(
                    "batch normalisation over several processes needs a GPU each; train it with one process, or a "
                    "variant without batch normalisation."
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def slice(self, count: int) -> range:
        """This process' share of `count` things: contiguous, sizes differing by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


@contextmanager
def start(device: str = "auto") -> Iterator[World]:
    """The world that torchrun describes in the environment, or a world of one process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, choose_device(device))
        return
    try:
        rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    except KeyError as missing:
        raise AlexNetError(
            f"WORLD_SIZE is {size} but {missing} is not set; start with torchrun, which sets them all."
        ) from None
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise AlexNetError(
                f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                "start as many processes as GPUs, or say --device cpu."
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


def local_processes() -> int:
    """How many processes share this machine's memory and cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that prints, known before the world is started."""
    return os.environ.get("RANK", "0") == "0"
