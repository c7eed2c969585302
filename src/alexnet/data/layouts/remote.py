"""Files from afar, whatever fsspec knows: read a block at a time, and again where a read fails or stalls."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.base.files import Seekable, cache_folder, write_whole

BLOCK = 1 << 23  # bytes that are read at once
HELD = 16  # blocks that are kept, of all files together
ATTEMPTS, PATIENCE, PAUSE = 3, 60.0, 1.0  # tries of a read, seconds that each may take, seconds between them
# What file systems call that which changes with a file's contents.
VERSIONS = {
    "checksum", "content-md5", "digest", "etag", "generation", "last-modified", "last_modified", "lastmodified", "md5",
    "md5hash", "modify", "mtime", "updated",
}  # fmt: skip
LISTING = 1  # of the form in which listings are kept
T = TypeVar("T")


class Remote(Seekable):
    """A file of an fsspec file system, for reading from any place; `read_at` may be called by several threads."""

    def __init__(self, system: Any, path: str) -> None:
        facts = patiently(path, lambda: system.info(path))
        if not isinstance(facts.get("size"), int):
            raise AlexNetError(f"{path} does not say how long it is; give an address that does, or a copy on a disk.")
        self.system, self.path, self.size, self.at = system, path, int(facts["size"]), 0
        self.version = sorted((k.lower(), str(v)) for k, v in facts.items() if k.lower() in VERSIONS and v)
        self._lock = threading.Lock()  # threads that want the same block wait for one reading of it

    def read_at(self, start: int, size: int) -> bytes:
        """So many bytes from there; fewer at the file's end."""
        end = min(start + size, self.size)
        if end <= start:
            return b""
        first = start // BLOCK
        with self._lock:
            found = b"".join(_block(self, number) for number in range(first, (end - 1) // BLOCK + 1))
        return found[start - first * BLOCK : end - first * BLOCK]

    def read(self, count: int = -1) -> bytes:
        found = self.read_at(self.at, self.size - self.at if count < 0 else count)
        self.at += len(found)
        return found


@lru_cache(maxsize=HELD)
def _block(remote: Remote, number: int) -> bytes:
    start, end = number * BLOCK, min((number + 1) * BLOCK, remote.size)

    def ask() -> bytes:
        found = remote.system.cat_file(remote.path, start, end)
        if len(found) != end - start:
            raise OSError(f"it gave {len(found):,} bytes where {end - start:,} were asked for")
        return found

    return patiently(remote.path, ask)


def patiently(path: str, read: Callable[[], T]) -> T:
    """Call `read` until it gives something, ATTEMPTS times at most; then the error names the file."""
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        answer: list[T] = []
        faults: list[BaseException] = []
        # Nothing can stop a read that stalls; its thread ends with the program.
        thread = threading.Thread(target=_answer, args=(read, answer, faults), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if answer:
            return answer[0]
        fault = f"{faults[0] or type(faults[0]).__name__}" if faults else f"no answer in {PATIENCE:g} s"
    raise AlexNetError(f"{path} cannot be read ({fault}), tried {ATTEMPTS} times; see to it, then go on with --resume.")


def _answer(read: Callable[[], T], answer: list[T], faults: list[BaseException]) -> None:
    try:
        answer.append(read())
    except BaseException as error:
        faults.append(error)


# -- listings -----------------------------------------------------------------------------------------------------


class Texts(Sequence[str]):
    """Texts in one piece of memory, 4 bytes more each than they are long; as objects they would take 60 more."""

    def __init__(self, texts: Iterable[str]) -> None:
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._whole, ends = b"".join(parts), np.cumsum([0, *map(len, parts)])
        self._ends = ends.astype(np.uint32) if len(self._whole) < 1 << 32 else ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self._whole[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogatepass")


class Listing(NamedTuple):
    """The pictures of a shard in its order: names, class indices int64 (n,), first bytes and sizes int64 (n, 2)."""

    names: Sequence[str]
    labels: np.ndarray
    places: np.ndarray


def kept_at(remote: Remote) -> Path | None:
    """Where that file's listing is kept; None where the file has no version that would tell that it has changed.

    The name is a hash of address, length and version, so another file never has it.
    """
    if not remote.version:
        return None
    system = remote.system
    facts = [LISTING, system.unstrip_protocol(remote.path), remote.size, remote.version]
    # Some addresses lose their host in a path; it is then among the file system's options.
    options = [system.storage_args, system.storage_options]
    digest = hashlib.sha256(json.dumps([facts, options], default=str, sort_keys=True).encode())
    return cache_folder() / "listings" / f"{digest.hexdigest()}.npz"


def recall(file: Path) -> Listing | None:
    """The listing that is kept there; None where there is none, or a damaged one."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as kept:
            return Listing(Texts(json.loads(kept["names"].tobytes())), kept["labels"], kept["places"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def keep(file: Path, listing: Listing) -> None:
    """Keep the listing; where it cannot be written, the shard is read through again the next time."""
    names = np.frombuffer(json.dumps(list(listing.names)).encode(), np.uint8)
    with contextlib.suppress(OSError, AlexNetError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda out: np.savez(out, names=names, labels=listing.labels, places=listing.places))
