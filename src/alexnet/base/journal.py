"""What a command that keeps no file of its own has made so far, so that a killed worker costs a round and no more.

The first process of a job of torchrun keeps it in the cache folder, and so does --resume: a file of records, each with
its length and checksum before it, of which a kill leaves whole ones. It is gone when the command is done.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import filelock
import torch

from alexnet.base.distributed import World, job, started_again
from alexnet.base.errors import AlexNetError
from alexnet.base.files import cache_folder, take_lock, writing
from alexnet.base.version import __version__

FOLDER = "unfinished"  # in the cache folder
HEAD = struct.Struct("<QI")  # bytes, their CRC-32


def kept(world: World, resume: bool) -> bool:
    """Whether a command keeps a journal; the same in all processes."""
    return world.of_first(bool(resume or job()))


class Journal:
    """Rounds of units (torch.save's plain data), of the question that `about` is: `units` of them are there.

    `mark` is what the names before the next unit were.
    """

    def __init__(self, about: dict[str, Any], world: World, resume: bool) -> None:
        self.units, self.mark, self._kept = 0, 0, False
        if world.first:
            text = json.dumps([__version__, about], sort_keys=True)
            self.path = cache_folder() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.rounds"
            with writing(self.path):
                self._open(resume)
        self.units, self.mark = world.of_first((self.units, self.mark))

    def _open(self, resume: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.path.with_suffix(".lock"))
        try:
            take_lock(self._lock, self.path)
        except filelock.Timeout:
            if resume:
                raise AlexNetError(
                    "--resume: another process is answering just this now; wait until it has ended, or leave it out."
                ) from None
            return  # that one keeps what it has made, this one does not
        self._kept, size = True, 0
        self.path.touch()
        for number, (record, end) in enumerate(self._records()):
            if number == 0 and not resume and not started_again(record["job"]):
                break
            size, self.mark = end, record.get("mark", 0)
            self.units += len(record.get("made", ()))
        os.truncate(self.path, size)
        if not size:
            self._write({"job": job()})

    def _records(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole records, and where each ends."""
        with open(self.path, "rb") as file:
            room = os.fstat(file.fileno()).st_size
            while len(head := file.read(HEAD.size)) == HEAD.size:
                size, checksum = HEAD.unpack(head)
                contents = file.read(size) if size <= room else b""
                if len(contents) < size or zlib.crc32(contents) != checksum:
                    return
                yield torch.load(io.BytesIO(contents), weights_only=True), file.tell()

    def _write(self, record: dict[str, Any]) -> None:
        contents = io.BytesIO()
        torch.save(record, contents)
        whole = contents.getvalue()
        with writing(self.path), open(self.path, "ab") as file:
            file.write(HEAD.pack(len(whole), zlib.crc32(whole)) + whole)

    def made(self) -> Iterator[Any]:
        """The units that are there, in order."""
        left = self.units if self._kept else 0
        records = self._records() if left else iter(())
        while left:
            made = next(records)[0].get("made", ())
            left -= len(made)
            yield from made

    def add(self, made: list[Any], mark: int) -> None:
        """Keep a round; `mark` is what all names up to its end were."""
        if self._kept:
            self._write({"made": made, "mark": mark})

    def done(self) -> None:
        """The command has come to its end: nothing has to be kept."""
        if self._kept:
            self.path.unlink(missing_ok=True)
            self._lock.release()
            self._kept = False
