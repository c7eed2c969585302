"""Top-1 and top-5 error and loss of a split: the same function in the training loop and on the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.base.distributed import World, start
from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.data.dataset import split_word
from alexnet.data.held_out import HeldOut, as_trained
from alexnet.data.layouts.registry import Data, find
from alexnet.data.loader import Pictures, batches
from alexnet.data.pictures import Square
from alexnet.data.preprocess import Preprocess
from alexnet.engines.loading import attach, better, device_for, load
from alexnet.inference.confusion import Tally, check_outputs
from alexnet.inference.matching import columns, held_out_for, match_classes, with_names
from alexnet.weights.classifier import Classifier, Engine

VIEWS, TIES = (1, 9, 10), ("first", "fraction")
PLACES = 5  # of top-5 error
Key = tuple[torch.Size, Square]  # Preprocess.key


@dataclass(frozen=True)
class Evaluation:
    """Errors as fractions, loss in nats a picture, over `images` pictures; unreadable ones are in `failed`.

    `top5_error` is None where there are five classes or fewer: it would be 0 whatever the network says.
    """

    images: int
    top1_error: float
    top5_error: float | None
    loss: float
    seconds: float
    images_per_second: float
    failed: list[dict[str, str]] = field(default_factory=list)

    def facts(self) -> dict:
        """As plain data, without the list of failures."""
        facts = asdict(self)
        del facts["failed"]
        return facts

    def words(self) -> str:
        """The errors for people."""
        top5 = "" if self.top5_error is None else f", top-5 {100 * self.top5_error:.2f} %"
        return f"error top-1 {100 * self.top1_error:.2f} %{top5}"


@dataclass(frozen=True)
class Member:
    """A network of an ensemble: its preprocessing, its outputs' columns in the order of the labels, its engine."""

    model: nn.Module
    preprocess: Preprocess
    columns: Tensor | None = None
    engine: Engine | None = None

    def logits(self, crops: Tensor, autocast: torch.dtype = torch.float32) -> Tensor:
        """Logits float32 (n, classes) of crops (n, C, input, input) of any type, as they were cut."""
        if self.engine is not None:
            return self.engine.logits(crops)
        images = self.preprocess.normalise(crops).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, autocast, enabled=autocast != torch.float32):
            return self.model(images).float()


@dataclass(frozen=True)
class Task:
    """Models and the pictures that they are asked about, opened."""

    world: World
    classifiers: list[Classifier]
    members: list[Member]
    pictures: list[Pictures]  # the split, once for every size, number of channels and square that a member needs

    def batches(self, batch_size: int) -> Iterator[tuple[dict[Key, Tensor], Tensor, int]]:
        """This process' pictures by their keys, their labels, and the size of the whole batch."""
        yield from (batch[:3] for batch in _moved(self.pictures, batch_size, self.world))


@contextmanager
def opened(
    model: str | Path | Classifier | Sequence[str | Path | Classifier],
    data: str | Path | Data,
    split: str,
    *,
    workers: int = 0,
    device: str = "auto",
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
    engine: str | None = None,
    batch_size: int = 128,
    held: HeldOut | None = None,
) -> Iterator[Task]:
    """The models and a split of DATA, with labels in the order of the first model's classes.

    What DATA holds out is what `held` says; without it, what the first model's training held out of the same DATA.
    """
    models = [model] if isinstance(model, str | Path | Classifier) else list(model)
    with start(device_for(engine, device)) as world:
        told = say if world.first else lambda text: None
        classifiers = [
            attach(one, engine, batch_size, told)
            if isinstance(one, Classifier)
            else load(one, world.device, engine, batch_size, told)
            for one in models
        ]
        found = data if isinstance(data, Data) else find(data, quiet or not world.first, whole=split == "all")
        if split != "all":
            found = held_out_for(found, held, classifiers, told)
        for line in _notes(models, classifiers, found, split):
            told(line)
        classifiers = [with_names(one, found) for one in classifiers]
        classes = classifiers[0].classes
        if not found.named and found.classes != classes:
            told(f"the labels of {found.path} have no names: label 0 is taken for {classes[0]}, 1 for {classes[1]} …")
        members = [Member(one.model, one.preprocess, columns(one.classes, classes), one.engine) for one in classifiers]
        labelled = match_classes(found, found.split(split), classes)
        needed = {(p.stored, p.channels, workers, p.squared) for p in (one.preprocess for one in classifiers)}
        pictures = [Pictures(labelled, *one) for one in sorted(needed)]
        for line in dict.fromkeys(line for one in pictures for line in one.notes()):
            told(line)
        try:
            yield Task(world, classifiers, members, pictures)
        finally:
            for one in pictures:
                one.close()


