"""`alexnet predict` on moving pictures."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.base.text import counted, printable
from alexnet.cli.base import Number, Output

if TYPE_CHECKING:
    from alexnet.base.signals import StopRequest
    from alexnet.inference.moving.answering import Answer
    from alexnet.inference.moving.reading import Frame, FrameReader
    from alexnet.inference.prediction import ClassProbability
    from alexnet.weights.classifier import Classifier

FILMED = 4  # frames that are kept at a time to be written on


@dataclass(frozen=True)
class Moving:
    """How moving pictures are looked at; None is what was not said."""

    every: int | None = None
    smooth: float | None = None
    annotate: str | None = None
    realtime: bool | None = None
    rate: float | None = None

    @property
    def given(self) -> list[str]:
        """The options that were given."""
        return [f"--{name}" for name, value in vars(self).items() if value is not None]


def asked(images: Sequence[str], moving: Moving, still_alone: Mapping[str, object]) -> bool:
    """Whether IMAGES are moving pictures: all of them or none; folders are, where an option says so.

    Options of the one kind are refused with the other; `still_alone` are those that moving pictures have no use for.
    """
    from alexnet.inference.moving import reading

    kinds = [reading.is_moving(name) or (bool(moving.given) and Path(name).is_dir()) for name in images]
    if all(kinds):
        for option, value in still_alone.items():
            if value:
                raise AlexNetError(f"{option} is for pictures, and {images[0]} is moving pictures; leave it out.")
        if moving.rate is not None and not any(map(os.path.isdir, images)):
            raise AlexNetError(f"--rate is for folders of frames, and {images[0]} has a rate of its own; leave it out.")
        return True
    still = images[kinds.index(False)]
    if any(kinds):
        raise AlexNetError(f"moving pictures and {still} were given together; classify them by two commands.")
    if moving.given:
        raise AlexNetError(f"{moving.given[0]} is for moving pictures, and {still} is none; leave it out.")
    return False


def moving_options(command: Callable) -> Callable:
    """The options of moving pictures, which the command gets as `moving`."""

    @functools.wraps(command)
    def call(**given: Any) -> Any:
        said = {one.name: given.pop(one.name) for one in dataclasses.fields(Moving)}
        return command(moving=Moving(**said), **given)

    for option in reversed(OPTIONS):
        call = option(call)
    return call


OPTIONS = (
    click.option("--every", type=click.IntRange(1), help="Of moving pictures: one frame in so many.  [default: 1]"),
    click.option("--smooth", type=Number(0), metavar="S", help="Average answers over so many seconds.  [default: 0.5]"),
    click.option("--annotate", metavar="FILE", help="Also write a film with the classes on it: .mp4, .mkv, .mov."),
    click.option(
        "--realtime/--all-frames",
        default=None,
        help="Of a film: drop frames to keep up.  [default: with cameras and streams]",
    ),
    click.option("--rate", type=Number(0.001), metavar="N", help="Of a folder: frames a second.  [default: 25]"),
)


def predict(
    model: str, device: str, engine: str | None, images: Sequence[str], moving: Moving, topk: int, table: str | None,
    views: int, batch_size: int, output: Output,
) -> int:  # fmt: skip
    """Classify the frames of moving pictures; the exit status."""
    from alexnet.base import tables
    from alexnet.base.device import choose_device
    from alexnet.base.files import check_new
    from alexnet.base.signals import EXIT_STATUS, StopRequest
    from alexnet.engines.loading import device_for, load_classifier
    from alexnet.inference.moving import annotating, answering, reading

    if table is not None:
        check_new("--output", Path(table), tables.WRITERS)
    if moving.annotate is not None:
        check_new("--annotate", Path(moving.annotate), annotating.SUFFIXES)
    images = reading.named(images)
    if moving.annotate is not None and len(images) > 1:
        raise AlexNetError(f"--annotate writes one film, and {len(images)} moving pictures were given; give one.")
    classifier = load_classifier(model, choose_device(device_for(engine, device)), engine, batch_size, output.say)
    work = _Work(moving, classifier, topk, views, batch_size, output, table is None)
    with StopRequest() as stop:
        found = work.all(images, stop)
        if table is not None:
            answering.write_table(Path(table), found)
            output.say(f"{table}: {counted(output.results, 'frame')}")
        else:
            deque(found, maxlen=0)
    for one in work.failed:
        print(f"{printable(one['file'])} {printable(one['error'])}", file=sys.stderr)
    facts = {"frames": work.frames, "dropped": work.dropped, "failed": work.failed}
    output.end(facts, listed=True)
    return EXIT_STATUS[signal.Signals(stop.received[0])] if stop.received else int(bool(work.failed))


@dataclass
class _Work:
    """What one command does, and what came of it."""

    moving: Moving
    classifier: Classifier
    topk: int
    views: int
    batch_size: int
    output: Output
    shown: bool  # whether each answer is printed
    frames: int = 0
    dropped: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)

    def all(self, names: Sequence[str], stop: StopRequest) -> Iterator[Answer]:
        """The answers of all sources, one after another; an error where none has any."""
        from alexnet.inference.moving import reading

        for name in names:
            if not stop.received:
                try:
                    reader = reading.opened(name, self.moving.rate or reading.RATE)
                except AlexNetError as error:
                    self._fail(name, error, len(names))
                else:
                    yield from self._answers(reader, stop, len(names))
        if self.failed and not self.frames:
            first = self.failed[0]
            raise AlexNetError(f"none of {len(names)} moving pictures can be read: {first['file']} {first['error']}")

    def _fail(self, name: str, error: AlexNetError, sources: int) -> None:
        if sources == 1 and not self.frames:
            raise error
        self.failed.append({"file": name, "error": str(error).removeprefix(name).lstrip()})

    def _frames(self, name: str, source: Iterable[Frame], sources: int) -> Iterator[Frame]:
        """Its frames, up to what ends it."""
        try:
            yield from source
        except AlexNetError as error:
            self._fail(name, error, sources)

    def _answers(self, reader: FrameReader, stop: StopRequest, sources: int) -> Iterator[Answer]:
        """The answers of one source, until its end or until the program is asked to stop."""
        from alexnet.inference.moving import annotating, answering, reading

        said, every = self.moving, self.moving.every or 1
        realtime = reader.live if said.realtime is None else said.realtime
        source = reading.Newest(reader, lambda: bool(stop.received)) if realtime else reader
        with ExitStack() as stack:
            stack.callback(source.close)
            progress = stack.enter_context(Progress("predicting", reader.total, "frames", quiet=False))
            film = stack.enter_context(annotating.Film(Path(said.annotate), reader.rate)) if said.annotate else None
            written: Sequence[ClassProbability] = ()
            for frame, answer in answering.answers(
                self.classifier, reader.name, self._frames(reader.name, source, sources), self.topk, every,
                answering.SMOOTH if said.smooth is None else said.smooth,
                1 if realtime else min(self.batch_size, max(1, FILMED // every)) if film else self.batch_size,
                self.views, whole=film is not None,
            ):  # fmt: skip
                self.frames += 1
                if answer is not None:
                    self._say(answer)
                    written = answer.smoothed
                    yield answer
                if film is not None and frame is not None:
                    film.add(frame, written)
                progress.update(1)
                if stop.received:
                    break
        if film and film.stream:
            self.output.say(f"{said.annotate}: written, without sound")
        if isinstance(source, reading.Newest):
            self.dropped += source.dropped
            self.output.say(
                f"{printable(reader.name)}: {source.dropped:,} of {counted(source.read, 'frame')} dropped to keep up"
            )
        if reader.error:
            self.failed.append({"file": reader.name, "error": reader.error})

    def _say(self, answer: Answer) -> None:
        self.output.result(answer.as_json())
        if self.shown:
            first, smoothed = answer.classes[0], answer.smoothed[0]
            self.output.say(
                f"{answer.time:9.3f} s  {100 * first.probability:6.2f} %  {printable(first.label)}; smoothed "
                f"{100 * smoothed.probability:.2f} %  {printable(smoothed.label)}"
            )
