"""Making a pack: every picture decoded once, by all cores, in order; interrupted, it goes on where it stopped.

Threads decode chunks, and their results are taken in order, so the bytes do not depend on how many there are. Files of
pictures are finished one by one; after each, STATE says all that is needed to go on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from alexnet.base.errors import AlexNetError, Interrupted
from alexnet.base.files import hold, next_step, write_bytes
from alexnet.base.progress import Progress
from alexnet.base.signals import StopRequest
from alexnet.base.text import counted
from alexnet.base.turns import in_turns, same
from alexnet.data.dataset import Data, Split
from alexnet.data.identity import identity
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.job import Job, Made, go_on, keep_job
from alexnet.data.packs.reading import FORMAT, HEADER, STATE, VERSION, checksum
from alexnet.data.packs.shards import ShardWriter
from alexnet.data.pictures import Square, Unreadable, check_square, fill_squares
from alexnet.data.statistics import Sums

if TYPE_CHECKING:
    from alexnet.base.distributed import World
    from alexnet.data.packs.sending import Bring

ENCODINGS = ("raw", "jpeg")
SIZE, QUALITY = 256, 85
CHUNK, LEAST = 1 << 21, 4  # a task: so many bytes of decoded pictures, and so many pictures at least
LOOKED_AT = 10_000  # files whose size and time tell whether the source is still the same
SPARE = 1 << 26  # bytes that stay free on the disk


@dataclass(frozen=True)
class Packed:
    """What a pack came to: pictures of each split, bytes on the disk, and the pictures that were left out."""

    pack: str
    pictures: dict[str, int]
    bytes: int
    seconds: float
    images_per_second: float
    failed: list[dict[str, str]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """As plain data, without the list of failures."""
        return {key: value for key, value in asdict(self).items() if key != "failed"}


@next_step("free space or give another place, then the same command goes on")
def pack(
    data: str | Path | Data,
    out: str | Path,
    size: int = SIZE,
    encoding: str = "raw",
    quality: int = QUALITY,
    workers: int = 0,
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
    square: str | None = None,
    world: World | None = None,
) -> Packed:
    """Pack DATA into the folder `out`, pictures of `size` x `size`; an unfinished pack goes on.

    `square` is how a picture becomes a square: crop (default), squash or torchvision (data/pictures.py).

    `encoding` is raw, or jpeg of `quality` 1 to 100. Unreadable pictures are left out and are in `failed`. Of several
    processes in a `world` each makes files in turns; those that do not see `out` send theirs to the first, which knows
    what it came to.
    """
    began = time.monotonic()
    folder = Path(out)
    with world.together() if world else nullcontext():
        job, source = _begin(data, folder, size, encoding, quality, square, say, quiet, world)
    if world and world.size > 1:
        same(world, DATA=source)
        job.shards = world.of_first(job.shards)
    total = sum(len(split) for split in job.data.splits.values())
    done = job.pictures_done
    if done:
        say(f"going on: of {counted(total, 'picture')} {done:,} are packed")
    threads = workers or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    with _places(folder, world, say) as (job.made_in, bring):
        pace = _fill(job, source, threads, total, done, quiet, world, bring)
    if world and not world.first:
        return Packed(str(folder), {}, 0, time.monotonic() - began, pace)
    if not job.sums.counts[0]:
        raise AlexNetError(f"none of the pictures of {job.data.path} can be read; alexnet check tells what is wrong.")
    _finish(job)
    failed = [{"file": one["file"], "error": one["error"]} for one in job.left_out]
    pictures = {name: sum(shards) for name, shards in job.shards.items()}
    size_on_disk = sum(entry["bytes"] for entry in job.files)
    return Packed(str(folder), pictures, size_on_disk, time.monotonic() - began, pace, failed)


def _begin(
    data: str | Path | Data, folder: Path, size: int, encoding: str, quality: int, square: str | None,
    say: Callable[[str], object], quiet: bool, world: World | None,
) -> tuple[Job, str]:  # fmt: skip
    """The job, as an interrupted one was left, with its folder, and what tells its source from others."""
    if encoding not in ENCODINGS:
        raise AlexNetError(f"encoding was given '{encoding}'; it takes {' or '.join(ENCODINGS)}.")
    first = world is None or world.first
    if first:
        _check_folder(folder)
    found = data if isinstance(data, Data) else find_data(data, quiet)
    found.keep_apart("PACK", folder)
    say(found.summary())
    if not len(found.splits.get("train", ())):
        raise AlexNetError(
            f"{found.path} has no pictures to train on, of which a pack keeps the mean; give the whole data set, or "
            "the pictures themselves where they are only evaluated or classified."
        )
    job = Job(
        folder, found, size, encoding, quality if encoding == "jpeg" else 0, Sums(size),
        Square(_square(found, check_square(square) if square else None)),
    )  # fmt: skip
    source = fingerprint(found)
    if not first:
        return job, source
    if (folder / STATE).exists():
        go_on(job, source)
    _check_space(job, sum(len(split) for split in found.splits.values()) - job.pictures_done)
    _make_folder(folder)
    return job, source


def _places(folder: Path, world: World | None, say: Callable[[str], object]) -> AbstractContextManager[tuple]:
    if world is None or world.size == 1:
        return nullcontext((None, None))
    from alexnet.data.packs import sending  # which needs torch

    return sending.apart(folder, world, say)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlexNetError(
            f"cannot make the folder {folder} ({error.strerror}); give one that you may write."
        ) from None


def _fill(
    job: Job, source: str, threads: int, total: int, done: int, quiet: bool, world: World | None,
    bring: Bring | None,
) -> float:  # fmt: skip
    """Make every file that is not made yet, in turns with the other processes, noting each; pictures a second."""
    rank, ranks = (world.rank, world.size) if world else (0, 1)
    with (
        Progress("packing", total, done=done, quiet=quiet) as progress,
        ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool,
        StopRequest() as stop,
    ):
        left = job.files_left()[rank::ranks]
        own = (_make_file(job, name, number, pool, threads, progress, stop) for name, number in left)
        for number, made in enumerate(in_turns(world, own, bring=bring)):
            if number % ranks:
                progress.update(made.pictures)
            job.take(made)
            keep_job(job, source)
        return progress.rate


def fingerprint(data: Data) -> str:
    """Changes when the source does: a hash of labels, names, some pictures, and size and time of 10,000 files."""
    digest = hashlib.sha256(json.dumps([data.layout, data.classes, identity(data)]).encode())
    files = list(data.files)
    for name, split in data.splits.items():
        digest.update(f"{name} {split.origin} {len(split)}".encode())
        digest.update(split.labels.tobytes())
        if not data.files and len(split) and isinstance(split.read(0), Path):
            digest.update("\0".join(split.name(i) for i in range(len(split))).encode("utf-8", "surrogateescape"))
            rows = np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).round().astype(int))
            files += [path for i in rows.tolist() if isinstance(path := split.read(i), Path)]
    for path in files:
        try:
            facts = os.stat(path)
            digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        except OSError:
            digest.update(b"missing")
    return digest.hexdigest()


def _square(data: Data, asked: str | None) -> str:
    """What was asked, or crop; pictures that are squares already stay as they became it."""
    if asked and data.square and asked != data.square:
        raise AlexNetError(
            f"square was given '{asked}', but the pictures of {data.path} are squares by {data.square} already; leave "
            "it out, or pack the whole pictures."
        )
    return data.square or asked or "crop"


# -- before anything is written -----------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.absolute().parent.is_dir():  # else nobody else can be writing it
        hold("PACK", folder)
    if folder.exists() and not folder.is_dir():
        raise AlexNetError(f"PACK {folder} is a file; give a folder, new or empty.")
    if (folder / HEADER).exists():
        raise AlexNetError(f"PACK {folder} already holds a pack; give another folder, or delete that one first.")
    if folder.is_dir() and not (folder / STATE).exists():
        others = [p.name for p in folder.iterdir() if not p.name.endswith(".part")]
        if others:
            raise AlexNetError(f"PACK {folder} holds other files ({others[0]}); give a folder that is new or empty.")


def _check_space(job: Job, pictures: int) -> None:
    """Refuse a raw pack that cannot fit, before hours of work."""
    there = next(p for p in (job.folder, *job.folder.absolute().parents) if p.exists())
    needed = pictures * job.side * job.side * 3 if job.encoding == "raw" else 0
    free = max(0, shutil.disk_usage(there).free - SPARE)
    if needed > free:
        raise AlexNetError(
            f"PACK {job.folder} will take {needed / 1e6:,.0f} MB more and {free / 1e6:,.0f} MB are free there; free "
            "space, give another disk, or a smaller --size, or --encoding jpeg, a tenth of it."
        )


# -- the work -----------------------------------------------------------------------------------------------------


@dataclass
class _Chunk:
    """Some pictures in order: their pixels or JPEG files as one, the size of each, which failed and why."""

    contents: bytes | memoryview
    sizes: list[int]
    failed: dict[int, str]
    pixels: np.ndarray | None = None  # the memory of `contents`


class _Spare:
    """What the threads take, use and give back: fresh memory for each chunk would cost a tenth of the decoding."""

    def __init__(self, side: int, per_chunk: int) -> None:
        self.side, self.per_chunk = side, per_chunk
        self.pixels: deque[np.ndarray] = deque()
        self.sums: deque[Sums] = deque()  # of a file; whole numbers, so it does not matter which has counted what

    def take_pixels(self) -> np.ndarray:
        """uint8 (n, S, S, 3), with any contents."""
        try:
            return self.pixels.pop()
        except IndexError:
            return np.empty((self.per_chunk, self.side, self.side, 3), np.uint8)

    def count(self, pixels: np.ndarray) -> None:
        """Add pictures to the sums."""
        try:
            sums = self.sums.pop()
        except IndexError:
            sums = Sums(self.side)
        self.sums.append(sums.add(pixels))


def _make_file(
    job: Job, name: str, number: int, pool: ThreadPoolExecutor, threads: int, progress: Progress, stop: StopRequest
) -> Made:
    """One file of pictures, from its part of a split: decoded in chunks, written in order."""
    split = job.data.splits[name]
    rows = np.arange(number * job.per_file, min((number + 1) * job.per_file, len(split)))
    file = ShardWriter((job.made_in or job.folder) / f"{name}-{number:05}.npy", job.encoding, job.side, len(rows))
    left_out = []
    # Large enough that the threads meet seldom: small pictures are decoded in less time than they would wait.
    per_chunk = max(LEAST, CHUNK // (job.side * job.side * 3))
    spare = _Spare(job.side, per_chunk)
    try:
        for chunk in _in_order(pool, threads, lambda some: _chunk(job, split, name, some, spare), rows, per_chunk):
            file.add(chunk.contents, chunk.sizes)
            if chunk.pixels is not None:
                spare.pixels.append(chunk.pixels)
            left_out += [
                {"split": name, "row": row, "file": split.name(row), "error": error}
                for row, error in chunk.failed.items()
            ]
            progress.update(len(chunk.sizes) + len(chunk.failed))
            if stop.received:
                raise Interrupted(
                    f"stopped after {counted(progress.done, 'picture')}; the same command goes on",
                    143 if 15 in stop.received else 130,
                )
        entry = file.close()
    except BaseException:
        file.discard()
        raise
    sums = Sums(job.side) if spare.sums else None
    for some in spare.sums:
        cast(Sums, sums).merge(some)
    return Made(name, entry, file.sizes, left_out, sums)


def _in_order(
    pool: ThreadPoolExecutor, threads: int, make: Callable[[np.ndarray], _Chunk], rows: np.ndarray, chunk: int
) -> Iterator[_Chunk]:
    """Chunks made by the threads, a few ahead of the one that is taken."""
    waiting: deque[Future[_Chunk]] = deque()
    try:
        for first in range(0, len(rows), chunk):
            waiting.append(pool.submit(make, rows[first : first + chunk]))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _chunk(job: Job, split: Split, name: str, rows: np.ndarray, spare: _Spare) -> _Chunk:
    memory = spare.take_pixels()
    failed = fill_squares(split.read, rows, memory, np.arange(len(rows)), job.square)
    if failed and not job.data.files:
        _check_there(split, failed)
    pixels = memory[: len(rows)][np.isin(rows, [*failed], invert=True)] if failed else memory[: len(rows)]
    if name == "train":
        spare.count(pixels)
    if job.encoding == "raw":
        return _Chunk(pixels.reshape(-1).data, [job.side * job.side * 3] * len(pixels), failed, memory)
    files = [_jpeg(one, job.quality) for one in pixels]
    spare.pixels.append(memory)
    return _Chunk(b"".join(files), [len(one) for one in files], failed)


def _check_there(split: Split, rows: Iterable[int]) -> None:
    """Refuse to go on without pictures that were files when packing began and are gone."""
    for row in rows:
        with suppress(Unreadable):
            source = split.read(row)
            if isinstance(source, Path) and not os.path.lexists(source):
                raise AlexNetError(
                    f"{source} has gone since packing began; put it back, then the same command goes on."
                )


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _finish(job: Job) -> None:
    """Labels, names, mean and header; with the header it is a pack."""
    known = job.sums.known()
    contents, splits = {"mean.npy": _npy(known.mean)}, {}
    for name, split in job.data.splits.items():
        broken = [one["row"] for one in job.left_out if one["split"] == name]
        rows = np.setdiff1d(np.arange(len(split)), broken)
        contents[f"{name}-labels.npy"] = _npy(split.labels[rows].astype("<i8"))
        contents[f"{name}-names.json"] = json.dumps([split.name(row) for row in rows.tolist()]).encode()
        if job.encoding == "jpeg":
            contents[f"{name}-ends.npy"] = _npy(np.concatenate(job.ends[name]).astype("<i8"))
        splits[name] = {"origin": split.origin, "shards": job.shards[name]}
    for name, text in contents.items():
        write_bytes(job.folder / name, text)
        job.files.append({"name": name, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()})
    header = {
        "format": FORMAT, "version": VERSION, "side": job.side, "encoding": job.encoding, "quality": job.quality,
        **({} if job.square.how == "crop" else {"square": job.square.how}),
        "layout": job.data.layout, "classes": job.data.classes,
        **({} if job.data.named else {"named": False}), "splits": splits,
        "colour_std": known.colour_std.tolist(), "colour_axes": known.colour_axes.tolist(),
        "left_out": [{key: one[key] for key in ("split", "file", "error")} for one in job.left_out],
        "files": sorted(job.files, key=lambda entry: entry["name"]),
    }  # fmt: skip
    whole = json.dumps({**header, "sha256": checksum(header)}, indent=1).encode()
    write_bytes(job.folder / HEADER, whole)
    (job.folder / STATE).unlink(missing_ok=True)


def _npy(array: np.ndarray) -> bytes:
    """The bytes of a NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
