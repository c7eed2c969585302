"""A stream of decoded pictures: whatever is named, in order, in batches that are made while the network works."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import check_least
from alexnet.data.pictures import CROP, Square, fill_squares
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
    check_least("batch_size", batch_size, 1)
    source, threads = iter(named), workers or os.cpu_count() or 1
    waiting: deque[tuple[list[str], Tensor, list[Future]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:

        def begin() -> None:
            if chunk := list(islice(source, batch_size)):
                names, pictures = [name for name, _ in chunk], [picture for _, picture in chunk]
                shape, pinned = (len(chunk), size, size, channels), device.type == "cuda"
                out = torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
                # Some parts a thread: a task a picture would cost more than a small picture's decoding.
                parts = np.array_split(np.arange(len(chunk)), min(len(chunk), 4 * threads))
                fill = partial(fill_squares, pictures.__getitem__, out=out.numpy(), square=square)
                waiting.append((names, out, [pool.submit(fill, rows=part, places=part) for part in parts]))

        try:
            for _ in range(AHEAD):
                begin()
            while waiting:
                names, out, futures = waiting.popleft()
                begin()
                failed = {row: error for future in futures for row, error in future.result().items()}
                errors = [failed.get(row) for row in range(len(names))]
                readable = [row for row, error in enumerate(errors) if error is None]
                pixels = out[readable] if failed else out
                yield NamedBatch(names, errors, pixels.permute(0, 3, 1, 2))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
