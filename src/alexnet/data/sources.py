"""Pictures that a user names: files, folders, patterns, tar archives, parquet files and stdin, one after another.

Nothing is unpacked onto the disk, and a source of any length takes the memory of a few pictures.
"""

from __future__ import annotations

import codecs
import glob
import io
import lzma
import os
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from alexnet.data.folders import LITTER, walk
from alexnet.data.pictures import Source, Unreadable, contents, is_source
from alexnet.errors import AlexNetError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TAR_HEADS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
LARGEST = 1 << 28  # bytes of an encoded picture inside an archive or on stdin, so that none can fill the memory
HEAD = 512  # bytes of stdin that say what it is; a block of tar

Named: TypeAlias = "tuple[str, Source | Unreadable]"


class Sources:
    """The pictures that are named, in order, as (name, source or why there is none); iterating opens what is named.

    Takes a picture (data.pictures.Source) or an iterable of them. A string or path is a picture, a folder (all below
    it), a pattern such as `photos/*.jpg`, a tar archive, a parquet file with a column of images, or `-`: on stdin
    names, one a line, a tar archive or one picture. `total` is the number of pictures, None where only reading tells.
    """

    def __init__(self, pictures: Source | Iterable[Source], stdin: BinaryIO | None = None) -> None:
        single = is_source(pictures)
        self.pictures: Iterable[Source] = [pictures] if single else pictures  # type: ignore[list-item, assignment]
        if not isinstance(self.pictures, Iterable):
            raise AlexNetError(
                f"pictures were given as {type(pictures).__name__}; give paths, bytes, open files, PIL images, arrays "
                "or tensors, one or several."
            )
        self.stdin = stdin
        self.total = _total(self.pictures) if isinstance(self.pictures, Sequence) else None

    def __iter__(self) -> Iterator[Named]:
        for number, one in enumerate(self.pictures):
            if not isinstance(one, str | os.PathLike):
                yield f"picture {number}", _held(one)
            elif str(one) == "-":
                yield from _stdin(self.stdin or sys.stdin.buffer)
            else:
                for path in _paths(one):
                    yield from _opened(path)


def _held(one: Any) -> Source | Unreadable:
    """A picture that stays as it is now, until a thread decodes it: its owner may close the file or fill the array."""
    try:
        if hasattr(one, "read"):
            return contents(one)
    except Unreadable as error:
        return error
    return one.clone() if hasattr(one, "data_ptr") else one.copy() if isinstance(one, np.ndarray) else one


def _paths(argument: str | os.PathLike[str]) -> Iterable[str | Path]:
    """The files that an argument names; a path that is not there stays, to fail by its name."""
    path = Path(argument)
    if path.is_dir():
        below = walk(path)
        first = next(below, None)
        if first is None:
            raise AlexNetError(f"{argument} is a folder without files; give pictures or a folder that holds some.")
        return _chain(first, below)
    pattern = glob.has_magic(str(argument)) and not path.exists()
    if pattern and (found := sorted(glob.glob(str(argument), recursive=True))):
        return (file for one in found for file in (walk(Path(one)) if Path(one).is_dir() else [one]))
    return [path if isinstance(argument, os.PathLike) else argument]


def _chain(first: Path, rest: Iterator[Path]) -> Iterator[Path]:
    yield first
    yield from rest


def _kind(path: str | Path) -> str:
    name = str(path).lower()
    return "tar" if name.endswith(TARS) else "parquet" if name.endswith(".parquet") else "picture"


def _opened(path: str | Path) -> Iterator[Named]:
    kind = _kind(path)
    if kind == "picture" or not Path(path).is_file():
        yield str(path), path
    elif kind == "tar":
        yield from _tar(str(path))
    else:
        yield from _parquet(str(path))


def _total(pictures: Sequence[Source]) -> int | None:
    total = 0
    for one in pictures:
        if not isinstance(one, str | os.PathLike):
            total += 1
            continue
        for path in _paths(one):
            kind = _kind(path)
            if str(path) == "-" or (kind == "tar" and Path(path).is_file()):
                return None
            total += _rows(path) if kind == "parquet" and Path(path).is_file() else 1
    return total


# -- tar --------------------------------------------------------------------------------------------------------


def _tar(name: str, stream: BinaryIO | None = None) -> Iterator[Named]:
    """The files in a tar archive, compressed or not, as they come."""
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
                    yield inside, opened.read() if opened else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        yield name, Unreadable(f"not a whole tar archive ({error})")


# -- parquet ----------------------------------------------------------------------------------------------------


def _parquet_file(path: str | Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"not a whole parquet file ({error})") from None


def _rows(path: str | Path) -> int:
    try:
        return _parquet_file(path).metadata.num_rows
    except Unreadable:
        return 1


def _parquet(name: str) -> Iterator[Named]:
    """The pictures in a column of bytes or of {bytes, path}, row by row."""
    import pyarrow as pa

    try:
        opened = _parquet_file(name)
        column = _image_column(opened.schema_arrow)
        row = 0
        for batch in opened.iter_batches(batch_size=16, columns=[column]):
            for cell in batch.column(0):
                value = cell.as_py()
                inner = value.get("path") if isinstance(value, dict) else None
                contents = value.get("bytes") if isinstance(value, dict) else value
                yield f"{name}/{inner or f'row {row}'}", contents or b""
                row += 1
    except Unreadable as error:
        yield name, error
    except (pa.ArrowException, OSError) as error:
        yield name, Unreadable(f"broken parquet file ({error})")


def _image_column(schema) -> str:
    import pyarrow as pa

    def holds_pictures(type) -> bool:
        if pa.types.is_struct(type):
            return type.get_field_index("bytes") >= 0
        return pa.types.is_binary(type) or pa.types.is_large_binary(type)

    able = [field.name for field in schema if holds_pictures(field.type)]
    if not able:
        raise Unreadable(
            f"a parquet file with the columns {', '.join(schema.names)}, none of which holds pictures (bytes, or a "
            "struct of bytes and path)"
        )
    return next((name for name in ("image", "img") if name in able), able[0])


# -- stdin ------------------------------------------------------------------------------------------------------


def _stdin(stream: BinaryIO) -> Iterator[Named]:
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
        yield from _tar("-", rest)
    elif _names(head, whole=len(head) < HEAD):
        for line in rest:
            if name := line.decode(errors="surrogateescape").strip("\r\n"):
                for path in _paths(name):
                    yield from _opened(path)
    else:
        contents = rest.read(LARGEST + 1)
        yield "-", contents if len(contents) <= LARGEST else Unreadable(f"more than {LARGEST:,} bytes on stdin")


def _some(stream: BinaryIO, count: int) -> bytes:
    """What has come, at most `count` bytes, waiting for the first: a program may write names slowly."""
    return stream.read1(count) if isinstance(stream, io.BufferedReader) else stream.read(count)


def _names(head: bytes, whole: bool = False) -> bool:
    """Whether the first bytes are those of a line of text, not of a picture (PNM begins with P1 to P7 in a line)."""
    line, end, _ = head.partition(b"\n")
    if not end and not whole:
        return False
    try:
        text = codecs.decode(line, "utf-8").rstrip("\r")
    except UnicodeDecodeError:
        return False
    return text.isprintable() and not (len(text) == 2 and text[0] == "P" and text[1] in "1234567f")


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
