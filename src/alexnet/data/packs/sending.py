"""A pack of several machines that share no disk: files of pictures go to the first process over the network."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError
from alexnet.data.packs.job import Made

PIECE = 1 << 22  # bytes that a process sends at a time: the first has so many of each at once


Bring = Callable[[Made | None, list[Made | None]], None]


@contextmanager
def apart(folder: Path, world: World, say: Callable[[str], object]) -> Iterator[tuple[Path | None, Bring | None]]:
    """Where a process that does not see the first one's PACK makes its files, None for one that does; and what brings
    files to the first, None where all processes see it."""
    seen = folder / f".{world.of_first(uuid.uuid4().hex)}.part"
    if world.first:
        seen.touch()
    try:
        world.barrier()
        sees = seen.exists()
        others = sum(count for (count,) in world.table([not sees]))
    finally:
        if world.first:
            seen.unlink()
    if others:
        say(f"PACK {folder} is not seen by {others} of {world.size} processes: their files are sent to the first")
    own = None if sees else folder / f".{world.rank}.part"
    with world.together():
        if own:
            _make(own)
    bring = partial(_bring, world, own, folder) if others else None
    if not own:
        yield None, bring
        return
    try:
        yield own, bring
    finally:
        shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # where nothing else is in it


def _make(own: Path) -> None:
    """The folder, empty."""
    try:
        shutil.rmtree(own, ignore_errors=True)  # of one that was killed
        own.mkdir(parents=True)
    except OSError as error:
        raise AlexNetError(
            f"cannot make the folder {own} ({error.strerror}); give a PACK that every machine may write."
        ) from None


def _bring(world: World, own: Path | None, folder: Path, made: Made | None, all_made: list[Made | None]) -> None:
    """Send the file that this process has made in `own` to the first, which knows `all_made` by rank; all call it.

    A file is put in its place only when its checksum is that of the one that was made.
    """
    sizes = [size for (size,) in world.table([made.entry["bytes"] if made and own else 0])]
    coming = {rank: one.entry for rank, one in enumerate(all_made) if one and sizes[rank]}
    faults: list[Exception] = []
    with _noted(faults):
        for entry in coming.values():
            _part(folder, entry).unlink(missing_ok=True)
    for start in range(0, max(sizes), PIECE):
        counts = [min(PIECE, max(0, size - start)) for size in sizes]
        piece = np.zeros(counts[world.rank], np.uint8)
        if made and own and len(piece):
            with _noted(faults):
                piece[:] = np.fromfile(own / made.entry["name"], np.uint8, len(piece), offset=start)
        to, none = [len(piece), *[0] * (world.size - 1)], [0] * world.size
        found = world.exchange(torch.from_numpy(piece), to, counts if world.first else none).numpy()
        for rank, entry in coming.items():
            with _noted(faults), open(_part(folder, entry), "ab") as file:
                file.write(found[sum(counts[:rank]) : sum(counts[: rank + 1])].tobytes())
    for entry in coming.values():
        with _noted(faults):
            _put(folder, entry)
    fault = f"PACK {folder}: a file of pictures was not sent over ({faults[0]}); " if faults else ""
    world.agree(AlexNetError(f"{fault}see to the disks, then the same command goes on.") if faults else None)
    if made and own:
        (own / made.entry["name"]).unlink()


@contextmanager
def _noted(faults: list[Exception]) -> Iterator[None]:
    """What goes wrong on a disk is told when all have exchanged all: nobody is left waiting."""
    try:
        yield
    except (OSError, ValueError) as error:
        faults.append(error)


def _part(folder: Path, entry: dict[str, Any]) -> Path:
    return folder / f".{entry['name']}.part"


def _put(folder: Path, entry: dict[str, Any]) -> None:
    """What has come, in its place."""
    with open(_part(folder, entry), "rb+") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['name']} has another checksum than where it was made")
        os.fsync(file.fileno())
    os.replace(_part(folder, entry), folder / entry["name"])
