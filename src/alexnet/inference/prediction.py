"""Which classes a picture most probably shows: a stream of answers in, order and tables of them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.base import tables
from alexnet.base.device import choose_device, send
from alexnet.base.distributed import World, alone
from alexnet.base.errors import AlexNetError, check_least
from alexnet.base.journal import Journal, kept
from alexnet.base.progress import Progress
from alexnet.base.turns import Dealt, in_turns, same
from alexnet.data.pictures import Source
from alexnet.data.sources import Sources, name_of
from alexnet.data.stream import named_batches
from alexnet.engines.loading import attach, check_engine, device_for, load_classifier
from alexnet.inference.feature_folder import fingerprint
from alexnet.inference.features import filled
from alexnet.inference.scoring import VIEWS, Member, log_probabilities
from alexnet.networks.fast.cpu import rows
from alexnet.networks.model import for_pictures
from alexnet.weights.classifier import Classifier

# Of a table: a picture's name, then those of an entry of `classes` in the JSON.
COLUMNS: dict[str, type] = {"file": str, "rank": int, "label": str, "index": int, "probability": float, "wordnet": str}


@dataclass(frozen=True)
class ClassProbability:
    """A class with its index, its probability, 0 to 1, its rank, from 1, and its WordNet id where that is known."""

    label: str
    index: int
    probability: float
    rank: int = 1
    wordnet: str | None = None

    def as_json(self) -> dict[str, Any]:
        """An entry of `classes`, in the order of a table's columns."""
        given = {**asdict(self), "probability": tables.seven(self.probability)}
        return {name: given[name] for name in COLUMNS if name in given}


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
        return {"file": self.file, "classes": [c.as_json() for c in self.classes]}


def predict(
    model: str | Path | Classifier,
    pictures: Source | Iterable[Source],
    topk: int = 5,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    views: int = 1,
    quiet: bool = True,
    engine: str | None = None,
) -> list[Prediction]:
    """The `topk` most probable classes of each picture, in order, computed in float32.

    `model` is a run folder, a file of weights, the name of published ones, or what `load` gives. `pictures` is one or
    an iterable of any length: paths (of pictures, folders, patterns, tar archives or parquet files), encoded bytes,
    open files, PIL images, uint8 arrays (H, W[, C]) or tensors (C, H, W). One that cannot be read gives a Prediction
    with `error` and no classes. `views` is 1, the central crop, 10, the paper's ten, or 9, those of the author's
    CIFAR-10 nets, whose probabilities are averaged. `device` is auto, cpu, cuda or mps, for a model that is loaded
    here; what `load` gave stays where it is. `engine` is auto, torch (default), onnx or openvino. Raises AlexNetError,
    in one sentence, for a model that cannot be read and options that do not fit.
    """
    return list(stream(model, pictures, topk, batch_size, device, views, quiet=quiet, engine=engine))


def stream(
    model: str | Path | Classifier,
    pictures: Source | Iterable[Source] | Sources,
    topk: int = 5,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    views: int = 1,
    workers: int = 0,
    quiet: bool = True,
    engine: str | None = None,
    say: Callable[[str], object] = lambda text: None,
    world: World | None = None,
    resume: bool = False,
) -> Iterator[Prediction]:
    """The `topk` most probable classes of each picture, one by one in order, in float32.

    All is as of `predict`, and `pictures` may be `Sources`; a few batches are held at a time. `say` gets why the engine
    auto chose what. Of several processes in a `world` each takes batches in turns, and the first gives all answers;
    `resume` goes on where such a stream, or one with `resume`, was killed.
    """
    check_least("topk", topk, 1)
    if views not in VIEWS:
        raise AlexNetError(f"views was given {views}; it takes {' or '.join(map(str, VIEWS))}.")
    called = world is None  # by a program, whose processes are its own affair
    world = world or alone()
    with world.together():
        check_engine(engine, world)
        if isinstance(model, Classifier):
            classifier = attach(model, engine, batch_size, say)
        else:
            where = choose_device(device_for(engine, device)) if called else world.device
            classifier = load_classifier(model, where, engine, batch_size, say)
        sources = pictures if isinstance(pictures, Sources) else Sources(pictures)
        sources.check_shared(world)
    if world.size > 1:
        same(world, MODEL=fingerprint(classifier))
    journal = None
    if not called and kept(world, resume):
        asked = [fingerprint(classifier), topk, batch_size, views, engine, str(world.device)]
        journal = Journal({"predict": [*asked, sources.folder(), sources.places()]}, world, resume)
    return _stream(classifier, sources, topk, batch_size, views, workers, quiet, world, journal)


