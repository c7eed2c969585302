"""Top-1 and top-5 error and loss of a split: the same function in the training loop and on the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.device import send
from alexnet.base.distributed import World, process_group
from alexnet.base.errors import AlexNetError, check_least
from alexnet.base.journal import Journal, kept
from alexnet.base.progress import Progress
from alexnet.base.text import counted
from alexnet.base.turns import in_turns, same
from alexnet.data.dataset import split_word
from alexnet.data.held_out import HeldOut, as_trained
from alexnet.data.identity import identity
from alexnet.data.layouts.registry import Data, find_data
from alexnet.data.loader import Pictures, batches
from alexnet.engines.loading import attach, better, check_engine, device_for, load_classifier
from alexnet.inference.confusion import Answers, Tally, answers, check_outputs, check_pairs
from alexnet.inference.feature_folder import fingerprint
from alexnet.inference.matching import columns, held_out_for, match_classes, with_names
from alexnet.inference.scoring import ONE_VIEW, PLACES, Member, PreprocessKey, Scoring, count, log_probabilities
from alexnet.networks.model import check_float32, in_eval_mode
from alexnet.weights.classifier import Classifier


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
class Task:
    """Models and the pictures that they are asked about, opened."""

    world: World
    classifiers: list[Classifier]
    members: list[Member]
    pictures: list[Pictures]  # the split, once for every size, number of channels and square that a member needs

    def batches(self, batch_size: int) -> Iterator[tuple[dict[PreprocessKey, Tensor], Tensor, int]]:
        """This process' pictures by their keys, their labels, and the size of the whole batch."""
        yield from (batch[:3] for batch in _moved(self.pictures, batch_size, self.world))

    def hashes(self) -> dict[str, str]:
        """What tells its MODEL and its DATA from others."""
        labelled = Data("", "", self.classifiers[0].classes, {"valid": self.pictures[0].split})
        return {"MODEL": " ".join(map(fingerprint, self.classifiers)), "DATA": identity(labelled)}


@contextmanager
def opened(
    model: str | Path | Classifier | Sequence[str | Path | Classifier],
    data: str | Path | Data,
    split: str,
    *,
    workers: int = 0,
    device: str | torch.device = "auto",
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
    engine: str | None = None,
    batch_size: int = 128,
    held: HeldOut | None = None,
    keep: bool = True,
    before: Callable[[], None] = lambda: None,
    loaded: Callable[[list[str]], None] = lambda classes: None,
) -> Iterator[Task]:
    """The models and a split of DATA, with labels in the order of the first model's classes.

    What DATA holds out is what `held` says; without it, what the first model's training held out of the same DATA.
    Pictures are kept where they fit into memory, unless `keep` says that they are read once. `before` is what the first
    process looks at before all else, `loaded` what is asked of the first model's classes before DATA is opened.
    """
    check_least("batch_size", batch_size, 1)
    models = [model] if isinstance(model, str | Path | Classifier) else list(model)
    if not models:
        raise AlexNetError("no MODEL was given; give one, or several for an ensemble.")
    with process_group(device_for(engine, device)) as world:
        with world.together():
            if world.first:
                before()
            told = say if world.first else lambda text: None
            classifiers = _loaded(models, engine, batch_size, world, told)
            loaded(classifiers[0].classes)
            task = _opened(models, classifiers, data, split, workers, told, quiet, held, world, keep)
        if world.size > 1:
            same(world, **task.hashes())
        try:
            yield task
        finally:
            for one in task.pictures:
                one.close()


def _loaded(
    models: Sequence[str | Path | Classifier], engine: str | None, batch_size: int, world: World,
    told: Callable[[str], object],
) -> list[Classifier]:  # fmt: skip
    check_engine(engine, world)
    return [
        attach(one, engine, batch_size, told)
        if isinstance(one, Classifier)
        else load_classifier(one, world.device, engine, batch_size, told)
        for one in models
    ]


