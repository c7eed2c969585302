"""All claims in one go: `alexnet reproduce --all --minutes N`, in the order of planning.py.

Results are written after each part, so whenever it is stopped, what is there is worth something, and the same command
goes on. Several such commands at once share the networks out: each takes what no other is at work on.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.base.device import choose_device
from alexnet.base.errors import Interrupted
from alexnet.base.text import counted
from alexnet.data.layouts.registry import Data
from alexnet.reproduction import planning, results
from alexnet.reproduction.claims import ALWAYS_OWN, Claim
from alexnet.reproduction.measures import measure_claim
from alexnet.reproduction.planning import StudyPart
from alexnet.reproduction.running import WORK, Busy, Study
from alexnet.reproduction.side_by_side import Beside, Trial, limit_of

PATIENCE = 5.0  # seconds until it is looked again whether another process has finished


@dataclass
class Everything:
    """All claims being put to the test, until the time is over. `seeds` 0 means each claim's own number."""

    place: Path | None
    out: Path
    minutes: float = 0.0  # 0: until all is done
    seeds: int = 0
    quick: bool = False
    sets: tuple[str, ...] = ()
    device: str = "auto"
    together: int = 1  # processes that train at once; 0: as many as pay off
    say: Callable[[str], object] = lambda text: None
    quiet: bool = True
    found: dict[tuple[Any, ...], Data] = field(default_factory=dict)
    known: dict[tuple[Any, ...], str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    made_at: float = field(default_factory=time.monotonic)

    def study(self, claim: Claim, seeds: int) -> Study:
        """One that shares what others have read, with the keys that the claim does not decide itself."""
        left_out = self._decided(claim)
        sets = tuple(one for one in self.sets if _key(one) not in left_out)
        place = self.place or Path()
        return Study(
            claim, place, self.out, seeds, self.quick, sets, self.device, self.say, self.quiet, self.found, self.known
        )

    def _decided(self, claim: Claim) -> list[str]:
        """Keys of `sets` that are for the other claims."""
        return [key for key in map(_key, self.sets) if key in claim.own - ALWAYS_OWN.keys()]

    def parts(self) -> list[StudyPart]:
        """What there is to do, of the data given or else of whole sets."""

        def count(claim: Claim, name: str) -> int:
            if self.place:
                return len(self.study(claim, 1).data(name).split("train"))
            whole = planning.PICTURES[name]
            return min(whole, claim.quick[1] * claim.quick[2]) if self.quick else whole

        return planning.plan(self.study, count, lambda claim: self.seeds or planning.seeds_of(claim, self.quick))

    def left(self, parts: list[StudyPart] | None = None) -> list[StudyPart]:
        """What is to do still, of all parts or of these."""
        whole = self.parts() if parts is None else parts
        left = [part for part in whole if not self._there(part)]
        for claim in {part.claim.name: part.claim for part in whole}.values() if parts is None else ():
            if decided := self._decided(claim):
                self.say(f"{claim.name} decides {', '.join(decided)} itself: --set is for the others")
        if parts is None and len(left) < len(whole):
            self.say(f"{self.out} holds {len(whole) - len(left)} of {counted(len(whole), 'part')}")
        return left

    def run(self) -> dict[str, Any]:
        """Train, compare and write results; what was done, as facts."""
        missing, done = self.left(), []
        for last in {part.claim.name: part for part in missing}.values():
            results.refuse_to_replace(self.study(last.claim, last.seeds), fewer=True)
        with self._others(list(missing)), self._deadline():
            while missing and not self.over.is_set():  # which a network may have outlived by its last step
                part = next((one for one in missing if self._done(one)), None)
                if self.over.is_set() and part is None:
                    break
                if part is None:
                    time.sleep(PATIENCE)  # others are at work on all that is left
                    missing = self.left(missing)
                    continue
                missing.remove(part)
                done.append(_named(part))
        told = "; the same command goes on" if missing else ""
        self.say(f"\n{counted(len(done), 'part')} done now, {len(missing)} left{told}")
        return {"done": done, "left": [_named(part) for part in missing]}

    def _done(self, part: StudyPart) -> bool:
        """Do it; False where another process is at work on a network of it."""
        study = self.study(part.claim, part.seeds)
        if self.over.is_set():
            return False
        try:
            outcome = measure_claim(study)
        except Busy:
            return False
        folder, held = results.folder_of(self.out, part.claim.name, self.quick), self._held(part)
        if held and held["seeds"] > part.seeds:
            self.say(f"{folder} holds {held['seeds']} seeds: it stays until there are as many of these")
            return True
        for one in results.write(study, outcome)["comparisons"]:
            self.say(f"{_named(part)}: {one['name']}: {results.ours(one)}: {one['verdict']}")
        return True

    def _held(self, part: StudyPart) -> dict[str, Any] | None:
        return results.read(results.folder_of(self.out, part.claim.name, self.quick), part.claim)

    def _there(self, part: StudyPart) -> bool:
        """Whether results hold as many seeds of it, made with the same keys of the same data."""
        held, study = self._held(part), self.study(part.claim, part.seeds)
        if held is None or sorted(held["sets"]) != sorted(study.sets) or held["seeds"] < part.seeds:
            return False
        return self.place is None or held.get("identity") == study.identity()

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """At the end of the time, what Ctrl-C does: the run is saved, and nothing more is begun."""

        def end() -> None:
            self.over.set()
            self.say(f"\ntime is over ({self.minutes:g} min): saving")
            _thread.interrupt_main(signal.SIGINT)

        timer = threading.Timer(60 * self.minutes, end)
        timer.daemon = True
        if self.minutes:
            timer.start()
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            if not self.over.is_set():
                raise
        finally:
            timer.cancel()

    @contextmanager
    def _others(self, parts: list[StudyPart]) -> Iterator[None]:
        """Processes beside this one that do the same: one less than `together`, or as many as pay off."""
        beside = Beside(self._words, self.out / WORK)
        trial: AbstractContextManager[object] = nullcontext()
        try:
            for _ in range(1, self.together):
                beside.add()
            if not self.together:
                networks = [one for part in parts for one in part.networks]
                limit = limit_of(choose_device(self.device), networks, lambda: self._untrained(parts))
                trial = Trial(beside, limit, self.say)
            with trial:
                yield
        except BaseException:
            beside.end_all()
            raise
        finally:
            failed = beside.wait()
        for sentence in failed:
            self.say(sentence)

    def _words(self) -> list[str]:
        """The command of a process beside this one, which ends when this one does."""
        words = [sys.executable, "-m", "alexnet", "reproduce", "--all", "--data", str(self.place)]
        words += ["--out", str(self.out), "--device", self.device, *["--quick"] * self.quick]
        left = self.minutes and max(0.01, round(self.minutes - (time.monotonic() - self.made_at) / 60, 2))
        for name, value in (("--minutes", left), ("--seeds", self.seeds)):
            words += [name, f"{value:g}"] if value else []
        return [*words, *(word for one in self.sets for word in ("--set", one))]

    def _untrained(self, parts: list[StudyPart]) -> int:
        """How many networks of these parts there are to train still, at most: those at work on are among them."""
        return sum(
            not self.study(part.claim, part.seeds).made(one.recipe, one.data)
            for part in self.left(parts)
            for one in part.networks
        )


def _named(part: StudyPart) -> str:
    return f"{part.claim.name}, {part.seeds} seed{'s' * (part.seeds > 1)}"


def _key(one: str) -> str:
    return one.partition("=")[0].strip()