def _notes(models: Sequence[object], classifiers: Sequence[Classifier], data: Data, split: str) -> Iterator[str]:
    """What was found, and what of it a user may not expect, a line each."""
    yield data.summary()
    for given, classifier in zip(models, classifiers, strict=True):
        folder = Path(given) if isinstance(given, str | Path) else None
        if folder and folder.is_dir() and (line := better(folder, classifier.trained)):
            yield line
    if data.whole is not None and split_word(split) == "valid" and as_trained(data, classifiers[0].trained) is None:
        yield f"these are the pictures that training would hold out; --split all takes all {len(data.whole):,}"


@dataclass(frozen=True)
class Scoring:
    """How answers are counted: views a picture, each model's weight in an ensemble (None: equal), and ties."""

    views: int = 1
    weights: Sequence[float] | None = None
    ties: str = "first"

    def checked(self, models: int) -> Scoring:
        """The same, or an error that names what does not fit."""
        if self.views not in VIEWS:
            raise AlexNetError(f"views was given {self.views}; it takes {', '.join(map(str, VIEWS))}.")
        if self.ties not in TIES:
            raise AlexNetError(f"ties was given '{self.ties}'; it takes {' or '.join(TIES)}.")
        if self.weights is not None and len(self.weights) != models:
            raise AlexNetError(f"{len(self.weights)} weights were given for {models} models; give one for each.")
        return self

    def shares(self, models: int) -> Sequence[float]:
        """Each model's weight."""
        return [1 / models] * models if self.weights is None else self.weights


def evaluate(
    model: str | Path | Classifier | Sequence[str | Path | Classifier],
    data: str | Path | Data,
    split: str = "valid",
    *,
    batch_size: int = 128,
    workers: int = 0,
    device: str = "auto",
    views: int = 1,
    weights: Sequence[float] | None = None,
    ties: str = "first",
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
    per_class: str | Path | None = None,
    confusion: str | Path | None = None,
    engine: str | None = None,
    held: HeldOut | None = None,
    table: str | Path | None = None,
) -> Evaluation:
    """Errors of a model (run folder, file of weights or loaded) on a split of DATA, in float32.

    `views` is 1, the central crop, 10, the paper's ten, or 9, those of the author's CIFAR-10 nets; their probabilities
    are averaged. Several models are an ensemble: the sum of their probabilities times `weights` (default: 1 / models).
    `ties` in scores give the label to one class (`first`) or a share to each (`fraction`, docs/facts.md 2.9).
    `per_class`, `confusion` and `table` name files for errors by class, the confusion matrix and every picture's
    answers. `engine` is auto, torch (default), onnx or openvino. `held` says which pictures are held out, by default
    those that the first model's training held out. Under torchrun each picture is still counted exactly once.
    """
    models = 1 if isinstance(model, str | Path | Classifier) else len(model)
    scoring = Scoring(views, weights, ties).checked(models)
    check_outputs(per_class, confusion, table)
    with opened(
        model, data, split, workers=workers, device=device, say=say, quiet=quiet, engine=engine, batch_size=batch_size,
        held=held,
    ) as task:  # fmt: skip
        asked = per_class or confusion or table
        tally = Tally(task.classifiers[0].classes, bool(confusion), bool(table)) if asked else None
        quiet = quiet or not task.world.first
        result = measure(task.members, task.pictures, batch_size, task.world, scoring=scoring, quiet=quiet, tally=tally)
        if tally and task.world.first:
            if per_class:
                tally.write_classes(Path(per_class))
            if confusion:
                tally.write_confusion(Path(confusion))
            if table:
                tally.write_pictures(Path(table), task.pictures[0].split.name)
    assert result is not None  # nothing asked it to stop
    return result