def _opened(
    models: Sequence[str | Path | Classifier], classifiers: list[Classifier], data: str | Path | Data, split: str,
    workers: int, told: Callable[[str], object], quiet: bool, held: HeldOut | None, world: World, keep: bool,
) -> Task:  # fmt: skip
    found = data if isinstance(data, Data) else find_data(data, quiet or not world.first, whole=split == "all")
    if split != "all":
        found = held_out_for(found, held, classifiers, told)
    for line in _notes(models, classifiers, found, split):
        told(line)
    classifiers = [with_names(one, found) for one in classifiers]
    classes = classifiers[0].classes
    if not found.named and found.classes != classes:
        told(f"the labels of {found.path} have no names: label 0 is taken for {classes[0]}, 1 for {classes[1]} …")
    for one in classifiers:
        if one.engine is None:
            check_float32(one.model)
    members = [Member(x.model, x.preprocess, columns(x.classes, classes), x.engine, len(classes)) for x in classifiers]
    labelled = match_classes(found, found.split(split), classes)
    needed = {(p.stored, p.channels, workers, p.squared) for p in (one.preprocess for one in classifiers)}
    pictures = [Pictures(labelled, *one, keep=keep) for one in sorted(needed)]
    for line in dict.fromkeys(line for one in pictures for line in one.notes()):
        told(line)
    return Task(world, classifiers, members, pictures)


def _notes(models: Sequence[object], classifiers: Sequence[Classifier], data: Data, split: str) -> Iterator[str]:
    """What was found, and what of it a user may not expect, a line each."""
    yield data.summary()
    for given, classifier in zip(models, classifiers, strict=True):
        folder = Path(given) if isinstance(given, str | Path) else None
        if folder and folder.is_dir() and (line := better(folder, classifier.trained)):
            yield line
    if data.whole is not None and split_word(split) == "valid" and as_trained(data, classifiers[0].trained) is None:
        yield f"these are the pictures that training would hold out; --split all takes all {len(data.whole):,}"


def evaluate(
    model: str | Path | Classifier | Sequence[str | Path | Classifier],
    data: str | Path | Data,
    split: str = "valid",
    *, batch_size: int = 128, workers: int = 0, device: str | torch.device = "auto", views: int = 1,
    weights: Sequence[float] | None = None, ties: str = "first", say: Callable[[str], object] = lambda text: None,
    quiet: bool = True, per_class: str | Path | None = None, confusion: str | Path | None = None,
    engine: str | None = None, held: HeldOut | None = None, table: str | Path | None = None, resume: bool = False,
) -> Evaluation:  # fmt: skip
    """Errors of a model (run folder, file of weights or loaded) on a split of DATA, in float32.

    `views` is 1, the central crop, 10, the paper's ten, or 9, those of the author's CIFAR-10 nets, whose probabilities
    are averaged. Several models are an ensemble: the mean of their probabilities, weighted by `weights`. `ties` in
    scores give the label to one class (`first`) or a share to each (`fraction`, docs/facts.md 2.9). `per_class`,
    `confusion` and `table` name files for errors by class, the matrix and every picture's answers. `device` is for
    pictures and models that are loaded here; others stay where they are. `engine` is auto, torch (default), onnx or
    openvino. `held` says which pictures are held out, by default those that the first model's training held out. Under
    torchrun all is as of one process; `resume` goes on where such an evaluation, or one with `resume`, was killed.
    """
    models = 1 if isinstance(model, str | Path | Classifier) else len(model)
    scoring = Scoring(views, weights, ties).checked(models)
    with opened(
        model, data, split, workers=workers, device=device, say=say, quiet=quiet, engine=engine, batch_size=batch_size,
        held=held, keep=False, before=lambda: check_outputs(per_class, confusion, table),
        loaded=check_pairs if confusion else lambda classes: None,
    ) as task:  # fmt: skip
        world, asked = task.world, per_class or confusion or table
        tally = Tally(task.classifiers[0].classes, bool(confusion), bool(table)) if asked else None
        how = [batch_size, asdict(scoring), engine, bool(asked), str(world.device)]
        journal = Journal({"evaluate": how, **task.hashes()}, world, resume) if kept(world, resume) else None
        result = measure(
            task.members, task.pictures, batch_size, world, scoring=scoring, quiet=quiet or not world.first,
            tally=tally, journal=journal,
        )  # fmt: skip
        if tally and world.first:
            if per_class:
                tally.write_classes(Path(per_class))
            if confusion:
                tally.write_confusion(Path(confusion))
            if table:
                tally.write_pictures(Path(table), task.pictures[0].split.name)
        if journal:
            journal.done()
    assert result is not None  # nothing asked it to stop
    return result