def _stream(
    classifier: Classifier, sources: Sources, topk: int, batch_size: int, views: int, workers: int, quiet: bool,
    world: World, journal: Journal | None,
) -> Iterator[Prediction]:  # fmt: skip
    used = classifier.preprocess
    done = (journal.units, journal.mark) if journal else ()
    dealt = Dealt(sources, batch_size, world, name_of, *done)
    where = classifier.device
    batches = named_batches(dealt, used.stored, used.channels, batch_size, workers, used.squared, where)

    def work() -> Iterator[tuple]:
        for batch in batches:
            best = _best(_found(classifier, batch.pixels, views), topk) if len(batch.pixels) else ()
            yield batch.names, batch.errors, *best

    with Progress("predicting", sources.total, "pictures", quiet=quiet) as progress:
        for names, errors, *best in in_turns(world, work(), dealt, journal=journal):
            tops = iter(_named(classifier, *best) if best else ())
            for name, error in zip(names, errors, strict=True):
                yield Prediction(name, next(tops) if error is None else [], error)
            progress.update(len(names))
    if journal:
        journal.done()


def classify(classifier: Classifier, pixels: Tensor, topk: int, views: int = 1) -> list[list[ClassProbability]]:
    """The `topk` most probable classes of uint8 pictures (n, C, stored, stored)."""
    return ranked(classifier, _found(classifier, pixels, views), topk)


def _found(classifier: Classifier, pixels: Tensor, views: int) -> Tensor:
    with rows.alike():
        return probabilities(classifier, filled(pixels, classifier.engine), views)[: len(pixels)]


@torch.inference_mode()
def probabilities(classifier: Classifier, pixels: Tensor, views: int = 1) -> Tensor:
    """Of uint8 pictures (n, C, stored, stored): float32 (n, classes)."""
    member = Member(classifier.model, classifier.preprocess, engine=classifier.engine, classes=len(classifier.classes))
    whole = {classifier.preprocess.key: send(pixels, classifier.device)}
    with nullcontext() if classifier.engine else for_pictures(classifier.model):
        return log_probabilities([member], [1.0], whole, views).exp()


def ranked(classifier: Classifier, found: Tensor, topk: int) -> list[list[ClassProbability]]:
    """The `topk` most probable classes of each row of (n, classes), best first."""
    return _named(classifier, *_best(found, topk))


def _best(found: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Indices and probabilities of each row's first classes, (n, topk), on the CPU."""
    best = found.topk(min(topk, found.shape[1]), dim=1)
    return best.indices.cpu(), best.values.cpu()


def _named(classifier: Classifier, indices: Tensor, values: Tensor) -> list[list[ClassProbability]]:
    ids = classifier.wordnet
    return [
        [
            ClassProbability(classifier.classes[i], i, p, rank, ids[i])
            for rank, (i, p) in enumerate(zip(*row, strict=True), 1)
        ]
        for row in zip(indices.tolist(), values.tolist(), strict=True)
    ]


# -- tables -----------------------------------------------------------------------------------------------------


def write_table(path: Path, predictions: Iterable[Prediction]) -> None:
    """One row a picture and class, under COLUMNS: .csv, .jsonl or .parquet by the name's end.

    Rows are written as they come; the file is in its place when the last is.
    """
    rows = ([one.file, *c.as_json().values()] for one in predictions for c in one.classes)
    tables.write(path, COLUMNS, rows)
