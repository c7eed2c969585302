"""Features gathered in a folder, so that they can go on after anything: a file a layer, and a journal of pictures.

A batch is written to the layers' files first and noted in the journal after that. Whatever kills the program, the
journal's whole batches are there; a resumed run cuts the rest off and goes on with the same batches.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base.distributed import World, alone, job, started_again
from alexnet.base.errors import AlexNetError, CannotWrite, Interrupted
from alexnet.base.files import writing
from alexnet.base.text import counted
from alexnet.base.turns import same
from alexnet.data.sources import Named, Sources
from alexnet.engines.exported import Absent
from alexnet.inference.features import FeatureBatch, Pool, feature_batches, row_shape
from alexnet.weights.classifier import Classifier

NPY_HEADER = 256  # bytes; room for any shape, so that the number of rows can be set last
COPY = 1 << 26  # bytes that are in memory while gathered rows are copied
ABOUT, JOURNAL = "about.json", "pictures.jsonl"
JOB = ".job"  # of torchrun, whose restarts go on


@dataclass
class Gathered:
    """A folder of a .npy file a layer and a journal of pictures: `done` are noted, `rows` of them readable."""

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    done: int = 0
    rows: int = 0

    def file(self, layer: str) -> Path:
        return self.folder / f"{layer}.npy"

    def journal(self) -> Iterator[tuple[str, str | None]]:
        """Name of each picture, and why it is not there."""
        with open(self.folder / JOURNAL, encoding="utf-8") as file:
            for line in file:
                name, error = json.loads(line)
                yield name, error

    def filenames(self) -> Iterator[str]:
        """Names of the rows, in order."""
        return (name for name, error in self.journal() if error is None)

    def failed(self) -> list[dict[str, str]]:
        return [{"file": name, "error": error} for name, error in self.journal() if error is not None]

    def array(self, layer: str) -> np.ndarray:
        """The rows of a layer, read from the disk where they are touched."""
        return np.load(self.file(layer), mmap_mode="r")

    def parts(self, layer: str) -> Iterator[np.ndarray]:
        """The rows of a layer, some at a time."""
        return some_at_a_time(self.array(layer))


def some_at_a_time(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in parts of COPY bytes at most."""
    step = max(1, COPY // max(1, rows[:1].nbytes))
    return (rows[first : first + step] for first in range(0, len(rows), step))


def gather(
    classifier: Classifier, sources: Sources, layers: Sequence[str], folder: Path, pool: Pool | None = None,
    batch_size: int = 64, workers: int = 0, resume: bool = False, quiet: bool = True,
    facts: dict[str, Any] | None = None, world: World | None = None,
) -> Gathered:  # fmt: skip
    """Fill the folder, or go on where it stopped; `facts` are noted beside what a resumed one must agree with.

    Of several processes the first alone has the folder; torchrun's restarts go on without `resume`.
    """
    shapes = {name: row_shape(classifier.model, name, pool) for name in layers}
    about = {
        "model": fingerprint(classifier), "pool": pool, "batch size": batch_size, "current folder": sources.folder(),
        "layers": {name: list(shape) for name, shape in shapes.items()},
    }  # fmt: skip
    world, found = world or alone(), Gathered(folder, shapes)
    with world.together():
        sources.check_shared(world)
        if world.first:
            found = _opened(folder, shapes, about, facts or {}, resume)
    if world.size > 1:
        same(world, MODEL=str(about["model"]))
    found.done = world.of_first(found.done)
    named = _after(found, iter(sources)) if world.first else islice(sources, found.done, None)
    batches = feature_batches(
        classifier, named, layers, pool, batch_size, workers, sources.total, found.done, quiet, world
    )
    if not world.first:
        deque(batches, maxlen=0)  # takes part
        return found
    _write(found, batches)
    if not found.rows:
        failed = found.failed()
        shutil.rmtree(folder)
        first = f": {failed[0]['file']}: {failed[0]['error']}" if failed else ""
        raise AlexNetError(f"none of {counted(len(failed), 'picture')} can be read{first}; check them.")
    for name, shape in shapes.items():
        with writing(found.file(name)), open(found.file(name), "r+b") as opened:
            opened.write(_npy_header((found.rows, *shape)))
    (folder / JOB).unlink(missing_ok=True)
    return found


def _write(found: Gathered, batches: Iterable[FeatureBatch]) -> None:
    """Append batches to the layers' files, then to the journal."""
    folder = found.folder
    with ExitStack() as stack:
        try:
            files = {name: stack.enter_context(open(found.file(name), "ab")) for name in found.shapes}
            journal = stack.enter_context(open(folder / JOURNAL, "a", encoding="utf-8"))
            for batch in batches:
                for name, file in files.items():
                    file.write(batch.values[name].data if batch.values[name].size else b"")
                    file.flush()
                lines = zip(batch.names, batch.errors, strict=True)
                journal.write("".join(json.dumps(line) + "\n" for line in lines))
                journal.flush()
                found.done += len(batch.names)
                found.rows += batch.errors.count(None)
        except KeyboardInterrupt:
            said = f"stopped after {counted(found.done, 'picture')}, kept in {folder}: go on with --resume"
            raise Interrupted(said, 130) from None
        except OSError as error:
            raise CannotWrite(
                folder, error.strerror or str(error),
                f"{counted(found.done, 'picture')} done: free space and go on with --resume",
            ) from None  # fmt: skip


def _opened(folder: Path, shapes: dict[str, tuple[int, ...]], about: dict, facts: dict, resume: bool) -> Gathered:
    """The folder, made, or as it was after its last whole batch."""
    found = Gathered(folder, shapes)
    if not folder.exists():
        try:
            folder.mkdir()
            for name in shapes:
                found.file(name).write_bytes(_npy_header((0, *shapes[name])))
            (folder / JOURNAL).touch()
            (folder / ABOUT).write_text(json.dumps(about | facts), "utf-8")
            if job():
                (folder / JOB).write_text(job(), "utf-8")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise CannotWrite(folder, error.strerror or str(error)) from None
        return found
    if not resume and not started_again((folder / JOB).read_text("utf-8") if (folder / JOB).exists() else ""):
        raise AlexNetError(f"{folder} holds features that are not whole; add --resume to go on, or delete it.")
    try:
        was = json.loads((folder / ABOUT).read_text("utf-8"))
        for key, value in about.items():
            if was[key] != value:
                raise AlexNetError(
                    f"--resume: {folder} was begun with {key} {was[key]}, not {value}; give the same, or delete it."
                )
        (folder / JOURNAL).stat()
        sizes = {name: found.file(name).stat().st_size - NPY_HEADER for name in shapes}
    except (OSError, ValueError, KeyError) as error:
        raise AlexNetError(f"--resume: {folder} is not whole ({error}); delete it and begin anew.") from None
    _cut(found, sizes, about["batch size"])
    return found


def _cut(found: Gathered, sizes: dict[str, int], batch_size: int) -> None:
    """Leave whole batches only: those in the journal whose rows are in every file."""
    room = min(size // (4 * math.prod(found.shapes[name])) for name, size in sizes.items())
    kept = 0  # bytes of the journal
    with open(found.folder / JOURNAL, "rb") as file:
        while len(lines := list(islice(file, batch_size))) == batch_size and lines[-1].endswith(b"\n"):
            rows = sum(json.loads(line)[1] is None for line in lines)
            if found.rows + rows > room:
                break
            found.done, found.rows, kept = found.done + batch_size, found.rows + rows, kept + sum(map(len, lines))
    os.truncate(found.folder / JOURNAL, kept)
    for name, shape in found.shapes.items():
        os.truncate(found.file(name), NPY_HEADER + 4 * math.prod(shape) * found.rows)


def _after(found: Gathered, named: Iterator[Named]) -> Iterator[Named]:
    """The pictures that follow those in the journal, which must be the same as they were."""
    for number, (known, _) in enumerate(islice(found.journal(), found.done)):
        name = next(named, (None,))[0]
        if name != known:
            raise AlexNetError(
                f"--resume: picture {number} was {known}, now it is {name or 'missing'}; give the same pictures in the "
                f"same order, or delete {found.folder}."
            )
    yield from named


def fingerprint(classifier: Classifier) -> str:
    """A hash of layers, weights and preprocessing, or of an export's files: equal answers need all of them."""
    digest = hashlib.blake2b(json.dumps(classifier.preprocess.facts()).encode(), digest_size=16)
    model = classifier.model
    if isinstance(model, Absent):
        for file in model.files:
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())
        return digest.hexdigest()
    digest.update(repr((model.channels, model.input, model.variant.layers)).encode())
    for tensor in (classifier.preprocess.mean, *model.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """NumPy's format 1.0, little-endian float32 in C order, padded to a fixed length."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", NPY_HEADER - 10) + text.ljust(NPY_HEADER - 11) + b"\n"
