"""`alexnet check`: what DATA is, and every picture in it that is broken or odd, with what to do about it."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.base.text import printable
from alexnet.data.dataset import Data, Split
from alexnet.data.faults import Fault, Note
from alexnet.data.layouts.registry import find
from alexnet.data.packs import reading
from alexnet.data.pictures import Unreadable, decode

SAMPLE = 256  # pictures of each split that are looked at without --full
CHUNK = 64  # pictures a task
MOST = 1000  # classes that a split lacks which are named

REMEDIES = {
    "structure": "what it touches is not looked at; mend it, then check again",
    "unreadable": "get it again or delete it; it is left out of training and of every count",
    "damaged": "copy the file again, or make the pack again",
    "two classes": "delete the one that is wrong; a network cannot learn both",
    "two splits": "delete one; errors on pictures that were trained on are too good",
    "twice": "delete one; the picture counts twice",
    "other format": "rename it; it is read by its contents, here and not everywhere",
    "CMYK": "nothing; it is read as RGB, though some programs fail at it",
    "unused bits": "save it with 8 bits, or scaled to all 16; as it is, it is read as almost black",
    "metadata": "nothing; its pixels are whole, though some programs fail at it",
    "not used": "nothing, if that is as it should be",
    "one split only": "put pictures of the class into the other split",
}
BROKEN = ("structure", "unreadable", "damaged", "two classes")  # these give exit status 1; the others are odd


@dataclass(frozen=True)
class Problem:
    """Something broken or odd: its kind is a key of REMEDIES, whose remedy it has unless it has one of its own."""

    kind: str
    split: str
    file: str
    fault: str
    own: str = ""

    @property
    def remedy(self) -> str:
        return self.own or REMEDIES[self.kind]

    def facts(self) -> dict[str, str]:
        """As plain data."""
        return {"kind": self.kind, "split": self.split, "file": self.file, "fault": self.fault, "remedy": self.remedy}


@dataclass
class Report:
    """What DATA is, what was looked at, and what is wrong."""

    data: str
    layout: str = ""
    classes: int = 0
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    looked_at: int = 0  # pictures decoded
    sizes: dict[str, list[int]] = field(default_factory=dict)  # width and height: least, median, most
    kinds: dict[str, int] = field(default_factory=dict)  # such as JPEG RGB, of the pictures looked at
    problems: list[Problem] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether anything is more than odd."""
        return any(one.kind in BROKEN for one in self.problems)

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"problems": [one.facts() for one in self.problems]}

    def tell(self, fault: Fault) -> None:
        """List a fault of structure, or what is only odd."""
        kind = "not used" if isinstance(fault, Note) else "structure"
        self.problems.append(Problem(kind, "", fault.file, fault.what, fault.remedy))


def check(
    path: str | Path, full: bool = False, quick: bool = False, workers: int = 0, quiet: bool = True
) -> Report:  # fmt: skip
    """Look at DATA: layout, counts and a sample; `full` decodes every picture. A pack is verified unless `quick`.

    What is wrong with a layout is listed too; an error is raised only where the layout cannot be told.
    """
    report, root = Report(str(path)), Path(path)
    packed = root.is_dir() and reading.is_pack(root)
    if packed and not quick:
        _verify(report, root, quiet)
        if report.problems:
            return report
    try:
        data = find(path, quiet, report.tell)
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
                what = f"{len(missing) - MOST:,} more classes without a picture in this split"
                report.problems.append(Problem("one split only", name, data.classes[missing[MOST]], what))
    _look(report, data, full, workers or os.cpu_count() or 1, quiet)
    return report


