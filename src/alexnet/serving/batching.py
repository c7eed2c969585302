"""Pictures of several requests through the network together: as they come, at most `size`, none waits over `delay`.

A batch begins when it is full, or when its first picture has waited for the delay, as soon as the network is free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

Compute = Callable[[Sequence[Any]], Sequence[Any]]


class Waiting(NamedTuple):
    row: Any
    since: float
    answer: asyncio.Future[Any]


class Batcher:
    """`ask` within `async with`; one thread computes, so batches never share the processor with each other."""

    def __init__(
        self, size: int, delay: float, seen: Callable[[int, float], object] = lambda size, seconds: None
    ) -> None:
        self.size, self.delay, self.seen = size, delay, seen
        self._waiting: dict[Hashable, tuple[Compute, list[Waiting]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")

    async def __aenter__(self) -> Batcher:
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    def __len__(self) -> int:
        """How many rows wait."""
        return sum(len(rows) for _, rows in self._waiting.values())

    async def ask(self, key: Hashable, compute: Compute, row: Any) -> Any:
        """What `compute` makes of the row, in a batch with other rows of the same key, in the order of coming."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, (compute, []))[1].append(Waiting(row, time.monotonic(), answer))
        self._changed.set()
        return await answer

    def _ready(self) -> tuple[Hashable | None, float | None]:
        """The key whose batch is to begin, or how long there is none."""
        now, soonest = time.monotonic(), None
        by_age = sorted(self._waiting.items(), key=lambda item: item[1][1][0].since)
        for key, (_, rows) in by_age:
            left = rows[0].since + self.delay - now
            if left <= 0 or len(rows) >= self.size:
                return key, None
            soonest = left if soonest is None else min(left, soonest)
        return None, soonest

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            key, left = self._ready()
            if key is None:
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
                continue
            compute, rows = self._waiting.pop(key)
            if rows[self.size :]:
                self._waiting[key] = (compute, rows[self.size :])
            # Whoever went away, or waited too long, is left out.
            batch = [one for one in rows[: self.size] if not one.answer.done()]
            if batch:
                began = time.monotonic()
                await self._answer(loop, compute, batch)
                self.seen(len(batch), time.monotonic() - began)

    async def _answer(self, loop: asyncio.AbstractEventLoop, compute: Compute, batch: list[Waiting]) -> None:
        try:
            answers = await loop.run_in_executor(self._thread, compute, [one.row for one in batch])
        except Exception as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
