"""Ctrl-C and SIGTERM as a request that the training loop honours between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """Within its `with` block the two signals are counted; another Ctrl-C ends the program at once.

    torchrun passes a Ctrl-C on that the terminal has sent to its processes as well, so there it is the third.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.status = 130
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread only, and cannot put back those that C has set (R, some MPI), which
        # are None to it: there the caller's own stay.
        if threading.current_thread() is threading.main_thread():
            ours = [number for number in EXIT_STATUS if signal.getsignal(number) is not None]
            self._before = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received.count(number) >= (2 if "TORCHELASTIC_RUN_ID" in os.environ else 1):
            raise KeyboardInterrupt
        self.received.append(number)

    def counts(self) -> list[int]:
        """How many of each this process has received, to be summed over the processes."""
        return [int(signal.SIGINT in self.received), int(signal.SIGTERM in self.received)]

    def agreed(self, counts: Tensor) -> bool:
        """Whether any process was asked to stop; sets `status` to the exit status that all shall give."""
        interrupts, terminations = counts.tolist()
        self.status = EXIT_STATUS[signal.SIGTERM] if terminations else EXIT_STATUS[signal.SIGINT]
        return bool(interrupts or terminations)
