"""What a pack in the making is, and how far: all that an interrupted one needs to go on."""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.base.files import write_whole
from alexnet.data.dataset import Data
from alexnet.data.packs.reading import STATE, VERSION
from alexnet.data.pictures import Square
from alexnet.data.statistics import Sums

SHARD = {"raw": 1 << 29, "jpeg": 1 << 31}  # bytes of decoded pictures in one file
MOST = 1 << 14  # pictures of the source that one file is made from, however small they are


@dataclass
class Made:
    """A finished file: what is noted of it, pictures' sizes, those left out, and the sums of those to train on."""

    split: str
    entry: dict[str, Any]
    sizes: list[int]
    left_out: list[dict[str, Any]]
    sums: Sums | None

    @property
    def pictures(self) -> int:
        """Of the source."""
        return len(self.sizes) + len(self.left_out)


@dataclass
class Job:
    """What is being made, and how far it is; `done` counts finished files of pictures over all splits."""

    folder: Path
    data: Data
    side: int
    encoding: str
    quality: int
    sums: Sums
    square: Square
    made_in: Path | None = None  # where this process makes its files, where it does not see the folder
    files: list[dict[str, Any]] = field(default_factory=list)
    shards: dict[str, list[int]] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def per_file(self) -> int:
        """Pictures of the source that one file is made from: a power of two."""
        return min(MOST, 1 << max(0, (SHARD[self.encoding] // (self.side * self.side * 3)).bit_length() - 1))

    @property
    def pictures_done(self) -> int:
        """Pictures of the source that the finished files are made from."""
        splits = self.data.splits.items()
        return sum(min(self.per_file * len(self.shards.get(n, [])), len(s)) for n, s in splits)

    def files_left(self) -> list[tuple[str, int]]:
        """The split and the number of each file to be made, in order."""
        return [
            (name, number)
            for name, split in self.data.splits.items()
            for number in range(len(self.shards.setdefault(name, [])), -(-len(split) // self.per_file))
        ]

    def take(self, made: Made) -> None:
        """Count a file as finished."""
        path = self.folder / made.entry["name"]
        if not path.exists() or path.stat().st_size != made.entry["bytes"]:
            raise AlexNetError(
                f"{path} was made by another process and is not to be seen here; give a PACK on a disk that all "
                "machines share."
            )
        self.files.append(made.entry)
        self.shards[made.split].append(len(made.sizes))
        if made.sums is not None:
            self.sums.merge(made.sums)
        self.left_out += made.left_out
        if self.encoding == "jpeg":
            self.ends.setdefault(made.split, []).append(np.cumsum(made.sizes, dtype=np.int64))

    def settings(self) -> dict[str, Any]:
        """What must be the same to go on; `square` only where it is not crop, as before there was a choice."""
        settings = {"size": self.side, "encoding": self.encoding, "quality": self.quality, "version": VERSION}
        return settings if self.square.how == "crop" else {**settings, "square": self.square.how}


def go_on(job: Job, source: str) -> None:
    """Take up what an interrupted run has left; other settings or another source are an error that says so."""
    try:
        with open(job.folder / STATE, "rb") as file, np.load(file, allow_pickle=False) as state:
            facts = json.loads(state["facts"].tobytes())
            arrays = {name: state[name] for name in state.files}
        _take_up(job, facts, arrays, source)
    except UNFIT as error:
        raise AlexNetError(f"{job.folder / STATE} is damaged ({error}); delete {job.folder} and pack anew.") from None


UNFIT = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, IndexError, RecursionError, MemoryError,
    NotImplementedError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _take_up(job: Job, facts: dict[str, Any], arrays: dict[str, np.ndarray], source: str) -> None:
    if facts["settings"] != job.settings():
        was = ", ".join(f"{k} {v}" for k, v in facts["settings"].items())
        raise AlexNetError(f"PACK {job.folder} was begun with {was}; give the same to go on, or another folder.")
    if facts["source"] != source:
        raise AlexNetError(
            f"DATA {job.data.path} has changed since packing into {job.folder} began; delete that folder and pack anew."
        )
    for entry in facts["files"]:
        path = job.folder / Path(entry["name"]).name
        if not path.exists() or path.stat().st_size != entry["bytes"]:
            raise AlexNetError(f"{path} is not as it was left; delete {job.folder} and pack anew.")
    job.files, job.shards, job.left_out = facts["files"], facts["shards"], facts["left_out"]
    job.sums.fill(arrays["sums"])
    job.ends = {name: [arrays[f"ends-{name}"]] for name in job.shards if f"ends-{name}" in arrays}


def keep_job(job: Job, source: str) -> None:
    """Write all that is needed to go on."""
    facts = {
        "settings": job.settings(), "source": source, "files": job.files, "shards": job.shards,
        "left_out": job.left_out,
    }  # fmt: skip
    arrays: dict[str, Any] = {f"ends-{name}": np.concatenate(ends) for name, ends in job.ends.items()}
    arrays |= {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8), "sums": job.sums.vector()}
    write_whole(job.folder / STATE, lambda file: np.savez(file, **arrays))
