"""Work that several processes do in turns, and that comes out as if the first had done it all, in order.

The work is a sequence of units: batches of pictures, files of a pack. Unit k is made by process k modulo their number,
whole, as one process makes it, so that its bytes are the same; after each round the first process has the round's
units and uses them in order. It alone writes: what it has written is done, whichever process ends then, and no disk has
to be shared. All processes go through the same sequence, and every round says so.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from alexnet.base.errors import Agreed, AlexNetError

if TYPE_CHECKING:
    from alexnet.base.distributed import World
    from alexnet.base.journal import Journal

T = TypeVar("T")
DONE = object()


class Dealt(Generic[T]):
    """This process' units of `size` things each, of a sequence that every process goes through.

    `skip` units are done; where their names are other than those with `mark`, that is an error.
    """

    def __init__(
        self, things: Iterable[T], size: int, world: World, name: Callable[[T], str], skip: int = 0, mark: int = 0
    ) -> None:
        self.things, self.size, self.world, self.name = things, size, world, name
        self.skip, self.expected = skip, mark
        self._seen = hashlib.sha256()
        self._marks: deque[int] = deque()  # at the beginning of each round, and at the end
        self._ended = False

    def __iter__(self) -> Iterator[T]:
        things = iter(self.things)
        for thing in islice(things, self.skip * self.size):
            self._pass(thing)
        if self.expected and self._mark() != self.expected:
            raise AlexNetError(
                "--resume: the pictures are not those that were given before, or in another order; give the same, or "
                "leave out --resume to begin anew."
            )
        for number, thing in enumerate(things):
            if number % (self.size * self.world.size) == 0:
                self._marks.append(self._mark())
            self._pass(thing)
            if number // self.size % self.world.size == self.world.rank:
                yield thing
        self._marks.append(self._mark())
        self._ended = True

    def _pass(self, thing: T) -> None:
        self._seen.update(self.name(thing).encode("utf-8", "surrogateescape") + b"\0")

    def _mark(self) -> int:
        return int.from_bytes(self._seen.digest()[:7], "big")

    def marks(self) -> tuple[int, int]:
        """As numbers, what the names before this round were, and what all were, once it has gone through them."""
        last = self._marks[-1] if self._ended else 0
        return self._marks[0] if self._ended and len(self._marks) == 1 else self._marks.popleft(), last


def in_turns(
    world: World | None, work: Iterable[T], dealt: Dealt | None = None, stopped: Callable[[], bool] = lambda: False,
    journal: Journal | None = None, bring: Callable[[T | None, list[T | None]], None] | None = None,
) -> Iterator[T]:  # fmt: skip
    """What the work of all processes makes, in order, on the first process; the others take part and yield nothing.

    `work` makes this process' own units: those that `dealt` gives, where the things have names. An error in one
    process is raised in all. `stopped` is asked once a round, everywhere, and ends the work. What `journal` holds
    comes first, and it keeps the rest. `bring` is called in every process, before a round is used, with what it has
    made and what all have, which the first alone knows. No world is one process.
    """
    if journal is not None:
        yield from journal.made()
    if world is None or (world.size == 1 and journal is None):
        for value in work:
            if stopped():
                return
            if dealt:
                dealt.marks()  # which nobody asks for, and which would wait by the batch
            yield value
        return
    own, held, going = iter(work), list[T](), True
    while going:
        made, fault = _next(own)
        marks = dealt.marks() if dealt and fault is None else (0, 0)
        rows = world.table([made is not DONE, fault is not None, *marks])
        if any(row[1] for row in rows):
            world.agree(fault)
        going = any(row[0] for row in rows)
        told = [row[2] if going else row[3] for row in rows]
        _check_told(told)
        if stopped():
            return
        parts = world.collect({} if made is DONE else {"made": made})
        if bring is not None and going:
            bring(None if made is DONE else cast(T, made), [part.get("made") for part in parts])
        # Of things with names the round before is used only now, when all have said that these were the same.
        held, before = [part["made"] for part in parts if "made" in part], held
        now = before if dealt else held
        if journal is not None and now:
            journal.add(now, told[0])
        yield from now


def _check_told(told: list[int]) -> None:
    """Refuse to go on where a process has gone through other names than the first."""
    if other := next((rank for rank, mark in enumerate(told) if mark != told[0]), 0):
        raise Agreed(
            f"process {other} of {len(told)} has found other pictures than the first, or in another order; give every "
            "machine the same files under the same names."
        )


def _next(work: Iterator[T]) -> tuple[T | object, AlexNetError | None]:
    try:
        return next(work, DONE), None
    except AlexNetError as error:
        return DONE, error


def same(world: World, **facts: str) -> None:
    """Refuse to begin where a process sees another MODEL or DATA than the first, each told by a hash."""
    rows = world.gather(facts)
    for rank, row in enumerate(rows):
        if differs := [name for name in facts if row[name] != rows[0][name]]:
            raise Agreed(
                f"process {rank} of {world.size} sees another {' and '.join(differs)} than the first; give every "
                "machine the same files."
            )
