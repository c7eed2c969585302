"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere; both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

LINE_EVERY = 10.0  # seconds between plain lines
Say = Callable[[str], object]  # says a line to people


class Progress:
    """Counts up to `total` (None: not known) with rate and time left; `quiet` shows nothing."""

    def __init__(self, what: str, total: int | None, unit: str = "images", done: int = 0, quiet: bool = False) -> None:
        self.what, self.total, self.unit, self.done, self.quiet = what, total, unit, done, quiet
        self.started_from, self.started_at = done, time.perf_counter()
        self._line_at = self.started_at
        self.facts: dict[str, str] = {}  # shown beside the rate: loss, error …
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=what, total=total, initial=done, unit=f" {unit}", dynamic_ncols=True, leave=False,
                unit_scale=True, smoothing=0.1,
            )  # fmt: skip

    def update(self, count: int) -> None:
        """Count `count` more."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix(self.facts, refresh=False)
            self._bar.update(count)
        elif not self.quiet and time.perf_counter() - self._line_at >= LINE_EVERY:
            self._line_at = time.perf_counter()
            self.line()

    def line(self) -> None:
        """Print where the work is as a plain line."""
        rate = self.rate
        said = "".join(f", {key} {value}" for key, value in self.facts.items())
        pace = f"{rate:,.0f} {self.unit}/s"
        if self.total is None:
            self.say(f"{self.what}: {self.done:,} {self.unit}{said}, {pace}")
            return
        left = f", {_clock((self.total - self.done) / rate)} left" if rate else ""
        share = 100 * self.done / max(1, self.total)
        self.say(f"{self.what}: {self.done:,}/{self.total:,} {self.unit} ({share:.0f} %){said}, {pace}{left}")

    def say(self, text: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self.started_from) / max(1e-9, time.perf_counter() - self.started_at)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
