"""Networks side by side: what is measured, how many at once follow from it, and the processes themselves."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from alexnet.base import run_files
from alexnet.cli import run as run_command
from alexnet.networks.model import build
from alexnet.reproduction import planning, side_by_side
from alexnet.reproduction.everything import Everything
from alexnet.reproduction.side_by_side import Reading, Trial, limit_of, next_count, rate_of_all, readings
from alexnet.training import loop
from alexnet.training.memory import GIB, needed
from alexnet.training.recipe import resolve, to_toml
from two_claims import SETS, two_claims


@pytest.fixture
def two(monkeypatch) -> None:
    two_claims(monkeypatch)


@pytest.mark.parametrize(
    ("rates", "then"),
    [
        ([100], 2),  # nothing to compare with yet
        ([100, 160], 3),
        ([100, 110.1], 3),
        ([100, 109.9], 2),  # not worth another
        ([100, 100], 2),
        ([100, 99], 1),  # worse than before
        ([100, 160, 220], 4),
        ([100, 160, 165], 3),
        ([100, 160, 150], 2),
        ([100, 200, 300, 290], 3),
    ],
)
def test_one_more_is_tried_as_long_as_the_last_paid_and_one_that_made_it_worse_goes(rates, then):
    assert next_count(rates) == then


def write_run(work: Path, name: str, process: int, step: int, **sets: object) -> Path:
    """What a run's process writes after so many steps."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"{key}={value}" for key, value in sets.items()]
    (folder / run_files.RECIPE).write_text(to_toml(resolve("tiny_imagenet", words)))
    (folder / side_by_side.WRITER).write_text(json.dumps({"process": process}))
    lines = [json.dumps({"kind": "step", "step": at}) for at in range(20, step + 1, 20)]
    (folder / run_files.METRICS).write_text("\n".join([*lines, '{"kind": "st']))
    return folder


def test_a_run_is_as_far_as_its_last_whole_line_and_counts_by_its_arithmetic(tmp_path):
    whole = write_run(tmp_path, "a", 7, 100, batch_size=8)
    half = write_run(tmp_path, "b", 8, 100, batch_size=8, variant="alexnet64_half")
    write_run(tmp_path, "begun", 9, 0)
    (write_run(tmp_path, "strange", 9, 40) / run_files.RECIPE).write_text("no_such_key = 1\n")
    found = readings(tmp_path)
    assert found.keys() == {whole, half}
    assert (found[whole].process, found[whole].images) == (7, 800)
    arithmetic = planning.multiply_adds("alexnet64_half") / planning.multiply_adds("alexnet64")
    assert found[half].images == pytest.approx(800 * arithmetic)
    assert found[whole].at == (whole / run_files.METRICS).stat().st_mtime


def looks(*all_of_them: dict[str, tuple[int, float, float]]) -> tuple[Callable, Callable[[], bool]]:
    """Readings one after another, and a wait that says when there are no more."""
    left: Iterator = iter(all_of_them)
    rest = [len(all_of_them)]

    def look() -> dict[Path, Reading]:
        rest[0] -= 1
        return {Path(name): Reading(*facts) for name, facts in next(left).items()}

    return look, lambda: not rest[0]


def test_the_rate_of_all_is_over_a_window_that_begins_when_each_has_written_a_line(monkeypatch):
    monkeypatch.setattr(side_by_side, "WINDOW", 10.0)
    old = (2, 9_000.0, 1.0)  # of a process of the same number, long ago
    look, wait = looks(
        {"a": (1, 1_000, 100), "old": old},
        {"a": (1, 1_500, 105), "old": old},  # 2 has not begun
        {"a": (1, 2_000, 110), "old": old, "b": (2, 50, 111)},  # here the window begins
        {"a": (1, 2_500, 115), "old": old, "b": (2, 250, 116)},
        {"a": (1, 3_200, 122), "old": old, "b": (2, 400, 120)},  # too short for 2 still
        {"a": (1, 3_200, 122), "old": old, "b": (2, 690, 127)},
    )
    assert rate_of_all(look, [1, 2], wait) == pytest.approx(1_200 / 12 + 640 / 16)


def test_a_process_that_goes_on_to_another_network_within_the_window_counts_with_both(monkeypatch):
    """The next one had 300 images from another process, which went on from there."""
    monkeypatch.setattr(side_by_side, "WINDOW", 10.0)
    look, wait = looks(
        {"a": (1, 0, 100), "next": (5, 300, 40)},
        {"a": (1, 100, 101), "next": (5, 300, 40)},
        {"a": (1, 700, 106), "next": (1, 320, 108)},
        {"a": (1, 700, 106), "next": (1, 500, 111)},
    )
    assert rate_of_all(look, [1], wait) == pytest.approx((600 + 200) / 10)


