"""Pictures that a user names: files, folders, patterns, tar archives, parquet files and stdin, one after another.

Nothing is unpacked onto the disk, and a source of any length takes the memory of a few pictures.
"""

from __future__ import annotations

import codecs
import io
import lzma
import os
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.text import counted, printable
from alexnet.data.faults import Fault, Note, encoding, is_pointer
from alexnet.data.layouts import parquet_rows, tars
from alexnet.data.layouts.base import layouts
from alexnet.data.layouts.folders import claims
from alexnet.data.layouts.parquet_columns import image_column, own_pictures
from alexnet.data.layouts.parquet_files import is_answers
from alexnet.data.layouts.walking import LITTER
from alexnet.data.matching import files_of, found_by
from alexnet.data.packs.reading import is_pack
from alexnet.data.pictures import Source, Unreadable, is_source, whole_contents

if TYPE_CHECKING:
    from alexnet.base.distributed import World

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TAR_HEADS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
LARGEST = 1 << 28  # bytes of an encoded picture inside an archive or on stdin, so that none can fill the memory
SHOWN = 5  # links that are not followed
HEAD = 512  # bytes of stdin that say what it is; a block of tar

Named: TypeAlias = "tuple[str, Source | Unreadable]"


class Sources:
    """The pictures that are named, in order, as (name, source or why there is none); iterating opens what is named.

    Takes a picture (data.pictures.Source) or an iterable of them. A string or path is a picture, a folder (all below
    it), a pattern such as `photos/*.jpg`, a tar archive, a parquet file with a column of images, or `-`: on stdin
    names, one a line, a tar archive or one picture. `total` is the number of pictures, None where only reading tells.
    With `absolute`, of names alone, they are the same for any folder that they will be looked for from.

    In folders, patterns and archives what neither is a picture nor called one is passed over, counted in `passed`.
    """

    def __init__(
        self, pictures: Source | Iterable[Source], stdin: BinaryIO | None = None, absolute: bool = False
    ) -> None:
        single = is_source(pictures)
        self.pictures: Iterable[Source] = [pictures] if single else pictures  # type: ignore[list-item, assignment]
        if absolute:
            self.pictures = [
                os.path.abspath(one) if isinstance(one, str | os.PathLike) and str(one) != "-" else one
                for one in self.pictures
            ]
        try:
            iter(self.pictures)  # a data set may have no __iter__ and yet be one
        except TypeError:
            raise AlexNetError(
                f"pictures were given as {type(pictures).__name__}; give paths, bytes, open files, PIL images, arrays "
                "or tensors, one or several."
            ) from None
        self.stdin, self.absolute = stdin, absolute
        self.passed = Passed()
        self._several = isinstance(self.pictures, Sequence)  # which can be gone through more than once
        self.total = _total(self.pictures) if isinstance(self.pictures, Sequence) else None

    def __iter__(self) -> Iterator[Named]:
        self.passed = Passed()
        for number, one in enumerate(self.pictures):
            if not isinstance(one, str | os.PathLike):
                yield f"picture {number}", _held(one)
            elif str(one) == "-":
                yield from _stdin(self.stdin or sys.stdin.buffer, self.passed, self.absolute)
            else:
                yield from _named(one, self.passed)

    def check_shared(self, world: World) -> None:
        """Refuse stdin to several processes, which would each get a part of it."""
        if world.size > 1 and "-" in self.places():
            raise AlexNetError(
                "- was given, and one process alone can read stdin; give names of files, folders or patterns under "
                "torchrun."
            )

    def places(self) -> list[str]:
        """The files, folders and patterns that were named, wherever they are looked for from."""
        return [one if one == "-" else os.path.abspath(one) for one in self._named()]

    def folder(self) -> str:
        """The current folder, where it decides which pictures are meant; else nothing."""
        return "" if all(map(os.path.isabs, self._named())) else os.getcwd()

    def _named(self) -> list[str]:
        return [os.fspath(one) for one in self.pictures if isinstance(one, str | os.PathLike)] if self._several else []


def name_of(named: Named) -> str:
    """What is said of a picture."""
    return named[0]


@dataclass
class Passed:
    """What was passed over: how many files that are no pictures, the first of them, and links not followed."""

    count: int = 0
    first: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        self.first = self.first or name

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.count:
            yield f"passed over {counted(self.count, 'file')} other than pictures, such as {printable(self.first)}"
        yield from map(printable, self.notes[:SHOWN])
        if len(self.notes) > SHOWN:
            yield f"and {len(self.notes) - SHOWN:,} more"


