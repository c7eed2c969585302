"""Which classes a picture most probably shows: from files, folders or pictures in memory, and tables of the answers."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.checkpoint import Classifier, load
from alexnet.data.layouts import files_below
from alexnet.data.pictures import Source, Unreadable
from alexnet.errors import AlexNetError
from alexnet.files import write_whole
from alexnet.progress import Progress

COLUMNS = ("filename", "label", "index", "prob")
TABLES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class ClassProbability:
    """A class with its index and its probability, 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a picture, best first; or, with `error`, why there are none."""

    file: str
    classes: list[ClassProbability]
    error: str | None = None


def predict(
    model: str | Path | Classifier,
    pictures: Source | Iterable[Source],
    topk: int = 5,
    batch_size: int = 64,
    device: str = "auto",
    quiet: bool = True,
) -> list[Prediction]:
    """The `topk` most probable classes of each picture, in order, one central view in float32.

    Pictures are paths, encoded bytes, PIL images or uint8 arrays (H, W[, 3]). One that cannot be read gives a
    Prediction with `error` and no classes.
    """
    if topk < 1:
        raise AlexNetError(f"topk was given {topk}; it takes 1 or more.")
    if isinstance(model, Classifier):
        classifier = model
    else:
        from alexnet.device import choose_device

        classifier = load(model, choose_device(device))
    several = (
        [pictures] if isinstance(pictures, str | Path | bytes) or hasattr(pictures, "__array_interface__") else pictures
    )
    return list(stream(classifier, list(several), topk, batch_size, quiet))  # type: ignore[arg-type]


def stream(
    classifier: Classifier, pictures: Sequence[Source], topk: int, batch_size: int = 64, quiet: bool = True
) -> Iterator[Prediction]:
    """Predictions one by one, in order; pictures are decoded by threads, a batch at a time."""
    waiting = iter(enumerate(pictures))
    threads = os.cpu_count() or 1
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress("predicting", len(pictures), "pictures", quiet=quiet) as progress,
    ):
        while chunk := list(islice(waiting, batch_size)):
            decoded = list(pool.map(lambda item: _pixels(classifier, item[1]), chunk))
            good = [one for one in decoded if isinstance(one, Tensor)]
            tops = iter(_classify(classifier, torch.stack(good), topk) if good else ())
            for (number, source), one in zip(chunk, decoded, strict=True):
                name = str(source) if isinstance(source, str | Path) else f"picture {number}"
                yield (Prediction(name, next(tops)) if isinstance(one, Tensor) else Prediction(name, [], str(one)))
            progress.update(len(chunk))


def _pixels(classifier: Classifier, source: Source) -> Tensor | Unreadable:
    try:
        return classifier.preprocess.pixels(source)
    except Unreadable as error:
        return error


@torch.no_grad()
def _classify(classifier: Classifier, pixels: Tensor, topk: int) -> list[list[ClassProbability]]:
    preprocess = classifier.preprocess
    images = preprocess.normalise(preprocess.central(pixels.to(classifier.device)))
    probabilities = torch.softmax(classifier.model(images), 1)
    best = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
    return [
        [ClassProbability(classifier.classes[i], i, p) for i, p in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def find_pictures(arguments: Sequence[str]) -> list[str]:
    """The files named, and every file below the folders named, in order; a path that is not there stays, to fail."""
    found: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            found.append(argument)
            continue
        below = files_below(path)
        if not below:
            raise AlexNetError(f"{argument} is a folder without files; give pictures or a folder that holds some.")
        found += map(str, below)
    return found


# -- tables -----------------------------------------------------------------------------------------------------


def check_table(path: Path) -> None:
    """Refuse, before any work, a table that could not be written."""
    if path.suffix not in TABLES:
        raise AlexNetError(f"--output was given {path}; its name must end in {', '.join(TABLES)}.")
    if not path.parent.is_dir():
        raise AlexNetError(f"--output {path}: there is no folder {path.parent}; make it, or give another place.")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise AlexNetError(f"--output {path} cannot be written; give a place that you may write.")


def write_table(path: Path, predictions: Iterable[Prediction]) -> None:
    """One row a picture and class: filename, label, index, prob; csv, jsonl or parquet by the name's end."""
    rows = [
        dict(zip(COLUMNS, (one.file, c.label, c.index, c.probability), strict=True))
        for one in predictions
        for c in one.classes
    ]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = (pa.string(), pa.string(), pa.int64(), pa.float64())
        schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
        write_whole(path, lambda file: pq.write_table(pa.Table.from_pylist(rows, schema), file))
        return
    text = io.StringIO()
    if path.suffix == ".csv":
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))


def as_json(predictions: Iterable[Prediction]) -> dict[str, Any]:
    """The contract's object: results, and the pictures that failed."""
    results, failed = [], []
    for one in predictions:
        if one.error is None:
            results.append({"file": one.file, "classes": [asdict(c) for c in one.classes]})
        else:
            failed.append({"file": one.file, "error": one.error})
    return {"results": results, "failed": failed}
