"""`alexnet check`: what DATA is, and every picture in it that is broken or odd, with what to do about it."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.base.text import counted
from alexnet.base.turns import in_turns, same
from alexnet.data.dataset import Data, Split
from alexnet.data.faults import Fault
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs import reading
from alexnet.data.pictures import Unreadable, decode, reads_heif
from alexnet.data.problems import Problem, Report

if TYPE_CHECKING:
    from alexnet.base.distributed import World
    from alexnet.base.journal import Journal

SAMPLE = 256  # pictures of each split that are looked at without --full
CHUNK = 64  # pictures a task
SEVERAL = ("GIF", "PNG", "TIFF", "WEBP")  # may hold more than one picture; in a JPEG others are previews
MOST = 1000  # classes that a split lacks which are named


def check(
    path: str | Path, full: bool = False, quick: bool = False, workers: int = 0, quiet: bool = True,
    world: World | None = None, resume: bool = False,
) -> Report:  # fmt: skip
    """Look at DATA: layout, counts and a sample; `full` decodes every picture. A pack is verified unless `quick`.

    What is wrong with a layout is listed too; an error is raised only where the layout cannot be told. Of several
    processes in a `world` each looks at pictures in turns, and the first has the report; `resume` goes on where such a
    check, or one with `resume`, was killed.
    """
    reads_heif()  # so that the kind of the first one is told too
    report, root = Report(str(path)), Path(path)
    packed = root.is_dir() and reading.is_pack(root)
    if packed and not quick:
        _verify(report, root, quiet, world)
        if world.of_first(report.problems) if world else report.problems:
            return report
    try:
        with world.together() if world else nullcontext():
            data = find_data(path, quiet, report.tell)
    except AlexNetError as error:
        if not packed:
            raise
        report.problems.append(Problem("damaged", "", reading.HEADER, str(error)))
        return report
    report.layout, report.classes = data.layout, len(data.classes)
    for name, split in data.splits.items():
        counts = np.bincount(split.labels, minlength=max(1, len(data.classes)))
        report.splits[name] = {
            "pictures": len(split), "origin": split.origin, "fewest": int(counts.min()), "most": int(counts.max()),
        }  # fmt: skip
        if len(data.splits) > 1:
            missing = np.flatnonzero(counts[: len(data.classes)] == 0).tolist()
            report.problems += [
                Problem("one split only", name, data.classes[i], "a class without a picture in this split")
                for i in missing[:MOST]
            ]
            if missing[MOST:]:
                what = f"{counted(len(missing) - MOST, 'more class')} without a picture in this split"
                report.problems.append(Problem("one split only", name, data.classes[missing[MOST]], what))
    workers = workers or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    _look(report, data, full, workers, quiet, world, _journal(data, full, world, resume))
    return report


def _journal(data: Data, full: bool, world: World | None, resume: bool) -> Journal | None:
    """The journal of what was seen, for several processes or for `resume`; None where neither needs one."""
    if world is None:
        return None
    from alexnet.base.journal import Journal, kept
    from alexnet.data.packs.writing import fingerprint

    source = fingerprint(data)
    if world.size > 1:
        same(world, DATA=source)
    return Journal({"check": [source, full]}, world, resume) if kept(world, resume) else None


def _verify(report: Report, root: Path, quiet: bool, world: World | None) -> None:
    """Compare every file of a pack with its length and its checksum."""
    rank, ranks = (world.rank, world.size) if world else (0, 1)
    try:
        files = reading.read_header(root)["files"]
        total = sum(entry["bytes"] for entry in files)
    except AlexNetError as error:
        report.problems.append(Problem("damaged", "", reading.HEADER, str(error)))
        return
    with Progress("verifying", total, "bytes", quiet=quiet) as progress:

        def work() -> Iterator[tuple[int, list[dict[str, str]]]]:
            for entry in files[rank::ranks]:
                faults = []
                for count, fault in reading.verify(root, [entry]):
                    progress.update(count)
                    faults += [fault] if fault else []
                yield entry["bytes"], faults

        for number, (count, faults) in enumerate(in_turns(world, work())):
            progress.update(count if number % ranks else 0)
            report.problems += [Problem("damaged", "", fault["file"], fault["error"]) for fault in faults]


@dataclass(frozen=True)
class _Seen:
    """One picture: its kind and size, a hash of its pixels, and what is wrong with it."""

    kind: str = ""
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    problems: tuple[tuple[str, ...], ...] = ()  # kind, fault, and a remedy where it has one of its own


def _look(
    report: Report, data: Data, full: bool, workers: int, quiet: bool, world: World | None, journal: Journal | None
) -> None:
    """Decode all or a sample, and find those that are broken, odd, or there twice."""
    chunks = [
        (name, rows[first : first + CHUNK])
        for name, rows in _rows(data, full).items()
        for first in range(0, len(rows), CHUNK)
    ]
    rank, ranks = (world.rank, world.size) if world else (0, 1)
    done = journal.units if journal else 0
    found = _Found(data)
    with (
        _own_warnings() as said,
        ThreadPoolExecutor(workers, thread_name_prefix="check") as pool,
        Progress("checking", sum(len(rows) for _, rows in chunks), quiet=quiet) as progress,
    ):

        def work() -> Iterator[list[tuple]]:
            own, waiting = iter(chunks[done + rank :: ranks]), deque[Future]()
            while True:
                for name, rows in islice(own, 1 if len(waiting) > workers else workers + 1):
                    waiting.append(pool.submit(_see_all, data.splits[name], said, rows))
                if not waiting:
                    return
                yield waiting.popleft().result()

        for number, seen in enumerate(in_turns(world, work(), journal=journal)):
            name, rows = chunks[number]
            for row, one in zip(rows, seen, strict=True):
                found.add(name, row, _Seen(*one))
            progress.update(len(rows))
    if rank == 0:
        found.tell(report)
    if journal:
        journal.done()


def _rows(data: Data, full: bool) -> dict[str, Sequence[int]]:
    """The pictures of each split that are looked at."""
    whole: dict[str, Sequence[int]] = {name: range(len(split)) for name, split in data.splits.items()}
    if full:
        return whole
    spread = {name: np.linspace(0, len(rows) - 1, SAMPLE).round().astype(int) for name, rows in whole.items() if rows}
    return {name: np.unique(rows).tolist() for name, rows in spread.items()}


class _Found:
    """What was seen, in order, in 32 bytes a picture."""

    def __init__(self, data: Data) -> None:
        self.data, self.starts, start = data, dict[str, int](), 0
        for name, split in data.splits.items():
            self.starts[name], start = start, start + len(split)
        self.kinds: Counter[str] = Counter()
        self.problems: list[tuple[int, Problem]] = []
        self.places, self.sizes, self.digests = array("q"), (array("I"), array("I")), bytearray()

    def add(self, name: str, row: int, seen: _Seen) -> None:
        """Count a picture."""
        place, split = self.starts[name] + row, self.data.splits[name]
        self.problems += [(place, Problem(kind, name, _name(split, row), *what)) for kind, *what in seen.problems]
        if seen.digest:
            self.places.append(place)
            self.digests += seen.digest
            self.kinds[seen.kind] += 1
            for values, value in zip(self.sizes, seen.size, strict=True):
                values.append(value)

    def tell(self, report: Report) -> None:
        """Put everything into the report; a picture that is there twice is listed where the second copy was met."""
        digests = np.frombuffer(bytes(self.digests), np.uint64).reshape(-1, 2)
        order = np.lexsort(digests.T)  # stable: of equal ones the first comes first
        equal = np.zeros(len(order), bool)
        equal[1:] = (digests[order[1:]] == digests[order[:-1]]).all(1)
        firsts = order[np.maximum.accumulate(np.where(equal, 0, np.arange(len(order))))]
        for second, first in zip(order[equal].tolist(), firsts[equal].tolist(), strict=True):
            one, other = self.places[second], self.places[first]
            self.problems.append((one, _twice(self.data, *self._split(one), *self._split(other))))
        report.problems += [problem for _, problem in sorted(self.problems, key=lambda placed: placed[0])]
        report.looked_at, report.kinds = len(self.places), dict(self.kinds.most_common())
        for axis, values in zip(("width", "height"), self.sizes, strict=True):
            if values:
                report.sizes[axis] = [min(values), int(np.median(values)), max(values)]

    def _split(self, place: int) -> tuple[str, int]:
        name = [name for name, start in self.starts.items() if start <= place and len(self.data.splits[name])][-1]
        return name, place - self.starts[name]


def _twice(data: Data, name: str, row: int, other_name: str, other: int) -> Problem:
    one, two = data.splits[name], data.splits[other_name]
    label, other_label = (data.classes[s.labels[r]] for s, r in ((one, row), (two, other)))
    kind = "two classes" if label != other_label else "two splits" if name != other_name else "twice"
    what = f" as {label} and as {other_label}" if label != other_label else ""
    return Problem(kind, name, one.name(row), f"the same picture as {two.name(other)} of {other_name}{what}")


def _see_all(split: Split, said: Callable[[], list[str]], rows: Sequence[int]) -> list[tuple]:
    """The fields of _Seen as plain data, in their order."""
    return [astuple(_see(split, said, row)) for row in rows]


def _see(split: Split, said: Callable[[], list[str]], row: int) -> _Seen:
    try:
        source = split.read(row)
    except Fault as fault:
        return _Seen(problems=(("structure", f"{fault.file} {fault.what}", fault.remedy),))
    except Unreadable as error:
        return _Seen(problems=(("unreadable", str(error)),))
    try:
        with _opened(source) as picture:
            kind, mode, size, xmp = picture.format, picture.mode, picture.size, picture.info.get("xmp")
            deep, frames = _is_deep(picture), getattr(picture, "n_frames", 1) if kind in SEVERAL else 1
    except Exception:  # what is wrong is told below
        kind, mode, size, xmp, deep, frames = None, "", (0, 0), None, False, 1
    said()  # forget what opening it has said: decoding says it again
    try:
        pixels = decode(source)
    except Unreadable as error:
        return _Seen(problems=(("unreadable", str(error)),))
    problems = []
    suffix = Path(split.name(row)).suffix.lower()
    expected = Image.registered_extensions().get(suffix)
    if kind and expected and expected != {"MPO": "JPEG"}.get(kind, kind):
        problems.append(("other format", f"{kind} named {suffix}"))
    if mode == "CMYK":
        problems.append(("CMYK", f"CMYK {kind}"))
    if deep and (unused := 8 - int(np.asarray(pixels).max()).bit_length()) >= 2:
        what = f"the upper {unused}{' or more' * (unused == 8)} of its 16 bits are unused"
        problems.append(("unused bits", what))
    if frames > 1:
        problems.append(("several pictures", f"{kind} of {counted(frames, 'picture')}"))
    if faults := [*said(), *_xmp_fault(xmp)]:
        problems.append(("metadata", faults[0]))
    digest = hashlib.blake2b(np.asarray(pixels).tobytes(), digest_size=16, person=repr(pixels.size).encode()[:16])
    words = f"{kind or 'array'} {mode or pixels.mode}"
    return _Seen(words, size if kind else pixels.size, digest.digest(), tuple(problems))


def _name(split: Split, row: int) -> str:
    try:
        return split.name(row)
    except Fault:  # the name lies in what cannot be read
        return f"row {row}"


def _opened(source: Any) -> Image.Image:
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return source.copy()
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _is_deep(picture: Image.Image) -> bool:
    """Whether its values have 16 bits, of which 8 are kept."""
    bits = getattr(picture, "tag_v2", {}).get(258, ())
    if picture.format == "PNG":  # the decoder's raw mode tells
        return any("16" in str(tile[3]) for tile in getattr(picture, "tile", ()))
    return picture.mode.startswith("I;16") or 16 in bits or (picture.mode == "I" and picture.format in ("PPM", "TIFF"))


def _xmp_fault(xmp: Any) -> list[str]:
    """What is wrong with a picture's XMP metadata, if anything."""
    from xml.parsers import expat

    if xmp is None:
        return []
    try:
        expat.ParserCreate().Parse(xmp if isinstance(xmp, bytes) else str(xmp).encode(), True)
    except (expat.ExpatError, ValueError) as error:
        return [f"broken XMP ({error})"]
    return []


@contextmanager
def _own_warnings() -> Iterator[Callable[[], list[str]]]:
    """Keeps Pillow's warnings within its block. Calling it gives those of the calling thread, and forgets them."""
    kept = threading.local()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if not issubclass(category, Image.DecompressionBombWarning | DeprecationWarning):
            kept.said = [*getattr(kept, "said", []), str(message).strip()]

    def take() -> list[str]:
        said, kept.said = getattr(kept, "said", []), []
        return said

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield take
