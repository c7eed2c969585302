"""Files that are written whole or not at all, and the folder where this program keeps its own."""

from __future__ import annotations

import errno
import glob
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from alexnet.base.errors import AlexNetError, CannotWrite
from alexnet.base.speaking import is_first

if TYPE_CHECKING:
    import filelock

CACHE_VARIABLE = "ALEXNET_CACHE"
PATIENCE = 90.0  # seconds in which the system of a killed process gives its locks back, on other machines too


class Seekable(io.RawIOBase):
    """What files of `size` bytes that stand elsewhere have in common: where one is, `at`."""

    size: int
    at: int

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at


def cache_folder() -> Path:
    """$ALEXNET_CACHE, or alexnet in the user's cache folder. Raises AlexNetError where there is no home folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
    except RuntimeError:
        raise AlexNetError(
            f"there is no home folder to keep a cache in; set {CACHE_VARIABLE} to a folder that you may write."
        ) from None


def check_new(what: str, path: Path, suffixes: Iterable[str] | None = None, beside: Iterable[Path] = ()) -> None:
    """Refuse, before any work, a new file that could not be written, or where it or one that goes `beside` it is.

    `what` is its option or place on the command line; any name is taken where no suffixes are given.
    """
    if suffixes is not None and path.suffix not in suffixes:
        *others, last = (suffix or "a folder, whose name has no ending" for suffix in suffixes)
        endings = f"{', '.join(others)} or {last}" if others else last
        raise AlexNetError(f"{what} was given {path}; it writes {endings}.")
    if not path.absolute().parent.is_dir():
        raise AlexNetError(f"{what} {path}: there is no folder {path.parent}; make it, or give another place.")
    for one in (path, *beside):
        if os.path.lexists(one):
            there = "" if one == path else f": {one}"
            raise AlexNetError(f"{what} {path}{there} exists already; give another name, or move it away.")
    if not os.access(path.absolute().parent, os.W_OK):
        raise AlexNetError(f"{what} {path} cannot be written; give a place that you may write.")
    for one in (path, *beside):
        hold(what, one)
        if os.path.lexists(one):  # another process has just put it there
            raise AlexNetError(f"{what} {one} exists already; give another name, or move it away.")


_locks: dict[Path, filelock.FileLock] | None = None  # of the outputs of the command that runs


@contextmanager
def one_writer() -> Iterator[None]:
    """While a command runs, the outputs that it holds are its process's alone."""
    global _locks
    if _locks is not None:  # a command within a command
        yield
        return
    _locks = {}
    try:
        yield
    finally:
        for place, lock in _locks.items():
            with suppress(OSError):
                place.unlink()
            lock.release()
        _locks = None


def hold(what: str, path: Path) -> None:
    """Be the only process that writes `path`, until the command ends; what killed ones left beside it goes.

    Of torchrun's processes the first writes.
    """
    place = path.absolute().with_name(f".{path.name}.lock")
    if _locks is None or place in _locks or not is_first():
        return
    import filelock

    lock = filelock.FileLock(place)
    with writing(path):
        try:
            if not take_lock(lock, path, PATIENCE if os.environ.get("TORCHELASTIC_RUN_ID") else 0):
                return
        except filelock.Timeout:
            raise AlexNetError(
                f"{what} {path} is being written by another process; wait until that has ended, or give another name."
            ) from None
    _locks[place] = lock
    for part in place.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if part.name.removeprefix(f".{path.name}.").removesuffix(".part").isdecimal():  # not another output's, NAME.x
            with suppress(OSError):
                part.unlink()


def take_lock(lock: filelock.FileLock, path: Path, seconds: float = 0) -> bool:
    """Whether the lock of `path` is had within so many seconds, else filelock.Timeout; a disk without locks is said."""
    try:
        lock.acquire(timeout=seconds)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logging.getLogger("alexnet").warning(
            f"the disk of {path} has no locks: let no other process write there meanwhile"
        )
        return False
    return True


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Call `write(file)` on a file beside `path`, then put it in its place: a crash leaves the old or the new."""
    write_all({path: write})


def write_bytes(path: Path, contents: bytes) -> None:
    """`write_whole` of bytes that are there."""
    write_whole(path, lambda file: file.write(contents))


def write_all(writes: Mapping[Path, Callable[[Any], object]]) -> None:
    """Write files that belong together beside their paths, then put them in their places: each whole, or not at all."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in writes}
    try:
        for path, part in parts.items():
            with writing(path), open(part, "wb") as file:
                writes[path](file)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            with writing(path):
                os.replace(part, path)
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)


def clear_parts(folder: Path) -> None:
    """Remove what `write_whole` left in a folder where it was killed; nobody else may be writing there."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            part.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever a library raises where a disk is full or a folder may not be written becomes CannotWrite."""
    try:
        yield
    except AlexNetError:
        raise
    except Exception as error:
        reason = _reason(error, path.parent)
        if reason is None:
            raise
        raise CannotWrite(path, reason) from None


@contextmanager
def next_step(then: str) -> Iterator[None]:
    """Say `then` as what to do next about a file that cannot be written."""
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(error.path, error.reason, then) from None


def reserve(file: IO[bytes], size: int) -> None:
    """Give an open file so many bytes on the disk now, for a library that a disk which fills up later would crash."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file.fileno(), 0, size)


NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
DENIED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def _reason(error: BaseException | None, folder: Path) -> str | None:
    """Why nothing can be written, by the error, by those that it followed, or by trying; None where that is not it."""
    first = error
    while error is not None:
        if isinstance(error, OSError) and error.errno and (error is first or error.errno in DENIED):
            return os.strerror(error.errno)
        error = error.__context__
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
    except OSError as denied:
        return denied.strerror
    return str(first) if isinstance(first, OSError) else None