@torch.no_grad()
def measure(
    members: Sequence[Member],
    pictures: Sequence[Pictures],
    batch_size: int,
    world: World,
    *,
    autocast: torch.dtype = torch.float32,
    scoring: Scoring = Scoring(),
    stopped: Callable[[], bool] = lambda: False,
    quiet: bool = True,
    tally: Tally | None = None,
) -> Evaluation | None:
    """Evaluate the readable pictures, each exactly once over all processes; None if `stopped` said so.

    `pictures` holds the split once for every size, number of channels and square that a member needs.
    """
    began, shares = time.monotonic(), scoring.shares(len(members))
    # Pictures, wrong in the first place, not in the first five, loss; whether there are classes enough for top-5.
    sums = torch.zeros(5, dtype=torch.float64)
    parts: Tensor | float = 0.0  # stays on the device
    with _in_eval_mode(members), Progress("evaluating", len(pictures[0]), quiet=quiet) as progress:
        for by_key, labels, size, rows in _moved(pictures, batch_size, world):
            if stopped():
                return None
            if len(labels):
                scores = log_probabilities(members, shares, by_key, scoring.views, autocast)
                parts = parts + count(scores, labels, scoring.ties)
                sums[4] = scores.shape[1] > PLACES
                if tally:
                    tally.add(scores, labels, rows)
            progress.update(size)
    sums[:4] += parts.cpu() if isinstance(parts, Tensor) else parts  # a process that had no picture sums zeros
    images, wrong1, wrong5, loss, any_many = world.sum(sums).tolist()
    if tally:
        tally.gather(world)
    if not images:
        raise AlexNetError(f"none of the {len(pictures[0]):,} pictures to evaluate on can be read; check them.")
    seconds = time.monotonic() - began
    failed = pictures[0].failures(world)
    errors = wrong1 / images, wrong5 / images if any_many else None, loss / images
    return Evaluation(int(images), *errors, seconds, images / seconds, failed)


@contextmanager
def _in_eval_mode(members: Sequence[Member]) -> Iterator[None]:
    training = [one.model.training for one in members]
    try:
        for one in members:
            one.model.eval()
        yield
    finally:
        for one, was in zip(members, training, strict=True):
            one.model.train(was)


def _moved(
    pictures: Sequence[Pictures], batch_size: int, world: World
) -> Iterator[tuple[dict[Key, Tensor], Tensor, int, np.ndarray]]:
    positions = np.arange(len(pictures[0]))
    for number, several in enumerate(zip(*(batches(p, positions, batch_size, world) for p in pictures), strict=True)):
        by_key = {
            (b.pictures.shape[1:], p.square): b.pictures.to(world.device, non_blocking=True)
            for p, b in zip(pictures, several, strict=True)
        }
        labels = several[0].labels.to(world.device, non_blocking=True)
        yield by_key, labels, several[0].size, number * batch_size + several[0].rows


def log_probabilities(
    members: Sequence[Member],
    shares: Sequence[float],
    by_key: Mapping[Key, Tensor],
    views: int,
    autocast: torch.dtype = torch.float32,
) -> Tensor:
    """Logarithms of the ensemble's probabilities, averaged over views: float32 (n, classes)."""
    total: Tensor | float = 0.0
    for member, share in zip(members, shares, strict=True):
        preprocess = member.preprocess
        whole = by_key[preprocess.key]
        for crop in preprocess.views(whole, views):
            logits = member.logits(crop, autocast)
            if member.columns is not None:
                logits = logits[:, member.columns.to(logits.device)]
            if views == len(members) == 1:
                return logits.log_softmax(1)
            total = total + logits.softmax(1) * (share / views)
    return cast(Tensor, total).log()


def count(log_probabilities: Tensor, labels: Tensor, ties: str = "first") -> Tensor:
    """Pictures, wrong in the first place, not among the first five, summed loss: float64 (4,) on the same device.

    Takes (n, classes) and (n,). Tied scores go to the class that torch.topk puts first, or with `fraction` share the
    places that are left for them: with two best scores the label counts half (docs/facts.md 2.9).
    """
    # float64 only where the device has it: Apple's GPUs do not.
    wide = torch.float32 if labels.device.type == "mps" else torch.float64
    if ties == "fraction":
        own = log_probabilities.gather(1, labels[:, None])
        above, tied = (log_probabilities > own).sum(1), (log_probabilities == own).sum(1).to(wide)
        right = torch.stack([((k - above) / tied).clamp(0, 1).sum() for k in (1, PLACES)])
    else:
        top = log_probabilities.topk(min(PLACES, log_probabilities.shape[1]), dim=1).indices
        hit = top == labels[:, None]
        right = torch.stack([hit[:, 0].sum(), hit.any(1).sum()]).to(wide)
    loss = F.nll_loss(log_probabilities, labels, reduction="none").to(wide).sum()
    n = torch.full((1,), len(labels), dtype=wide, device=labels.device)
    return torch.cat([n, n - right[:1], n - right[1:], loss[None]])