def text(report: Report, shown: int = 20) -> Iterator[str]:
    """Lines for people; of each kind of problem the first `shown`."""
    if report.layout:
        yield f"{report.data}: {report.layout}, {report.classes:,} classes"
    for name, facts in report.splits.items():
        each = f"{facts['fewest']:,}" + (f" to {facts['most']:,}" if facts["most"] != facts["fewest"] else "")
        yield f"  {name}: {facts['pictures']:,} pictures ({facts['origin']}), {each} a class"
    if report.looked_at:
        (w0, w1, w2), (h0, h1, h2) = report.sizes["width"], report.sizes["height"]
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
        size = f"{w0} to {w2} pixels wide ({w1} in the middle), {h0} to {h2} high ({h1})"
        yield f"  {report.looked_at:,} looked at: {kinds}; {size}"
    for kind, remedy in REMEDIES.items():
        those = [one for one in report.problems if one.kind == kind]
        if those:
            yield f"{'broken' if kind in BROKEN else 'odd'}: {len(those):,} × {kind}; {remedy}"
            for one in those[:shown]:
                todo = f"; {one.own}" if one.own else ""
                yield f"  {one.split + ': ' if one.split else ''}{printable(one.file)}: {printable(one.fault)}{todo}"
            if len(those) > shown:
                yield f"  and {len(those) - shown:,} more; --json names all"
    yield "something is broken" if report.broken else "nothing is broken"


def _verify(report: Report, root: Path, quiet: bool) -> None:
    """Compare every file of a pack with its length and its checksum."""
    try:
        total = sum(entry["bytes"] for entry in reading.read_header(root)["files"])
        with Progress("verifying", total, "bytes", quiet=quiet) as progress:
            for count, fault in reading.verify(root):
                progress.update(count)
                if fault:
                    report.problems.append(Problem("damaged", "", fault["file"], fault["error"]))
    except AlexNetError as error:
        report.problems.append(Problem("damaged", "", reading.HEADER, str(error)))


@dataclass(frozen=True)
class _Seen:
    """One picture: its kind and size, a hash of its pixels, and what is wrong with it."""

    kind: str = ""
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    problems: tuple[tuple[str, ...], ...] = ()  # kind, fault, and a remedy where it has one of its own


def _look(report: Report, data: Data, full: bool, workers: int, quiet: bool) -> None:
    """Decode all or a sample, and find those that are broken, odd, or there twice."""
    rows = {
        name: np.arange(len(s))
        if full or not len(s)
        else np.unique(np.linspace(0, len(s) - 1, SAMPLE).round().astype(int))
        for name, s in data.splits.items()
    }
    sizes: list[tuple[int, int]] = []
    kinds: Counter[str] = Counter()
    first: dict[bytes, tuple[str, int]] = {}
    with (
        _own_warnings() as said,
        ThreadPoolExecutor(workers, thread_name_prefix="check") as pool,
        Progress("checking", sum(map(len, rows.values())), quiet=quiet) as progress,
    ):
        for name, split in data.splits.items():
            for start in range(0, len(rows[name]), CHUNK * workers):
                some_rows = rows[name][start : start + CHUNK * workers].tolist()
                for row, seen in zip(some_rows, pool.map(partial(_see, split, said), some_rows), strict=True):
                    report.problems += [Problem(kind, name, _name(split, row), *what) for kind, *what in seen.problems]
                    if seen.digest:
                        sizes.append(seen.size)
                        kinds[seen.kind] += 1
                        other = first.setdefault(seen.digest, (name, row))
                        if other != (name, row):
                            report.problems.append(_twice(data, name, row, *other))
                progress.update(len(some_rows))
    report.looked_at, report.kinds = len(sizes), dict(kinds.most_common())
    for axis, values in zip(("width", "height"), zip(*sizes, strict=True), strict=False):
        report.sizes[axis] = [min(values), int(np.median(values)), max(values)]


def _twice(data: Data, name: str, row: int, other_name: str, other: int) -> Problem:
    one, two = data.splits[name], data.splits[other_name]
    label, other_label = (data.classes[s.labels[r]] for s, r in ((one, row), (two, other)))
    kind = "two classes" if label != other_label else "two splits" if name != other_name else "twice"
    what = f" as {label} and as {other_label}" if label != other_label else ""
    return Problem(kind, name, one.name(row), f"the same picture as {two.name(other)} of {other_name}{what}")


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
            deep = _is_deep(picture)
    except Exception:  # what is wrong is told below
        kind, mode, size, xmp, deep = None, "", (0, 0), None, False
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
    """Within its block Pillow's warnings are kept, each thread's apart; calling gives and forgets the thread's own."""
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
