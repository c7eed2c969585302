"""Tar archives as they lie, never unpacked: where each file in them begins, and its bytes."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from alexnet.base.errors import AlexNetError
from alexnet.base.files import Seekable
from alexnet.data.faults import POINTER, Fault, Tell, refuse

LONGEST_READ = 1 << 20  # bytes; a listing reads headers only
BLOCK = 512
# What tarfile raises where headers are not as they should be.
DAMAGED = (tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, struct.error, RecursionError, MemoryError)


class ArchiveMember(NamedTuple):
    """A file in an archive: its name, and where its bytes are."""

    name: str
    start: int
    size: int


def members(
    file: BinaryIO, origin: str, start: int = 0, size: int | None = None, tell: Tell = refuse
) -> Iterator[ArchiveMember]:
    """The files of the uncompressed tar at bytes `start` … `start + size` of `file`, in their order.

    A link, a name that leads out of the archive, an archive that is cut short: each is a fault that names `origin`.
    """
    if size is None:
        size = file.seek(0, io.SEEK_END) - start
    window = _Window(file, start, size)
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:
            while (one := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it would remember every one
                if one.isdir():
                    continue
                path = PurePosixPath(one.name)
                if path.is_absolute() or ".." in path.parts:
                    tell(Fault(origin, f"has a member that leads out of it ({one.name})", "get the original"))
                    continue
                if not one.isreg() or one.issparse():
                    tell(Fault(origin, f"has a member that is no plain file ({one.name})", "get the original"))
                    continue
                if one.offset_data + one.size > size:
                    tell(_cut_short(origin))
                    return
                yield ArchiveMember(one.name, start + one.offset_data, one.size)
            window.seek(tar.offset)
            if window.read(BLOCK) != bytes(BLOCK):  # each archive ends with blocks of zeros
                tell(_cut_short(origin))
    except DAMAGED as error:
        file.seek(start)
        if file.read(len(POINTER)) == POINTER:
            tell(Fault(origin, "is only a pointer of Git LFS to the data", "get it with git lfs pull"))
        else:
            tell(Fault(origin, f"is not a whole tar archive ({error})", "copy it again"))
    except OSError as error:
        tell(Fault(origin, f"cannot be read ({error.strerror or error})", "see to its disk"))


def archive_members(path: Path, tell: Tell = refuse) -> list[ArchiveMember]:
    """The files of an archive on the disk."""
    with opened(path) as file:
        return list(members(file, str(path), tell=tell))


def opened(path: Path) -> BinaryIO:
    """The archive, open for reading."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise AlexNetError(f"{path} cannot be opened ({error.strerror}); give a file that you may read.") from None


def read(path: Path, start: int, size: int) -> bytes:
    """Bytes of an archive on the disk."""
    with opened(path) as file:
        try:
            file.seek(start)
            contents = file.read(size)
        except OSError as error:
            raise AlexNetError(f"{path} cannot be read ({error.strerror}); see to its disk.") from None
    if len(contents) != size:
        raise _cut_short(str(path))
    return contents


def _cut_short(origin: str) -> Fault:
    return Fault(origin, "is cut short or damaged", "copy it again")


class _Window(Seekable):
    """A part of a file as a file of its own, from which only a header's worth is read at once."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.at = file, start, size, 0

    def read(self, count: int = -1) -> bytes:
        count = min(count if count >= 0 else self.size, max(0, self.size - self.at))
        if count > LONGEST_READ:
            raise ValueError("a header of more than a megabyte")
        self.file.seek(self.start + self.at)
        contents = self.file.read(count)
        self.at += len(contents)
        return contents
