"""One file of a pack's pictures: a NumPy array of uint8, appended to and read from any place."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base.errors import AlexNetError, CannotWrite
from alexnet.base.limits import too_many_open

HEADER_BYTES = 128
SYNCED = 1 << 25  # bytes after which a file that grows is put on the disk, so that its end has little left to wait for


class Shard:
    """An open file of pictures, closed when nobody uses it any more.

    Mapped, a copy costs what memory costs; read, a disk is asked for a picture at once and not page by page.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], mapped: bool) -> None:
        self.path, self.file = path, -1
        self.map: mmap.mmap | None = None
        try:
            self.file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            header = os.read(self.file, HEADER_BYTES)
            if header == npy_header(shape) and mapped:
                self.map = mmap.mmap(self.file, 0, access=mmap.ACCESS_READ)
                self.pages = np.frombuffer(self.map, np.uint8)
                os.close(self.file)  # the map has one of its own
                self.file = -1
        except (OSError, ValueError) as error:
            raise too_many_open(error, path) or AlexNetError(
                f"{path} cannot be opened ({error}); copy it again."
            ) from None
        if header != npy_header(shape):
            raise damaged(path)
        self._lock = threading.Lock()

    def read(self, out: np.ndarray, start: int) -> None:
        """Fill uint8 (n,) from that byte of the array on."""
        start += HEADER_BYTES
        try:
            if self.map is not None:
                # Pages beyond the end of a file that has been cut short would end the process.
                count = min(len(out), self.map.size() - start)
                if count == len(out):
                    out[:] = self.pages[start : start + count]
            elif hasattr(os, "preadv"):
                count = os.preadv(self.file, [out.data], start)
            else:
                with self._lock:
                    os.lseek(self.file, start, os.SEEK_SET)
                    contents = os.read(self.file, len(out))
                count = len(contents)
                out[:count] = np.frombuffer(contents, np.uint8)
        except OSError as error:
            raise AlexNetError(f"{self.path} cannot be read ({error.strerror}); see to its disk.") from None
        if count != len(out):
            raise AlexNetError(f"{self.path} has been cut short while it was read; copy it again.")

    def ahead(self, start: int, size: int) -> None:
        """Tell the system that these bytes of the array will be wanted soon."""
        start += HEADER_BYTES
        if self.map is not None and hasattr(mmap, "MADV_WILLNEED"):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self.map.madvise(mmap.MADV_WILLNEED, page, start + size - page)
        elif self.map is None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file, start, size, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The 128 bytes that open a NumPy file of uint8 of that shape (format 1.0)."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
    return (
        b"\x93NUMPY\x01\x00"
        + (HEADER_BYTES - 10).to_bytes(2, "little")
        + text.ljust(HEADER_BYTES - 11).encode()
        + b"\n"
    )


def damaged(path: Path) -> AlexNetError:
    """The error of a file of a pack that is not as it was made."""
    return AlexNetError(f"{path} is damaged; alexnet check {path.parent} tells what else is, then make the pack again.")


class ShardWriter:
    """A NumPy file that grows, under another name until it is whole."""

    def __init__(self, path: Path, encoding: str, side: int, expected: int) -> None:
        self.path, self.part = path, path.with_name(f".{path.name}.part")
        self.encoding, self.side, self.sizes = encoding, side, list[int]()
        # Most often no picture is broken; then this is the header, and the checksum is ready with the last picture.
        self.header = npy_header((expected, side, side, 3))
        self.digest, self.unsynced = hashlib.sha256(self.header), 0
        try:
            self.file = open(self.part, "wb")  # noqa: SIM115, closed by close and discard
            self.file.write(self.header)
        except OSError as error:
            raise self._cannot(error) from None

    def add(self, contents: bytes | memoryview, sizes: list[int]) -> None:
        """Append pictures, each of so many bytes."""
        try:
            self.file.write(contents)
            self.unsynced += sum(sizes)
            if self.unsynced >= SYNCED:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.unsynced = 0
        except OSError as error:
            raise self._cannot(error) from None
        self.digest.update(contents)
        self.sizes += sizes

    def close(self) -> dict[str, Any]:
        """Put the file in its place; its name, length and checksum."""
        raw = (len(self.sizes), self.side, self.side, 3)
        header = npy_header(raw if self.encoding == "raw" else (sum(self.sizes),))
        try:
            if header != self.header:
                self.file.seek(0)
                self.file.write(header)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            if header != self.header:
                with open(self.part, "rb") as written:
                    self.digest = hashlib.file_digest(written, "sha256")
            os.replace(self.part, self.path)
        except OSError as error:
            raise self._cannot(error) from None
        return {
            "name": self.path.name, "bytes": len(header) + sum(self.sizes), "sha256": self.digest.hexdigest(),
        }  # fmt: skip

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # what was not written yet found no place
            self.file.close()
        with contextlib.suppress(OSError):
            self.part.unlink(missing_ok=True)

    def _cannot(self, error: OSError) -> AlexNetError:
        return CannotWrite(self.path, error.strerror or str(error))
