"""Batches of one split: decoded by threads, kept in memory where they fit, sliced over the processes.

The order of pictures is a function of (seed, epoch) alone; a batch is the next `batch_size` positions of it, less the
pictures that cannot be read. So neither the number of processes nor a restart changes which pictures a step sees.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.base.device import send
from alexnet.base.distributed import World, local_processes
from alexnet.base.errors import AlexNetError
from alexnet.base.limits import free_memory, memory
from alexnet.base.text import counted
from alexnet.data.layouts.registry import Split
from alexnet.data.pictures import CROP, Square, fill_squares
from alexnet.data.statistics import Known, Sums

MEMORY_SHARE = 0.4  # of the machine's free memory, for decoded pictures
DEVICE_SHARE = 0.4  # of a GPU's free memory, for pictures that stay there
STATISTICS_LIMIT = 100_000  # pictures from which the mean and the colour axes are computed
AHEAD = 3  # batches that are made while the device works
COPIED = 2  # batches that are on their way to a GPU, or there, while it works on another
QUEUED = 3  # steps that a GPU is given before it has made the first of them: each holds a batch there
HELD = COPIED + QUEUED + 1  # batches on a GPU at most: a step more is given before the first is waited for
WINDOW = 4096  # pictures among which those read together are shuffled


@dataclass(frozen=True)
class Batch:
    """This process' part of a batch: uint8 (n, C, S, S), labels (n,), and which rows of the batch they are."""

    pictures: Tensor
    labels: Tensor
    rows: np.ndarray  # positions within the batch, int64 (n,)
    size: int  # positions in the whole batch, over all processes, unreadable ones included


