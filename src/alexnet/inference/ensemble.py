"""The weights of an ensemble, found as the author found them: a coordinate search over a grid (docs/facts.md 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.base.text import counted
from alexnet.data.held_out import HeldOut
from alexnet.data.layouts.registry import Data
from alexnet.inference.evaluation import opened
from alexnet.inference.scoring import PLACES, log_probabilities
from alexnet.weights.classifier import Classifier

START, STEP, PASSES = 0.5, 0.05, 5
MOST = 8 << 30  # bytes of probabilities that are held


def fit_weights(
    models: Sequence[str | Path | Classifier],
    data: str | Path | Data,
    split: str = "valid",
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "auto",
    views: int = 1,
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
    held: HeldOut | None = None,
    engine: str | None = None,
) -> list[float]:
    """The weight of each model that gives the ensemble the lowest top-5 error on a split; for use on another split.

    Of five classes or fewer it is the lowest top-1 error.
    """
    with opened(
        models, data, split, workers=workers, device=device, say=say, quiet=quiet, engine=engine,
        batch_size=batch_size, held=held,
    ) as task:  # fmt: skip
        if task.world.size > 1:
            raise AlexNetError("--fit-weights holds every probability in one process; run it without torchrun.")
        columns, total = len(task.classifiers[0].classes), len(task.pictures[0])
        if 4 * len(models) * total * columns > MOST:
            raise AlexNetError(
                f"--fit-weights would hold {4 * len(models) * total * columns:,} bytes of probabilities, more than "
                f"{MOST:,}; fit on fewer pictures."
            )
        found: list[list[Tensor]] = [[] for _ in models]
        labels: list[Tensor] = []
        with torch.no_grad(), Progress("probabilities", total, quiet=quiet) as progress:
            for by_key, some, size in task.batches(batch_size):
                for mine, member in zip(found, task.members, strict=True):
                    mine.append(log_probabilities([member], [1.0], by_key, views).exp().cpu())
                labels.append(some.cpu())
                progress.update(size)
    if not labels:
        raise AlexNetError(f"none of {counted(total, 'picture')} to fit the weights on can be read; check them.")
    return search(torch.stack([torch.cat(mine) for mine in found]), torch.cat(labels))


def search(probabilities: Tensor, labels: Tensor) -> list[float]:
    """Weights for (models, n, classes) and (n,): each in turn takes the best of 0 … 1 in steps of 0.05, at most five
    times round; of equal ones the first found stays."""
    weights = [START] * len(probabilities)
    grid = [STEP * number for number in range(round(1 / STEP) + 1)]
    places = PLACES if probabilities.shape[2] > PLACES else 1
    best = _wrong(_sum(probabilities, weights), labels, places)
    for _ in range(PASSES):
        before = list(weights)
        for number in range(len(weights)):
            others = _sum(probabilities, [0.0 if n == number else w for n, w in enumerate(weights)])
            for candidate in grid:
                both = others + candidate * probabilities[number] if candidate else others
                wrong = _wrong(both, labels, places)
                if wrong < best:
                    best, weights[number] = wrong, candidate
        if weights == before:
            break
    return [round(weight, 2) for weight in weights]


def _sum(probabilities: Tensor, weights: Sequence[float]) -> Tensor:
    # By a weight of 0 even what is no number counts nothing.
    parts = (weight * mine for weight, mine in zip(weights, probabilities, strict=True) if weight)
    return sum(parts, torch.zeros_like(probabilities[0]))


def _wrong(scores: Tensor, labels: Tensor, places: int) -> int:
    # What ties with the label counts as before it: else a network that says nothing would make no mistake.
    # Nor would one that gives no numbers.
    return int(((~(scores < scores.gather(1, labels[:, None]))).sum(1) > places).sum())
