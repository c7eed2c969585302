"""Networks side by side: processes beside this one that do the same, as many as were asked for, or as pay off.

A small network leaves most of a GPU idle, and on some machines two take less time at once than one after another. So
`--together auto` measures how fast all processes together train, adds one, and goes on as long as that pays.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Say
from alexnet.base.text import counted
from alexnet.networks.shapes import layer_facts
from alexnet.networks.variants import variant
from alexnet.reproduction.planning import Network, multiply_adds
from alexnet.training import recipe as recipes
from alexnet.training.memory import GIB, step_bytes
from alexnet.training.restarts import WRITER

RISE = 1.1  # times the images/s that one process more must make for another one to be tried
WINDOW = 20.0  # seconds of each process' training at least, over which is measured
PAUSE = 1.0  # seconds between two looks
CONTEXT = 1.0 * GIB  # of a GPU's memory: what CUDA and its libraries take in each process, about


def next_count(rates: Sequence[float]) -> int:
    """How many processes there should be, where `rates` are the images/s of 1, 2, … at once: one more as long as the
    last rose by RISE, one less where it made all slower."""
    count = len(rates)
    if count == 1 or rates[-1] >= RISE * rates[-2]:
        return count + 1
    return count if rates[-1] >= rates[-2] else count - 1


@dataclass(frozen=True)
class Reading:
    """How far a run is: who writes it, images of alexnet64 that are as much arithmetic as it has done, and when."""

    process: int
    images: float
    at: float  # seconds, by the clock of the disk


def readings(work: Path) -> dict[Path, Reading]:
    """Of each run in `work`, from the last line of its metrics; one that is just being begun is left out."""
    found = {}
    for file in work.glob(f"*/{run_files.METRICS}"):
        try:
            at = file.stat().st_mtime
            line = json.loads(file.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2])
            process = json.loads((file.parent / WRITER).read_bytes())["process"]
            recipe = recipes.from_toml((file.parent / run_files.RECIPE).read_text("utf-8"), str(file.parent))
            share = multiply_adds(recipe.variant, recipe.input) / multiply_adds("alexnet64")
        except (OSError, ValueError, AlexNetError):  # also of runs that another version made
            continue
        found[file.parent] = Reading(process, line["step"] * recipe.batch_size * share, at)
    return found


def rate_of_all(
    look: Callable[[], Mapping[Path, Reading]], processes: Sequence[int], wait: Callable[[], bool]
) -> float:
    """Images/s, as alexnet64's, of these processes together, evaluation and saving counted in; 0 where `wait`, which
    stands between two looks, says that it is over.

    It is measured from when each of them has written a line on: a newcomer is past what precedes its training then.
    """
    first = before = after = look()

    def newest(found: Mapping[Path, Reading], process: int) -> float:
        own = [one.at for folder, one in found.items() if one.process == process and one != first.get(folder)]
        return max(own, default=0.0)

    while not all(newest(before, one) for one in processes):
        if wait():
            return 0.0
        before = after = look()
    while not all(newest(after, one) >= newest(before, one) + WINDOW for one in processes):
        if wait():
            return 0.0
        after = look()
    total = 0.0
    for process in processes:
        images = sum(
            one.images - (before[folder].images if folder in before else 0.0)
            for folder, one in after.items()
            if one.process == process
        )
        total += images / (newest(after, process) - newest(before, process))
    return total


@dataclass
class Beside:
    """Processes beside this one, each saying what it does in FOLDER/together-N.txt; `words` gives their command."""

    words: Callable[[], list[str]]
    folder: Path
    started: dict[Path, subprocess.Popen] = field(default_factory=dict)
    ended: list[Path] = field(default_factory=list)  # those that were told to end

    def add(self) -> None:
        """Start one more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"together-{len(self.started) + 2}.txt"
        with open(file, "wb") as log:
            self.started[file] = subprocess.Popen(self.words(), stdout=log, stderr=subprocess.STDOUT)

    def end_last(self) -> None:
        """Tell the last one to save and to end."""
        file = list(self.started)[-1]
        self.ended.append(file)
        self.started[file].terminate()

    def end_all(self) -> None:
        """Tell all of them."""
        for one in self.started.values():
            one.terminate()

    def wait(self) -> list[str]:
        """Until all have ended; of each that failed a sentence."""
        statuses = {file: one.wait() for file, one in self.started.items()}
        return [
            f"a process beside this one ended with status {status}: {file} says why"
            for file, status in statuses.items()
            if status and file not in self.ended
        ]


