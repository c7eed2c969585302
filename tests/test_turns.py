"""Work in turns, by threads that stand for processes: in order, agreed upon, and refused where they differ."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError
from alexnet.base.turns import Dealt, in_turns


@dataclass
class Table:
    """Where the threads meet."""

    size: int
    given: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = [None] * self.size
        self.barrier = threading.Barrier(self.size, timeout=20)


@dataclass(frozen=True)
class Thread(World):
    """A world whose processes are threads."""

    meeting: Table

    def gather(self, value: Any) -> list[Any]:
        self.meeting.given[self.rank] = value
        self.meeting.barrier.wait()
        every = list(self.meeting.given)
        self.meeting.barrier.wait()
        return every

    def table(self, row: list[int]) -> list[list[int]]:
        return self.gather(row)

    def collect(self, value: Any) -> list[Any]:
        every = self.gather(value)
        return every if self.first else []


def meet(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What the work comes to in each of so many threads, an error where it raises one."""
    meeting = Table(size)

    def one(rank: int) -> Any:
        try:
            return work(Thread(rank, size, torch.device("cpu"), meeting))
        except AlexNetError as error:
            return str(error)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def squares(world: World, things: list[int], unit: int = 2, fault: int = -1, **options) -> Iterator[tuple[int, ...]]:
    journal = options.get("journal")
    skip = (journal.units, journal.mark) if journal else ()
    dealt = Dealt(things, unit, world, str, *skip)

    def work() -> Iterator[tuple[int, ...]]:
        held: list[int] = []
        for thing in dealt:
            if thing == fault:
                raise AlexNetError(f"{fault} is broken.")
            held.append(thing * thing)
            if len(held) == unit:
                yield tuple(held)
                held = []
        if held:
            yield tuple(held)

    return in_turns(world, work(), dealt, **options)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12, 13])
def test_the_first_process_gets_what_one_process_would_make_and_the_others_nothing(size, count):
    alone = list(squares(World(0, 1, torch.device("cpu")), list(range(count))))
    assert [x for one in alone for x in one] == [n * n for n in range(count)]
    assert meet(size, lambda world: list(squares(world, list(range(count))))) == [alone] + [[]] * (size - 1)


@pytest.mark.parametrize("fault", [0, 3, 4, 11])
def test_an_error_in_one_process_is_the_error_of_all(fault):
    said = meet(3, lambda world: list(squares(world, list(range(12)), fault=fault)))
    assert len(set(said)) == 1
    assert said[0].endswith(f"{fault} is broken.")
    assert said[0].startswith("process") == (fault // 2 % 3 > 0)


@pytest.mark.parametrize(
    ("same", "others"),
    [
        (11, list(range(11))), (12, list(range(13))), (6, [*range(6), 60, *range(7, 12)]), (0, []),
        (0, [1, 0, *range(2, 12)]),
    ],
)  # fmt: skip
def test_a_process_that_sees_other_things_ends_all_and_nothing_made_after_them_is_used(same, others):
    used: list[int] = []

    def work(world: World) -> None:
        for unit in squares(world, list(range(12)) if world.rank != 1 else others):
            used.extend(unit)

    assert [said[:28] for said in meet(3, work)] == ["process 1 of 3 has found oth"] * 3
    assert len(used) <= same


def test_all_stop_in_the_same_round():
    rounds = [0, 0, 0]

    def work(world: World) -> list[tuple[int, ...]]:
        def stopped() -> bool:
            rounds[world.rank] += 1
            return rounds[world.rank] == 2

        return list(squares(world, list(range(30)), stopped=stopped))

    meet(3, work)
    assert rounds == [2, 2, 2]


def test_of_one_process_nothing_waits_by_the_unit():
    alone = World(0, 1, torch.device("cpu"))
    dealt = Dealt(range(1000), 2, alone, str)
    pairs = zip(*[iter(dealt)] * 2, strict=True)
    waiting = [len(dealt._marks) for _ in in_turns(alone, pairs, dealt)]
    assert len(waiting) == 500
    assert max(waiting) <= 1