def _held(one: Any) -> Source | Unreadable:
    """A picture that stays as it is now, until a thread decodes it: its owner may close the file or fill the array."""
    try:
        if hasattr(one, "read"):
            return whole_contents(one)
    except Unreadable as error:
        return error
    return one.clone() if hasattr(one, "data_ptr") else one.copy() if isinstance(one, np.ndarray) else one


def _named(argument: str | os.PathLike[str], passed: Passed) -> Iterator[Named]:
    """The pictures that a name or a pattern stands for; a path that is not there stays, to fail by its name."""
    found = found_by(argument)
    if found is None:
        yield from _opened(argument if isinstance(argument, str) else Path(argument), passed)
        return
    told: list[Fault] = []

    def faults() -> Iterator[Named]:
        for fault in told:
            if isinstance(fault, Note):
                passed.notes.append(str(fault).removesuffix("."))
            else:
                yield fault.file, Unreadable(fault.what)
        told.clear()

    for path in files_of(found, told.append):
        yield from faults()
        if _is_source(path):
            yield from _opened(path, passed)
        else:
            passed.add(str(path))
    yield from faults()


def _is_source(path: str | Path) -> bool:
    kind = _kind(path)
    return kind == "tar" or (_has_pictures(path) if kind == "parquet" else claims(os.path.basename(path), Path(path)))


def _has_pictures(path: str | Path) -> bool:
    """Whether a parquet file holds pictures itself, and is no table of those beside it; a broken one is named."""
    try:
        return bool(own_pictures(parquet_rows.opened(path).schema_arrow))
    except Unreadable:
        return True


def _kind(path: str | Path) -> str:
    name = str(path).lower()
    return "tar" if name.endswith(TARS) else "parquet" if name.endswith(".parquet") else "picture"


def _opened(path: str | Path, passed: Passed) -> Iterator[Named]:
    kind = _kind(path)
    if kind == "picture" or not os.path.isfile(path):
        yield str(path), Unreadable("no such file") if "\0" in str(path) else path
    elif kind == "tar":
        yield from _tar(str(path), passed)
    else:
        yield from _parquet(str(path))


def _total(pictures: Sequence[Source]) -> int | None:
    """How many pictures there are; a folder without any is an error before all work."""
    total = 0
    for one in pictures:
        count = _count(one) if isinstance(one, str | os.PathLike) else 1
        if count is None:
            return None
        total += count
    return total


def _count(argument: str | os.PathLike[str]) -> int | None:
    if str(argument) == "-":
        return None
    if (found := found_by(argument)) is None:
        if not os.path.lexists(argument) and str(argument).isalnum():
            _refuse_data(argument, any(one.is_name(str(argument)) for one in layouts()))
        return _rows(argument)
    passed, told, counts = 0, list[Fault](), list[int | None]()
    for path in files_of(found, told.append):
        if _is_source(path):
            counts.append(_rows(path))
        else:
            passed += 1
    counts += [1 for fault in told if not isinstance(fault, Note)]
    if not counts and os.path.isdir(argument):
        _refuse_data(argument, is_pack(Path(argument)))
        others = f"pictures, with {counted(passed, 'other file')}" if passed else "files"
        raise AlexNetError(f"{argument} is a folder without {others}; give pictures or a folder that holds some.")
    return None if None in counts else sum(filter(None, counts))


def _refuse_data(argument: str | os.PathLike[str], is_data: bool) -> None:
    if is_data:
        raise AlexNetError(
            f"{argument} is DATA (labelled pictures) and no picture; give pictures, or give it to a command that takes "
            "DATA, such as alexnet evaluate."
        )


def _rows(path: str | os.PathLike[str]) -> int | None:
    """Pictures in a file; None where only reading it tells."""
    kind = _kind(Path(path))
    if kind == "picture" or not os.path.isfile(path):
        return 1
    if kind == "tar":
        return None
    try:
        opened = parquet_rows.opened(Path(path))
        return opened.metadata.num_rows if _column(opened.schema_arrow) else 1
    except Unreadable:
        return 1


# -- tar --------------------------------------------------------------------------------------------------------


