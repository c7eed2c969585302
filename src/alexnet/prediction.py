"""Which classes a picture most probably shows: a stream of answers in, order and tables of them out."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.checkpoint import Classifier, load
from alexnet.data.pictures import Source
from alexnet.data.sources import Sources
from alexnet.data.stream import named_batches
from alexnet.device import choose_device
from alexnet.engines import attach, device_for
from alexnet.errors import AlexNetError
from alexnet.evaluation import VIEWS, Member, log_probabilities
from alexnet.files import write_whole
from alexnet.progress import Progress

COLUMNS = ("filename", "label", "index", "prob")
TABLES = (".csv", ".jsonl", ".parquet")
ROWS = 10_000  # of a parquet row group


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

    def as_json(self) -> dict[str, Any]:
        """The contract's object: an entry of `results`, or of `failed`."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        return {"file": self.file, "classes": [asdict(c) for c in self.classes]}


def predict(
    model: str | Path | Classifier,
    pictures: Source | Iterable[Source],
    topk: int = 5,
    batch_size: int = 64,
    device: str = "auto",
    views: int = 1,
    quiet: bool = True,
    engine: str | None = None,
) -> list[Prediction]:
    """The `topk` most probable classes of each picture, in order; `stream` as a list."""
    return list(stream(model, pictures, topk, batch_size, device, views, quiet=quiet, engine=engine))


def stream(
    model: str | Path | Classifier,
    pictures: Source | Iterable[Source] | Sources,
    topk: int = 5,
    batch_size: int = 64,
    device: str = "auto",
    views: int = 1,
    workers: int = 0,
    quiet: bool = True,
    engine: str | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Iterator[Prediction]:
    """The `topk` most probable classes of each picture, one by one in order, in float32.

    Pictures are whatever `Sources` takes: paths, folders, patterns, archives, encoded bytes, PIL images or uint8
    arrays (H, W[, 3]), one or an iterable of any length; a few batches are held at a time. One that cannot be read
    gives a Prediction with `error` and no classes. `views` is 1, the central crop, or 10, the paper's ten, whose
    probabilities are averaged. `engine` is auto, torch (default), onnx or openvino; `say` gets why auto chose what.
    """
    if topk < 1:
        raise AlexNetError(f"topk was given {topk}; it takes 1 or more.")
    if views not in VIEWS:
        raise AlexNetError(f"views was given {views}; it takes {' or '.join(map(str, VIEWS))}.")
    if isinstance(model, Classifier):
        classifier = attach(model, engine, batch_size, say)
    else:
        classifier = load(model, choose_device(device_for(engine, device)), engine, batch_size, say)
    sources = pictures if isinstance(pictures, Sources) else Sources(pictures)
    return _stream(classifier, sources, topk, batch_size, views, workers, quiet)


def _stream(
    classifier: Classifier, sources: Sources, topk: int, batch_size: int, views: int, workers: int, quiet: bool
) -> Iterator[Prediction]:
    used = classifier.preprocess
    batches = named_batches(sources, used.stored, used.channels, batch_size, workers, used.squared)
    with Progress("predicting", sources.total, "pictures", quiet=quiet) as progress:
        for batch in batches:
            tops = iter(_classify(classifier, batch.pixels, topk, views) if len(batch.pixels) else ())
            for name, error in zip(batch.names, batch.errors, strict=True):
                yield Prediction(name, next(tops) if error is None else [], error)
            progress.update(len(batch))


@torch.inference_mode()
def _classify(classifier: Classifier, pixels: Tensor, topk: int, views: int) -> list[list[ClassProbability]]:
    member = Member(classifier.model, classifier.preprocess, engine=classifier.engine)
    whole = {classifier.preprocess.key: pixels.to(classifier.device, non_blocking=True)}
    probabilities = log_probabilities([member], [1.0], whole, views).exp()
    best = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
    return [
        [ClassProbability(classifier.classes[i], i, p) for i, p in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


# -- tables -----------------------------------------------------------------------------------------------------


def check_output(path: Path, suffixes: Iterable[str]) -> None:
    """Refuse, before any work, a file that could not be written, or that is there already."""
    if path.suffix not in suffixes:
        raise AlexNetError(f"--output was given {path}; its name must end in {', '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise AlexNetError(f"--output {path}: there is no folder {path.parent}; make it, or give another place.")
    if path.exists():
        raise AlexNetError(f"--output {path} exists; delete it, or give another name.")
    if not os.access(path.parent, os.W_OK):
        raise AlexNetError(f"--output {path} cannot be written; give a place that you may write.")


def write_table(path: Path, predictions: Iterable[Prediction]) -> None:
    """One row a picture and class: filename, label, index, prob; csv, jsonl or parquet by the name's end.

    Rows are written as they come; the file is in its place when the last is.
    """
    rows = ((one.file, c.label, c.index, c.probability) for one in predictions for c in one.classes)
    writers: dict[str, Callable] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    write_whole(path, lambda file: writers[path.suffix](file, rows))


def _csv(file, rows: Iterable[tuple]) -> None:
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    text.detach()


def _jsonl(file, rows: Iterable[tuple]) -> None:
    for row in rows:
        file.write(json.dumps(dict(zip(COLUMNS, row, strict=True))).encode() + b"\n")


def _parquet(file, rows: Iterable[tuple]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(list(zip(COLUMNS, (pa.string(), pa.string(), pa.int64(), pa.float64()), strict=True)))
    with pq.ParquetWriter(file, schema) as writer:
        source = iter(rows)
        while part := list(islice(source, ROWS)):
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*part, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