class Pictures:
    """A split at one size, as uint8 arrays, with the pictures that could not be read in `failed` by index.

    A pack of that size is read as it is. Anything else is decoded by threads, and kept for the next epoch where it fits
    into memory, unless `keep` is false.
    """

    dtype = torch.uint8
    kept: np.ndarray | None = None
    beside = 0.0  # bytes of a GPU that its pictures leave free, for what works on them
    _resident: Tensor | None = None

    def __init__(
        self, split: Split, size: int, channels: int, workers: int = 0, square: Square = CROP, keep: bool = True
    ) -> None:
        self.split, self.size, self.channels, self.square = split, size, channels, square
        self.workers = workers or max(1, (os.cpu_count() or 1) // local_processes())
        self.failed: dict[int, str] = {}
        self.store = split.store if split.store and (split.store.side, 3) == (size, channels) else None
        shape = (len(split), *self.shape)
        fits = fits_in_memory(int(np.prod(shape, dtype=np.int64)))
        as_it_is = self.store is not None and self.store.encoding == "raw"
        self.kept = np.empty(shape, np.uint8) if keep and fits and not as_it_is else None
        self._have = np.zeros(len(split), bool)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.split)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture, colours last."""
        return self.size, self.size, self.channels

    def notes(self, neighbours: int = 1) -> list[str]:
        """What a user should know of how a pack is read here, in words."""
        there = self.split.store
        if there is None:
            return []
        other = there.square != self.square.how
        notes = [
            f"the pack's pictures became squares by {there.square}, the network's do by {self.square.how}: on whole "
            "pictures its errors may be others"
        ] * other
        if self.store is None:
            return [
                *notes,
                f"the pack's pictures of {there.side} x {there.side} are resized to {self.size} as they are read",
            ]
        if neighbours > 1 or there.encoding != "raw" or there.decoded_bytes <= memory():
            return notes
        return [
            *notes,
            f"the pack's {there.decoded_bytes / 1e9:,.0f} GB do not fit into memory, so each picture is read from the "
            "disk by itself; where that is slow, --set neighbours=16 reads sixteen together",
        ]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def get(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 (n, C, S, S) of those pictures, less the unreadable, and a mask of which were readable."""
        out = np.empty((len(indices), *self.shape), np.uint8)
        readable = self.fill(indices, out)
        return (out if readable.all() else out[readable]).transpose(0, 3, 1, 2), readable

    def fill(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Put those pictures into `out`, uint8 (n, S, S, C); a mask of which were readable, the others being left."""
        if self.kept is None:
            self._share(indices, out, np.arange(len(indices)))
        else:
            missing = indices[~self._have[indices]]
            self._share(missing, self.kept, missing)
            self._have[missing] = True
            np.take(self.kept, indices, axis=0, out=out, mode="clip")
        return np.array([int(i) not in self.failed for i in indices], bool)

    @property
    def sent(self) -> int:
        """Bytes of a picture as it is sent to a GPU; 0 where all of them lie there."""
        return 0 if self._resident is not None else int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def there(self) -> int:
        """Bytes of the pictures that lie on a GPU."""
        return 0 if self._resident is None else self._resident.nbytes

    def resident(self, device: torch.device) -> Tensor | None:
        """All pictures on a GPU, uint8 (count, S, S, C), once they are in memory and where they fit there, too."""
        if self._resident is not None:
            return self._resident
        raw = self.store is not None and self.store.encoding == "raw"
        if device.type != "cuda" or not (raw or (self.kept is not None and self._have.all())):
            return None
        shape = (len(self), *self.shape)
        free = torch.cuda.mem_get_info(device)[0]
        if int(np.prod(shape, dtype=np.int64)) > min(DEVICE_SHARE * free, free - self.beside):
            return None
        everything = torch.empty(shape, dtype=torch.uint8, device=device)
        for first in range(0, len(self), WINDOW):
            part = np.arange(first, min(first + WINDOW, len(self)))
            pixels = np.empty((len(part), *self.shape), np.uint8)
            self.fill(part, pixels)
            everything[first : first + len(part)] = torch.from_numpy(pixels)
        self._resident = everything
        return everything

    def _share(self, indices: np.ndarray, out: np.ndarray, target: np.ndarray) -> None:
        """Give the threads a few chunks each: a task a picture would cost more than a small picture's decoding."""
        make = self._decode if self.store is None else self.store.fill
        chunks = np.array_split(np.arange(len(indices)), min(len(indices), 4 * self.workers)) if len(indices) else []
        list(self._pool.map(lambda chunk: make(indices[chunk], out, target[chunk]), chunks))

    def _decode(self, indices: np.ndarray, out: np.ndarray, target: np.ndarray) -> None:
        if self.failed:  # an epoch ago
            new = np.array([index not in self.failed for index in indices.tolist()], bool)
            indices, target = indices[new], target[new]
        self.failed.update(fill_squares(self.split.read, indices, out, target, self.square))

    def failures(self, world: World) -> list[dict[str, str]]:
        """Name and fault of every unreadable picture that any process has met, in order."""
        merged: dict[int, str] = {}
        for part in world.gather(dict(self.failed)):
            merged.update(part)
        return [{"file": self.split.name(i), "error": merged[i]} for i in sorted(merged)]


def epoch_order(seed: int, epoch: int, count: int, neighbours: int = 1) -> np.ndarray:
    """The order of an epoch's pictures: a permutation that is a function of the arguments alone.

    With `neighbours` above 1, runs of so many pictures are shuffled, then the pictures within windows of WINDOW: each
    part of the disk is then read once, in one go, and a window has pictures from everywhere.
    """
    source = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    if neighbours <= 1:
        return source.permutation(count)
    runs = source.permutation(-(-count // neighbours))
    positions = (runs[:, None] * neighbours + np.arange(neighbours)).ravel()
    positions = positions[positions < count]
    for first in range(0, count, WINDOW):
        source.shuffle(positions[first : first + WINDOW])
    return positions


def batches(
    pictures: Pictures,
    positions: np.ndarray,
    batch_size: int,
    world: World,
    start: int = 0,
    end: int | None = None,
    neighbours: int = 1,
) -> Iterator[Batch]:
    """Batches number start to end - 1 of `positions`, made ahead in a thread; of each this process' slice.

    `neighbours` is that of `order`: pictures of the next window are then asked of the disk while this one is used.
    """
    resident = pictures.resident(world.device)
    if resident is not None:
        yield from _resident(pictures, resident, positions, batch_size, world, start, end)
        return
    memory = _Memory(pictures.shape, pictures.dtype, pinned=world.device.type == "cuda")
    every = batch_count(len(positions), batch_size)
    total = every if end is None else min(every, end)

    def mine(number: int) -> tuple[np.ndarray, np.ndarray, int]:
        whole = positions[number * batch_size : (number + 1) * batch_size]
        rows = np.array(world.slice(len(whole)), np.int64)
        return whole[rows], rows, len(whole)

    def make(number: int) -> Batch:
        indices, rows, size = mine(number)
        if pictures.store is not None and neighbours > 1:
            _read_ahead(pictures, mine, number, total, max(1, WINDOW // batch_size))
        images = memory.take(len(indices))
        readable = pictures.fill(indices, images.numpy())
        if not readable.all():
            images = images[torch.from_numpy(readable)]
        labels = torch.from_numpy(pictures.split.labels[indices[readable]])
        return Batch(images.permute(0, 3, 1, 2), labels, rows[readable], size)

    made = _made_ahead(make, start, total)
    yield from _copied_ahead(made, world.device) if world.device.type == "cuda" else made


def _made_ahead(make: Callable[[int], Batch], start: int, end: int) -> Iterator[Batch]:
    """make(start) … make(end - 1) in their order, AHEAD of them under way."""
    # Two threads, so that no decoding thread waits for the last picture of a batch.
    with ThreadPoolExecutor(2, thread_name_prefix="batch") as pool:
        waiting = deque(pool.submit(make, n) for n in range(start, min(start + AHEAD, end)))
        try:
            for number in range(start, end):
                batch = waiting.popleft().result()
                if number + AHEAD < end:
                    waiting.append(pool.submit(make, number + AHEAD))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """The stream of copies to a GPU: one, as torch keeps memory for each stream."""
    return torch.cuda.Stream(device)


def _copied_ahead(made: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on a GPU, copied while it works on those before them."""
    copies, coming, used = _copies(device), deque[tuple[Batch, torch.cuda.Event]](), deque[torch.cuda.Event]()

    def there() -> Batch:
        batch, copied = coming.popleft()
        here = torch.cuda.current_stream(device)
        here.wait_event(copied)
        for one in (batch.pictures, batch.labels):
            one.record_stream(here)  # or a later copy could be given their memory while this stream reads them
        return batch

    for batch in made:
        with torch.cuda.stream(copies):
            moved = replace(batch, pictures=send(batch.pictures, device), labels=send(batch.labels, device))
            coming.append((moved, copies.record_event()))
        if len(coming) > COPIED:
            yield there()
            used.append(torch.cuda.current_stream(device).record_event())
            if len(used) > QUEUED:
                used.popleft().synchronize()
    while coming:
        yield there()


def _resident(
    pictures: Pictures, everything: Tensor, positions: np.ndarray, batch_size: int, world: World, start: int,
    end: int | None,
) -> Iterator[Batch]:  # fmt: skip
    """The batches of pictures that lie on the GPU: gathered there, so that nothing is waited for."""
    there = send(torch.from_numpy(np.ascontiguousarray(positions)), world.device)
    labels = send(torch.from_numpy(pictures.split.labels), world.device)
    total = batch_count(len(positions), batch_size)
    for number in range(start, total if end is None else min(total, end)):
        first, size = number * batch_size, min(batch_size, len(positions) - number * batch_size)
        share = world.slice(size)
        rows = np.array(share, np.int64)
        mine = there[first + share.start : first + share.stop]
        if pictures.failed:
            readable = np.array([int(i) not in pictures.failed for i in positions[first + rows]], bool)
            rows, mine = rows[readable], mine[send(torch.from_numpy(np.flatnonzero(readable)), world.device)]
        images = everything.index_select(0, mine).permute(0, 3, 1, 2)
        yield Batch(images, labels.index_select(0, mine), rows, size)


def _read_ahead(pictures: Pictures, mine: Callable[[int], tuple], number: int, total: int, window: int) -> None:
    """Ask the disk for this batch's share of the next window's pictures, in the disk's order."""
    whole, step = divmod(number, window)
    first = (whole + 1) * window
    later = [mine(n)[0] for n in range(first, min(first + window, total))]
    if later and pictures.store is not None:
        pictures.store.ahead(np.array_split(np.sort(np.concatenate(later)), window)[step])


class _Memory:
    """Memory for batches: a batch that nobody holds any more gives its place to the next.

    Fresh memory costs as much as filling it. Pinned memory is torch's to reuse: only it knows which copies to a GPU
    are still under way.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, pinned: bool) -> None:
        self.shape, self.dtype, self.pinned = shape, dtype, pinned
        self.free: deque[np.ndarray] = deque(maxlen=AHEAD + 3)  # whose methods need no lock

    def take(self, count: int) -> Tensor:
        """(count, S, S, C), with any contents."""
        if self.pinned:
            return torch.empty(count, *self.shape, dtype=self.dtype, pin_memory=True)
        try:
            array = self.free.popleft()
        except IndexError:
            array = None
        if array is None or len(array) < count:
            array = torch.empty(count, *self.shape, dtype=self.dtype).numpy()
        part = array[:count]  # it goes when the last tensor over it does, and gives the memory back then
        weakref.finalize(part, self.free.append, array).atexit = False
        return torch.from_numpy(part)


def batch_count(count: int, batch_size: int) -> int:
    """Batches in a pass over `count` pictures; the last may be smaller."""
    return -(-count // batch_size)


@dataclass(frozen=True)
class Statistics:
    """Of the training pictures, in grey levels: mean image float32 (C, S, S), and along the colours' principal axes
    the standard deviations (C,), largest first, and the axes themselves, one a row (C, C). docs/facts.md 5.2, 5.4."""

    mean: Tensor
    colour_std: Tensor
    colour_axes: Tensor


def statistics(pictures: Pictures, world: World, update=lambda n: None) -> Statistics:
    """Mean image and colour axes from at most 100,000 pictures, evenly spread; sums are integers, so exact.

    A pack knows its own; where it is of another size its mean image is resized. `update` is told how many pictures
    (over all processes) each step took.
    """
    count, channels = len(pictures), pictures.channels
    if pictures.split.store is not None:
        return _of_pack(pictures.split.store.known, pictures.size, channels)
    chosen = np.linspace(0, count - 1, min(count, STATISTICS_LIMIT)).round().astype(np.int64)
    sums, positions, chunk = Sums(pictures.size, channels), world.slice(len(chosen)), 256
    for first in range(positions.start, positions.stop, chunk):
        pixels, _ = pictures.get(chosen[first : min(first + chunk, positions.stop)])
        sums.add(pixels.transpose(0, 2, 3, 1))
        update(min(chunk, positions.stop - first) * world.size)
    sums.fill(world.sum(torch.from_numpy(sums.vector())).numpy())
    if not sums.counts[0]:
        raise AlexNetError(f"none of {counted(len(chosen), 'picture')} to train on can be read; check them.")
    return _as_tensors(sums.known())


def _as_tensors(known: Known) -> Statistics:
    mean = np.ascontiguousarray(known.mean.transpose(2, 0, 1))
    return Statistics(*(torch.from_numpy(x) for x in (mean, known.colour_std, known.colour_axes)))


def _of_pack(known: Known, size: int, channels: int) -> Statistics:
    """What a pack knows, for pictures resized to `size` and, with one channel, made gray as Pillow does it."""
    found = _as_tensors(known)
    mean, std, axes = found.mean, found.colour_std, found.colour_axes
    if channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114])
        mean = (mean * weights[:, None, None]).sum(0, keepdim=True)
        std, axes = ((axes @ weights) * std).norm().reshape(1), torch.ones(1, 1)
    if mean.shape[-1] != size:
        mean = F.interpolate(mean[None], size=(size, size), mode="bilinear", antialias=True)[0]
    return Statistics(mean, std, axes)


def fits_in_memory(size: int) -> bool:
    """Whether every process of this machine can keep `size` bytes."""
    return size * local_processes() <= MEMORY_SHARE * free_memory()