def _tar(name: str, passed: Passed, stream: BinaryIO | None = None) -> Iterator[Named]:
    """The pictures in a tar archive, compressed or not, as they come."""
    try:
        with tarfile.open(None if stream else name, "r|*", fileobj=stream) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header that it has read
                last = member.name.rpartition("/")[2]
                if member.isdir() or last.startswith(".") or last in LITTER:
                    continue
                inside = f"{name}/{member.name}"
                if not member.isfile():
                    yield inside, Unreadable("a link or a device inside an archive, which is not followed")
                elif member.size > LARGEST:
                    yield inside, Unreadable(f"{member.size:,} bytes, more than the {LARGEST:,} that are read")
                else:
                    opened = archive.extractfile(member)
                    contents = opened.read() if opened else b""
                    if claims(last, contents):
                        yield inside, contents
                    else:
                        passed.add(inside)
    except (*tars.DAMAGED, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        what = "only a pointer of Git LFS to the data" if not stream and is_pointer(name) else ""
        yield name, Unreadable(what or f"not a whole tar archive ({error})")


# -- parquet ----------------------------------------------------------------------------------------------------


def _parquet(name: str) -> Iterator[Named]:
    """The pictures in a column of bytes, structs, paths or lists of one, row by row."""
    import pyarrow as pa

    try:
        opened = parquet_rows.opened(name)
        column = _column(opened.schema_arrow)
        if column is None:
            raise Unreadable(
                f"a parquet file with the columns {', '.join(opened.schema_arrow.names)}, none of which holds pictures "
                "(bytes, or a struct of bytes and path)"
            )
        for row, (source, inner) in enumerate(parquet_rows.cells(opened, column)):
            inside = f"{name}/{inner or f'row {row}'}"
            if isinstance(source, bytes) and len(source) > LARGEST:
                source = Unreadable(f"{len(source):,} bytes, more than the {LARGEST:,} that are read")
            yield inside, parquet_rows.picture_beside(name, source) if isinstance(source, str) else source
    except Unreadable as error:
        yield name, error
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        yield name, Unreadable(f"broken parquet file ({first_line(error)})")


def _column(schema: Any) -> str | None:
    """The column of pictures, also of paths of some; a table of answers has none, which names each several times."""
    return None if is_answers(schema) else image_column(schema)


# -- stdin ------------------------------------------------------------------------------------------------------


def _stdin(stream: BinaryIO, passed: Passed, absolute: bool = False) -> Iterator[Named]:
    """What comes on stdin, told by its first bytes: a tar archive, names of pictures, or one picture."""
    head = b""
    while len(head) < HEAD and not _names(head) and (chunk := _some(stream, HEAD - len(head))):
        head += chunk
    if not head:
        raise AlexNetError(
            "nothing came on stdin (-); give it names of pictures, one a line, a tar archive or a picture."
        )
    rest = io.BufferedReader(_Pushed(head, stream))
    if head[257:262] == b"ustar" or head.startswith(TAR_HEADS):
        yield from _tar("-", passed, rest)
    elif _names(head, whole=len(head) < HEAD):
        kind = encoding(head)
        with io.TextIOWrapper(rest, kind, "surrogateescape" if kind == "utf-8" else "replace", newline="\n") as lines:
            for line in lines:
                if name := line.strip("\r\n\ufeff"):
                    name = _with_slashes(name)
                    yield from _named(os.path.abspath(name) if absolute else name, passed)
    else:
        contents = rest.read(LARGEST + 1)
        yield "-", contents if len(contents) <= LARGEST else Unreadable(f"more than {LARGEST:,} bytes on stdin")


def _with_slashes(name: str) -> str:
    """A name as Windows' programs list it, where only with slashes there is such a file."""
    other = name.replace("\\", "/")
    return other if not os.path.lexists(name) and os.path.lexists(other) else name


def _some(stream: BinaryIO, count: int) -> bytes:
    """What has come, at most `count` bytes, waiting for the first: a program may write names slowly."""
    return stream.read1(count) if isinstance(stream, io.BufferedReader) else stream.read(count)


def _names(head: bytes, whole: bool = False) -> bool:
    """Whether the first bytes are those of a line of text, not of a picture (PNM begins with P1 to P7 in a line)."""
    kind = encoding(head)
    text = codecs.getincrementaldecoder(kind)("replace" if kind.startswith("utf-16") else "strict")
    end = "\n".encode("utf-16-le" if kind.startswith("utf-16") else "ascii")
    line, found, _ = head.partition(end)
    if not found and not whole:
        return False
    try:
        words = text.decode(line).rstrip("\r")
    except UnicodeDecodeError:
        return False
    return words.isprintable() and not (len(words) == 2 and words[0] == "P" and words[1] in "1234567f")


class _Pushed(io.RawIOBase):
    """A stream of which some bytes were read already."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head, self.stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if self.head:
            part, self.head = self.head[: len(buffer)], self.head[len(buffer) :]
        else:
            part = _some(self.stream, len(buffer))
        buffer[: len(part)] = part
        return len(part)