def test_there_is_no_rate_where_it_is_over_before_the_window_is():
    look, wait = looks({}, {"a": (1, 10, 1)}, {"a": (1, 20, 2)})
    assert rate_of_all(look, [1], wait) == 0


class Asked:
    """Processes that only count how many they are."""

    started: ClassVar[dict] = {}

    def __init__(self, error: OSError | None = None) -> None:
        self.count, self.error, self.last_ended = 1, error, False

    def add(self) -> None:
        if self.error:
            raise self.error
        self.count += 1

    def end_last(self) -> None:
        self.last_ended = True


def tried(monkeypatch, rates: list[float], limit: Callable[[int], str], **how) -> tuple[Asked, list[str]]:
    """A trial where those are the rates of 1, 2, … at once; the processes and what was said."""
    beside, said = Asked(**how), list[str]()
    monkeypatch.setattr(Trial, "_rate", lambda self: rates[beside.count - 1] if beside.count <= len(rates) else 0.0)
    Trial(beside, limit, said.append).run()
    return beside, said


@pytest.mark.parametrize(
    ("rates", "count", "ended", "last"),
    [
        ([1000, 1610, 1650], 3, False, "3 at once make 1.02 times the images/s of 2 (1,650): 3 it is"),
        ([1000, 1610, 1500], 3, True, "0.93 times the images/s of 2 (1,500): the last is saved and ends, 2 it is"),
        ([1000, 2000, 3000, 4000], 4, False, "of 3 (4,000): 4 it is, as there are 4 cores"),
        ([1000], 2, False, "a process beside this one has ended: no more are tried"),
    ],
)
def test_each_decision_is_a_line_that_says_what_was_measured_and_chosen(monkeypatch, rates, count, ended, last):
    beside, said = tried(monkeypatch, rates, lambda count: "there are 4 cores" if count == 4 else "")
    assert (beside.count, beside.last_ended) == (count, ended)
    assert said[0] == "1 at once makes 1,000 images/s, as alexnet64's: 2 are tried"
    assert said[-1].endswith(last)
    if len(rates) > 2:
        assert said[1].endswith(f"times the images/s of 1 ({rates[1]:,}): 3 are tried")


def test_a_process_that_the_system_does_not_start_is_said(monkeypatch):
    error = OSError(12, "Cannot allocate memory")
    _, said = tried(monkeypatch, [1000], lambda count: "", error=error)
    assert said[1:] == ["the system starts no more processes (Cannot allocate memory): 1 it is"]


def test_each_process_has_a_network_and_a_core(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    left = [5]
    limit = limit_of(torch.device("cpu"), [], lambda: left[0])
    assert [limit(count) for count in (1, 2, 3)] == ["", "", "there are 3 cores"]
    left[0] = 1
    assert limit(1) == "there is 1 network left to train"


def test_on_a_gpu_each_has_memory_for_the_largest_network_and_its_pictures(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    parts = Everything(None, Path("nowhere"), seeds=1).parts()
    networks = [one for part in parts for one in part.networks]
    pictures = 1.2 * 100_000 * 64 * 64 * 3
    each = GIB + pictures + needed(build("alexnet64", 200), 128, torch.float32, captured=True)
    free = [3.5 * each]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 80 * GIB))
    limit = limit_of(torch.device("cuda"), networks, lambda: 100)
    assert [bool(limit(count)) for count in (1, 2, 3)] == [False, False, True]
    free[0] = 0.5 * each  # another program has come
    assert limit(1) == f"one more may take {each / GIB:.1f} GiB of the GPU's memory, where {free[0] / GIB:.1f} are free"


def test_networks_left_are_those_that_are_not_trained_to_their_end(place, tmp_path, two):
    work = Everything(place, tmp_path, seeds=1, sets=SETS, device="cpu")
    parts = work.parts()
    assert work._untrained(parts) == 2
    arm = parts[0].claim.arms[0]
    assert work.study(parts[0].claim, 1).trained(arm, 0) is not None
    assert work._untrained(parts) == 1
    assert work.run()["left"] == []
    assert work._untrained(parts) == 0


class Started:
    """A process that only notes what it is told."""

    every: ClassVar[list[Started]] = []
    status = 0

    def __init__(self, words: list[str], **_: object) -> None:
        self.words, self.told = words, []
        self.every.append(self)

    def terminate(self) -> None:
        self.told.append("terminate")

    def wait(self) -> int:
        self.told.append("wait")
        return self.status