@torch.no_grad()
def measure(
    members: Sequence[Member],
    pictures: Sequence[Pictures],
    batch_size: int,
    world: World,
    *, autocast: torch.dtype = torch.float32, scoring: Scoring = ONE_VIEW,
    stopped: Callable[[], bool] = lambda: False, quiet: bool = True, tally: Tally | None = None,
    journal: Journal | None = None,
) -> Evaluation | None:  # fmt: skip
    """Evaluate the readable pictures, each exactly once over all processes; None if `stopped` said so.

    Processes take whole batches in turns, so the result is that of one process, bit for bit.
    `pictures` holds the split once for every size, number of channels and square that a member needs.
    """
    began, many, halted = time.perf_counter(), False, False
    sums: Tensor | float = 0.0  # pictures, wrong in the first place, not in the first five, loss: stays on the device
    failed: list[tuple[int, str]] = []

    def stop() -> bool:
        nonlocal halted
        halted = stopped()
        return halted

    work = _scored(members, pictures, batch_size, world, autocast, scoring, tally is not None, journal)
    models = [one.model for one in members]
    with in_eval_mode(*models), Progress("evaluating", len(pictures[0]), quiet=quiet) as progress:
        for made in in_turns(world, work, stopped=stop, journal=journal):
            failed += made["failed"]
            if "sums" in made:
                sums, many = sums + made["sums"], made["many"]
            if tally and "answers" in made:
                tally.add(Answers(*made["answers"]))
            progress.update(made["size"])
    if halted:
        return None
    totals = sums.tolist() if isinstance(sums, Tensor) else [0.0] * 4  # where no picture could be read
    (images, wrong1, wrong5, loss), many, failed = world.of_first((totals, many, failed))
    if not images:
        raise none_readable(pictures[0])
    seconds = time.perf_counter() - began
    name = pictures[0].split.name
    broken = [{"file": name(i), "error": error} for i, error in sorted(failed)]
    errors = wrong1 / images, wrong5 / images if many else None, loss / images
    return Evaluation(int(images), *errors, seconds, images / seconds, broken)


def none_readable(pictures: Pictures) -> AlexNetError:
    """The error of pictures that tell nothing."""
    return AlexNetError(f"none of {counted(len(pictures), 'picture')} to evaluate on can be read; check them.")


def _scored(
    members: Sequence[Member], pictures: Sequence[Pictures], batch_size: int, world: World, autocast: torch.dtype,
    scoring: Scoring, tallied: bool, journal: Journal | None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """This process' batches, each counted; as plain data, where that leaves the process."""
    shares, leaves = scoring.shares(len(members)), world.size > 1 or journal is not None
    for by_key, labels, size, rows, failed in _moved(pictures, batch_size, world, journal.units if journal else 0):
        made: dict[str, Any] = {"size": size, "failed": failed}
        if len(labels):
            scores = log_probabilities(members, shares, by_key, scoring.views, autocast)
            sums = count(scores, labels, scoring.ties)
            made |= {"sums": sums.cpu() if leaves else sums, "many": scores.shape[1] > PLACES}
            made |= {"answers": tuple(answers(scores, labels, rows))} if tallied else {}
        yield made


def _moved(
    pictures: Sequence[Pictures], batch_size: int, world: World, first: int = 0
) -> Iterator[tuple[dict[PreprocessKey, Tensor], Tensor, int, np.ndarray, list[tuple[int, str]]]]:
    """This process' batches from the batch `first` on, whole: pictures, labels, size, rows, and what is unreadable."""
    numbers = np.arange(len(pictures[0])) // batch_size - first
    positions = np.flatnonzero((numbers >= 0) & (numbers % world.size == world.rank))
    alone = replace(world, rank=0, size=1)
    for number, several in enumerate(zip(*(batches(p, positions, batch_size, alone) for p in pictures), strict=True)):
        by_key = {
            (b.pictures.shape[1:], p.square): send(b.pictures, world.device)
            for p, b in zip(pictures, several, strict=True)
        }
        labels = send(several[0].labels, world.device)
        whole = positions[number * batch_size : (number + 1) * batch_size]
        rows = whole[several[0].rows]
        failed = [(i, pictures[0].failed[i]) for i in np.setdiff1d(whole, rows).tolist()]
        yield by_key, labels, several[0].size, rows, failed
