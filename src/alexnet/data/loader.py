"""Batches of one split: decoded by threads, kept in memory where they fit, sliced over the processes.

The order of pictures is a function of (seed, epoch) alone; a batch is the next `batch_size` positions of it, less the
pictures that cannot be read. So neither the number of processes nor a restart changes which pictures a step sees.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.data.layouts import Split
from alexnet.data.pictures import Unreadable, decode, stored
from alexnet.distributed import World, local_processes
from alexnet.errors import AlexNetError

MEMORY_SHARE = 0.4  # of the machine's free memory, for decoded pictures
STATISTICS_LIMIT = 100_000  # pictures from which the mean and the colour axes are computed
AHEAD = 3  # batches that are made while the device works


@dataclass(frozen=True)
class Batch:
    """This process' part of a batch: uint8 (n, C, S, S), labels (n,), and which rows of the batch they are."""

    pictures: Tensor
    labels: Tensor
    rows: np.ndarray  # positions within the batch, int64 (n,)
    size: int  # positions in the whole batch, over all processes, unreadable ones included


class Pictures:
    """A split at one size, as uint8 arrays, with the pictures that could not be read in `failed` by index."""

    def __init__(self, split: Split, size: int, channels: int, workers: int = 0) -> None:
        self.split, self.size, self.channels = split, size, channels
        self.workers = workers or max(1, (os.cpu_count() or 1) // local_processes())
        self.failed: dict[int, str] = {}
        shape = (len(split), channels, size, size)
        fits = int(np.prod(shape, dtype=np.int64)) * local_processes() <= MEMORY_SHARE * _free_memory()
        self.kept = np.empty(shape, np.uint8) if fits else None
        self._have = np.zeros(len(split), bool)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.split)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def get(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 (n, C, S, S) of those pictures, less the unreadable, and a mask of which were readable."""
        out = self.kept if self.kept is not None else np.empty((len(indices), *self._shape), np.uint8)
        target = indices if self.kept is not None else np.arange(len(indices))
        missing = np.flatnonzero(~self._have[indices]) if self.kept is not None else np.arange(len(indices))
        # A few chunks a thread: a task a picture would cost more than a small picture's decoding.
        chunks = np.array_split(missing, min(len(missing), 4 * self.workers)) if len(missing) else []
        list(self._pool.map(lambda chunk: self._decode(indices[chunk], out, target[chunk]), chunks))
        readable = np.array([int(i) not in self.failed for i in indices], bool)
        return out[target[readable]], readable

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def _decode(self, indices: np.ndarray, out: np.ndarray, target: np.ndarray) -> None:
        for index, row in zip(indices.tolist(), target.tolist(), strict=True):
            if index in self.failed:
                continue
            try:
                out[row] = stored(decode(self.split.read(index), self.channels), self.size)
            except Unreadable as error:
                self.failed[index] = str(error)
            if self.kept is not None:
                self._have[index] = True

    def failures(self, world: World) -> list[dict[str, str]]:
        """Name and fault of every unreadable picture that any process has met, in order."""
        merged: dict[int, str] = {}
        for part in world.gather(dict(self.failed)):
            merged.update(part)
        return [{"file": self.split.name(i), "error": merged[i]} for i in sorted(merged)]


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch's pictures: a permutation that is a function of (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(count)


def batches(
    pictures: Pictures,
    positions: np.ndarray,
    batch_size: int,
    world: World,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Batch]:
    """The batches of `positions` with numbers start … end - 1, this process' slice of each, made ahead in a thread."""
    pinned = world.device.type == "cuda"

    def make(number: int) -> Batch:
        whole = positions[number * batch_size : (number + 1) * batch_size]
        mine = np.array(world.slice(len(whole)), np.int64)
        pixels, readable = pictures.get(whole[mine])
        images = torch.from_numpy(pixels)
        labels = torch.from_numpy(pictures.split.labels[whole[mine][readable]])
        if pinned:
            images, labels = images.pin_memory(), labels.pin_memory()
        return Batch(images, labels, mine[readable], len(whole))

    total = min(steps(len(positions), batch_size), steps(len(positions), batch_size) if end is None else end)
    with ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
        waiting = deque(pool.submit(make, n) for n in range(start, min(start + AHEAD, total)))
        try:
            for number in range(start, total):
                batch = waiting.popleft().result()
                if number + AHEAD < total:
                    waiting.append(pool.submit(make, number + AHEAD))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def steps(count: int, batch_size: int) -> int:
    """Batches in a pass over `count` pictures; the last may be smaller."""
    return -(-count // batch_size)


@dataclass(frozen=True)
class Statistics:
    """Of the training pictures, in grey levels: mean image float32 (C, S, S), and along the colours' principal axes
    the standard deviations (C,), largest first, and the axes themselves, one a row (C, C). Spec 5.2, 5.4."""

    mean: Tensor
    colour_std: Tensor
    colour_axes: Tensor


def statistics(pictures: Pictures, world: World, update=lambda n: None) -> Statistics:
    """Mean image and colour axes from at most 100,000 pictures, evenly spread; sums are integers, so exact.

    `update` is told how many pictures (over all processes) each step took.
    """
    count, side, channels = len(pictures), pictures.size, pictures.channels
    chosen = np.linspace(0, count - 1, min(count, STATISTICS_LIMIT)).round().astype(np.int64)
    total = np.zeros((channels, side, side), np.int64)
    products, colours = np.zeros((channels, channels), np.int64), np.zeros(channels, np.int64)
    seen = values = 0
    stride = max(1, side // 64)
    positions, chunk = world.slice(len(chosen)), 256
    for first in range(positions.start, positions.stop, chunk):
        pixels, _ = pictures.get(chosen[first : min(first + chunk, positions.stop)])
        # 64 x 64 pixels a picture tell its colours; float64 holds the sums, below 2^53, exactly.
        flat = pixels[:, :, ::stride, ::stride].transpose(1, 0, 2, 3).reshape(channels, -1).astype(np.float64)
        products += (flat @ flat.T).astype(np.int64)
        colours += flat.sum(1).astype(np.int64)
        values += flat.shape[1]
        total += pixels.sum(0, dtype=np.uint32)
        seen += len(pixels)
        update(min(chunk, positions.stop - first) * world.size)
    parts = (total, products, colours, np.array([seen, values]))
    sums = world.sum(torch.from_numpy(np.concatenate([part.ravel() for part in parts]))).numpy()
    split = np.split(sums.astype(np.float64), np.cumsum([part.size for part in parts])[:-1])
    total_sum, product_sum, colour_sum, (pictures_seen, values_seen) = split
    if not pictures_seen:
        raise AlexNetError(f"none of the {len(chosen):,} pictures to train on can be read; check them.")
    mean = total_sum.reshape(total.shape) / pictures_seen
    colour = colour_sum / values_seen
    covariance = product_sum.reshape(products.shape) / values_seen - np.outer(colour, colour)
    variances, axes = np.linalg.eigh(covariance)
    return Statistics(
        torch.from_numpy(mean.astype(np.float32)),
        torch.from_numpy(np.sqrt(variances[::-1].clip(0)).astype(np.float32)),
        torch.from_numpy(np.ascontiguousarray(axes.T[::-1]).astype(np.float32)),
    )


def _free_memory() -> int:
    """Bytes of memory that are free now; where the system does not say, 4 GiB."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