def test_processes_beside_it_do_the_same_by_the_same_words_and_are_ended_with_it(place, tmp_path, monkeypatch, two):
    monkeypatch.setattr(side_by_side.subprocess, "Popen", Started)
    monkeypatch.setattr(Started, "every", [])
    work = Everything(place, tmp_path, 3, 1, True, SETS, "cpu", together=3)
    with work._others([]):
        pass
    assert [one.told for one in Started.every] == [["wait"]] * 2
    words = Started.every[0].words
    assert words[:3] == [sys.executable, "-m", "alexnet"]
    asked: list[Everything] = []
    monkeypatch.setattr(Everything, "run", lambda self: asked.append(self) or {})
    assert run_command(words[3:]) == 0  # the command line itself reads them as what was meant
    (other,) = asked
    assert (other.place, other.out, other.minutes, other.seeds, other.quick, other.sets, other.device) == (
        place, tmp_path, 3, 1, True, SETS, "cpu"
    )  # fmt: skip
    assert other.together == 1
    with pytest.raises(KeyboardInterrupt), work._others([]):
        raise KeyboardInterrupt
    assert [one.told for one in Started.every[2:]] == [["terminate", "wait"]] * 2


def test_a_process_beside_it_that_fails_is_said_with_the_file_that_says_why(place, tmp_path, monkeypatch, two):
    monkeypatch.setattr(side_by_side.subprocess, "Popen", Started)
    said: list[str] = []
    work = Everything(place, tmp_path, device="cpu", together=2, say=said.append)
    with work._others([]):
        pass
    assert not said
    monkeypatch.setattr(Started, "status", 2)
    with work._others([]):
        pass
    assert said == [f"a process beside this one ended with status 2: {tmp_path / 'work' / 'together-2.txt'} says why"]


def test_a_process_that_begins_later_gets_the_minutes_that_are_left_and_one_told_to_end_is_no_failure(
    place, tmp_path, monkeypatch, two
):
    monkeypatch.setattr(side_by_side.subprocess, "Popen", Started)
    monkeypatch.setattr(Started, "every", [])
    monkeypatch.setattr(Started, "status", 143)
    work = Everything(place, tmp_path, 30, device="cpu", together=0, made_at=time.monotonic() - 12 * 60)
    words = work._words()
    assert words[words.index("--minutes") + 1] == "18"
    beside = side_by_side.Beside(work._words, tmp_path / "work")
    beside.add()
    beside.add()
    beside.end_last()
    first, last = Started.every
    assert (first.told, last.told) == ([], ["terminate"])
    assert beside.wait() == [
        f"a process beside this one ended with status 143: {tmp_path / 'work' / 'together-2.txt'} says why"
    ]


@pytest.mark.slow
def test_as_many_as_pay_off_train_what_one_after_another_do_bit_for_bit(place, tmp_path, monkeypatch, two):
    sets = ("epochs=80", "log_every=1", *SETS[1:])
    assert Everything(place, tmp_path / "one", seeds=1, sets=sets, device="cpu").run()["left"] == []

    monkeypatch.setattr(side_by_side, "WINDOW", 0.5)
    monkeypatch.setattr(side_by_side, "PAUSE", 0.05)
    words, step, said = Everything._words, loop._step, list[str]()
    other = str(Path(__file__).with_name("two_claims.py"))
    monkeypatch.setattr(Everything, "_words", lambda self: [sys.executable, other, *words(self)[3:]])

    def slowly(*given: object) -> None:
        """Until 2 are measured: the other one takes seconds to begin."""
        step(*given)
        if not any(line.startswith("2 at once") for line in said):
            time.sleep(0.5)

    monkeypatch.setattr(loop, "_step", slowly)
    work = Everything(place, tmp_path / "auto", seeds=1, sets=sets, device="cpu", together=0, say=said.append)
    assert work.run()["left"] == []
    (measured,) = [line for line in said if line.startswith("2 at once")]
    assert measured.endswith("2 it is, as there are 2 networks left to train")
    assert not [line for line in said if "status" in line]
    weights = [
        {file.parent.name: file.read_bytes() for file in folder.glob("work/*/model.safetensors")}
        for folder in (tmp_path / "one", tmp_path / "auto")
    ]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]
    writers = {json.loads(file.read_bytes())["process"] for file in (tmp_path / "auto").glob("work/*/.writer.json")}
    assert len(writers) == 2
    assert os.getpid() in writers
