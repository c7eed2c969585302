"""What takes longer than a batch: one job after another in a thread of their own, so that /predict goes on beside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from alexnet.base.errors import AlexNetError
from alexnet.data.pictures import Unreadable
from alexnet.serving.limits import Refused

AT_ONCE = 8  # jobs that wait or run
KEPT = 256  # answers that are kept


class Jobs:
    """A question is answered within some seconds, with what its job gives or with why not."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="page")
        self._stopping = threading.Event()
        self._begun: list[Future[Any]] = []
        self._kept: dict[Hashable, Future[Any]] = {}

    def stopped(self) -> bool:
        """Whether the server stops; long jobs ask it, and end."""
        return self._stopping.is_set()

    def close(self) -> None:
        """End what waits, and wait for the job that runs."""
        self._stopping.set()
        self._thread.shutdown(cancel_futures=True)

    async def ask(self, call: Callable[..., Any], *given: Any) -> Any:
        """What a job gives for this question alone: it is not begun where nobody waits for it any more."""
        with _refusals():
            job = self._begin(call, *given)
            try:
                async with asyncio.timeout(self.seconds):
                    return await asyncio.wrap_future(job)
            except TimeoutError:
                raise Refused(
                    503, f"there was no answer within {self.seconds:g} s; try again when less is asked."
                ) from None

    async def keep(self, key: Hashable, call: Callable[..., Any], *given: Any) -> Any:
        """What a job gives that takes its time: it goes on where this question's is over, and the next one has it."""
        with _refusals():
            if key not in self._kept:
                self._kept[key] = self._begin(call, *given)
            job, waited = self._kept[key], asyncio.wrap_future(self._kept[key])
            waited.add_done_callback(_seen)
            try:
                async with asyncio.timeout(self.seconds):
                    return await asyncio.shield(waited)
            except TimeoutError:
                raise Refused(202, "this is being computed still; ask again.") from None
            finally:
                if job.done() and (job.cancelled() or job.exception()) and self._kept.get(key) is job:
                    del self._kept[key]

    def _begin(self, call: Callable[..., Any], *given: Any) -> Future[Any]:
        self._begun = [one for one in self._begun if not one.done()]
        if len(self._begun) >= AT_ONCE:
            raise Refused(503, f"{AT_ONCE} questions like this wait already; try again soon.")
        if len(done := [key for key, one in self._kept.items() if one.done()]) >= KEPT:
            del self._kept[done[0]]
        self._begun.append(self._thread.submit(call, *given))
        return self._begun[-1]


def _seen(waited: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is no fault of the server's, which asyncio would print."""
    if not waited.cancelled():
        waited.exception()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Unreadable as error:
        raise Refused(422, f"the picture cannot be read: {error}.") from None
    except AlexNetError as error:
        raise Refused(422, str(error)) from None