class Trial:
    """Within its `with` block a thread adds processes as long as they pay. `limit` says why there may be no more than
    so many, or nothing."""

    def __init__(self, beside: Beside, limit: Callable[[int], str], say: Say) -> None:
        self.beside, self.limit, self.say = beside, limit, say
        self.over = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def run(self) -> None:
        """Try 2, 3, … at once, and say what was measured and chosen."""
        rates: list[float] = []
        while rate := self._rate():
            rates.append(rate)
            count, then = len(rates), next_count(rates)
            why = self.limit(count) if then > count else ""
            self.say(f"{_measured(rates)}: {_chosen(count, then, why)}")
            if then < count:
                self.beside.end_last()
            if then <= count or why:
                return
            try:
                self.beside.add()
            except OSError as error:
                self.say(f"the system starts no more processes ({error.strerror}): {count} it is")
                return
        if not self.over.is_set():
            self.say("a process beside this one has ended: no more are tried")

    def _rate(self) -> float:
        processes = [os.getpid(), *(one.pid for one in self.beside.started.values())]
        return rate_of_all(lambda: readings(self.beside.folder), processes, self._wait)

    def _wait(self) -> bool:
        """Until the next look; whether there is none, as it is over or a process has nothing left to do."""
        ended = any(one.poll() is not None for one in self.beside.started.values())
        return ended or self.over.wait(PAUSE)


def _measured(rates: Sequence[float]) -> str:
    count, last = len(rates), f"{rates[-1]:,.0f}"
    if count == 1:
        return f"1 at once makes {last} images/s, as alexnet64's"
    return f"{count} at once make {rates[-1] / rates[-2]:.2f} times the images/s of {count - 1} ({last})"


def _chosen(count: int, then: int, why: str) -> str:
    if then < count:
        return f"the last is saved and ends, {then} it is"
    return f"{count} it is{', as ' * bool(why)}{why}" if then == count or why else f"{then} are tried"


def limit_of(device: torch.device, networks: Sequence[Network], left: Callable[[], int]) -> Callable[[int], str]:
    """Says why there may be no more than so many processes, or nothing: each has a core and a network to train of those
    that are `left`, and on a GPU memory for the largest of all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = device.type == "cuda"
    each = max(map(_device_bytes, networks), default=CONTEXT) if gpu else 0.0
    before = torch.cuda.mem_get_info(device)[0] if gpu else 0

    def limit(count: int) -> str:
        if count >= (there := left()):
            return f"there {'is' if there == 1 else 'are'} {counted(there, 'network')} left to train"
        if count >= cores:
            return f"there {'is' if cores == 1 else 'are'} {counted(cores, 'core')}"
        # What is at work now may come to larger networks: of what was free before, each has its share.
        if gpu and min(before - count * each, free := torch.cuda.mem_get_info(device)[0]) < each:
            return f"one more may take {each / GIB:.1f} GiB of the GPU's memory, where {free / GIB:.1f} are free"
        return ""

    return limit


def _device_bytes(one: Network) -> float:
    """Bytes of a GPU's memory that a process may take for it, about: CUDA's own, the step's, and its pictures, which
    stay there where they fit, a fifth held out beside them."""
    plan, recipe = variant(one.recipe.variant), one.recipe
    rows = layer_facts(plan, 200, recipe.channels, recipe.input or plan.input)
    weights = sum(row.parameters for row in rows)
    pictures = 1.2 * one.pictures / recipe.epochs * recipe.channels * (recipe.stored or plan.stored) ** 2
    return CONTEXT + pictures + step_bytes(rows, weights, recipe.batch_size, torch.float32, captured=True)
