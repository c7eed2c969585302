"""A stream of decoded pictures: whatever is named, in order, in batches that are made while the network works."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from alexnet.data.pictures import CROP, Square, Unreadable, decode
from alexnet.data.sources import Named

CPU = torch.device("cpu")
AHEAD = 2  # batches that are decoded while the network works


@dataclass(frozen=True)
class NamedBatch:
    """Names in order, each with None or why it cannot be read, and the readable ones' pixels.

    uint8 (n, C, S, S), colours last in memory.
    """

    names: list[str]
    errors: list[str | None]
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.names)


def named_batches(
    named: Iterable[Named], size: int, channels: int, batch_size: int, workers: int = 0, square: Square = CROP,
    device: torch.device = CPU,
) -> Iterator[NamedBatch]:  # fmt: skip
    """The pictures at `size` pixels, `batch_size` at a time, decoded by `workers` threads (0: one a core).

    At most AHEAD + 1 batches are held, however many pictures come. A batch may hold no readable picture.
    For a GPU as `device` they lie in pinned memory, which `send` needs.
    """
    source, threads = iter(named), workers or os.cpu_count() or 1
    waiting: deque[tuple[list[Named], Tensor, list[Future]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:

        def begin() -> None:
            if chunk := list(islice(source, batch_size)):
                shape, pinned = (len(chunk), size, size, channels), device.type == "cuda"
                out = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
                # Some parts a thread: a task a picture would cost more than a small picture's decoding.
                parts = np.array_split(np.arange(len(chunk)), min(len(chunk), 4 * threads))
                waiting.append((chunk, out, [pool.submit(_decode, chunk, out.numpy(), part, square) for part in parts]))

        try:
            for _ in range(AHEAD):
                begin()
            while waiting:
                chunk, out, futures = waiting.popleft()
                begin()
                errors = [error for future in futures for error in future.result()]
                readable = [i for i, error in enumerate(errors) if error is None]
                pixels = out if len(readable) == len(chunk) else out[readable]
                yield NamedBatch([name for name, _ in chunk], errors, pixels.permute(0, 3, 1, 2))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(chunk: list[Named], out: np.ndarray, rows: np.ndarray, square: Square) -> list[str | None]:
    errors: list[str | None] = []
    for row in rows.tolist():
        try:
            picture = chunk[row][1]
            if isinstance(picture, Unreadable):
                raise picture
            out[row] = square(decode(picture, out.shape[3]), out.shape[1])
            errors.append(None)
        except Unreadable as error:
            errors.append(str(error))
    return errors
