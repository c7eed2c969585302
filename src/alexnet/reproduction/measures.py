"""What is measured for each kind of claim: trained networks in, comparisons with their intervals and verdicts out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import Data
from alexnet.engines.loading import load_classifier
from alexnet.inference.evaluation import opened
from alexnet.inference.features import outputs
from alexnet.inference.similarity import nearest_rows
from alexnet.reproduction.claims import Arm
from alexnet.reproduction.intervals import Interval, Verdict, met, over_seeds, paired, together, verdict
from alexnet.reproduction.running import Busy, Finished, Study, hits
from alexnet.weights.classifier import Classifier

ERRORS = ("top-1", "top-5")
ArmRuns = dict[str, list[Finished]]  # the networks of each arm, in the order of their seeds


@dataclass(frozen=True)
class ArmComparison:
    """One thing compared: what is better by how much, its 95 % interval, and what that says."""

    name: str
    unit: str
    interval: Interval
    verdict: Verdict
    paper: float | None = None  # its figure, in the same unit


@dataclass
class Outcome:
    """What came of a claim: comparisons, remarks, and the networks they are of."""

    runs: ArmRuns
    comparisons: list[ArmComparison]
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)  # for the figure

    @property
    def verdict(self) -> Verdict:
        return together([one.verdict for one in self.comparisons])


def measure_claim(study: Study) -> Outcome:
    """Train what the claim needs, unless it was before, and compare."""
    return _MEASURES[study.claim.kind](study)


def _all(study: Study) -> ArmRuns:
    # Seed by seed, so that a study that is stopped has something of every arm.
    wanted = [(seed, arm) for seed in range(study.seeds) for arm in study.claim.arms]
    found: dict[tuple[str, int], Finished] = {}
    for again in (False, True):
        busy = []
        for seed, arm in wanted:
            try:
                one = study.trained(arm, seed)
            except Busy:  # the rest can be trained meanwhile, after which the other may have ended
                if again:
                    raise
                busy.append((seed, arm))
                continue
            if one is None:
                raise AlexNetError(
                    f"{study.claim.name}: the loss of '{arm.name}' became infinite, so there is nothing to compare; "
                    "give a lower rate with --set learning_rate=."
                )
            found[arm.name, seed] = one
        wanted = busy
    return {arm.name: [found[arm.name, seed] for seed in range(study.seeds)] for arm in study.claim.arms}


def _points(name: str, differences: np.ndarray, paper: float | None = None, over: bool = False) -> ArmComparison:
    """Differences of right answers (seeds, pictures), -1 to 1, as points of error; `paper` is its figure, or with
    `over` that or more."""
    interval = paired(100.0 * differences)
    return ArmComparison(name, "points", interval, verdict(interval, 0.0, paper, over), paper)


def _rights(runs: list[Finished], views: int) -> np.ndarray:
    return np.stack([one.right(views) for one in runs]).astype(float)  # (seeds, 2, pictures)


def _errors(study: Study) -> Outcome:
    """Each other arm's errors against the first's."""
    runs, views = _all(study), study.claim.views
    first, *others = runs
    better = _rights(runs[first], views)
    found = []
    for name in others:
        difference = better - _rights(runs[name], views)
        for at in range(2 if len(runs[first][0].data.classes) > 10 else 1):
            paper = study.claim.figures[at]
            found.append(_points(f"{name}, {ERRORS[at]}", difference[:, at], paper, study.claim.over))
    outcome = Outcome(runs, found)
    for name, several in runs.items():
        last = [one.epochs[-1] for one in several if one.epochs]
        if not last:  # max_steps ended it within its first
            continue
        gap = 100 * float(np.mean([line["valid_top1_error"] - line["train_top1_error"] for line in last]))
        outcome.notes.append(
            f"{name}: training error of the last epoch, under its own augmentation and dropout, is {gap:+.1f} points "
            "from the validation error."
        )
    return outcome


def _stated(study: Study) -> Outcome:
    """The first arm's error against the one that is stated, which is rounded to whole points."""
    runs = _all(study)
    (several,) = runs.values()
    wrong = 100.0 * (1 - _rights(several, study.claim.views)[:, 0])
    interval, stated = paired(wrong), study.claim.stated
    if not stated:
        return Outcome(runs, [ArmComparison("top-1 error", "%", interval, "not distinguishable")], [_uncompared(study)])
    name = f"top-1 error, stated {stated:.0f} %"
    return Outcome(runs, [ArmComparison(name, "%", interval, met(interval, stated))])


def _uncompared(study: Study) -> str:
    other = "ten views, and this of one" if len(study.data().classes) == 1000 else "other data"
    return f"The paper's figure is of {other}, so nothing is compared: this is the error to know."


MOST_RATES = 9  # of one arm: a factor of 256 between the ends


def _sooner(study: Study) -> Outcome:
    """How many times sooner the first arm reaches the training error than the second, each at its best rate."""
    target = 0.25
    times: dict[str, list[float]] = {}
    runs: ArmRuns = {}
    notes = []
    for arm in study.claim.arms:
        tried, best = _rates(study, arm, target)
        listed = "; ".join(f"{rate:g}: {_when(*tried[rate])}" for rate in sorted(tried))
        notes.append(f"{arm.name}, seed 0, epochs to {100 * target:.0f} % training error by learning rate: {listed}.")
        edges = {min(tried): "lowest", max(tried): "highest"}
        if best in edges:
            notes.append(f"{arm.name}'s best rate is the {edges[best]} tried: one beyond it may be sooner.")
        made = [tried[best][1], *(study.trained(arm, seed, best) for seed in range(1, study.seeds))]
        runs[arm.name] = [one for one in made if one]
        times[arm.name] = [crossing(one.epochs, target) if one else math.inf for one in made]
        notes.append(f"{arm.name} at {best:g}: {', '.join(map(_epochs, times[arm.name]))} epochs.")
    first, second = times
    name = f"{first} sooner than {second}"
    late = not np.isfinite(times[second]).all() and len(runs[second]) == study.seeds
    if late:
        ends = [len(one.epochs) - 0.5 for one in runs[second]]  # the middle of the last epoch, where it was above still
        times[second] = [min(when, end) for when, end in zip(times[second], ends, strict=True)]
        name += ", at least"
    if not np.isfinite([*times[first], *times[second]]).all():
        notes.append(
            "Not every run reached it within its epochs, so no ratio can be given; more may with --set epochs=."
        )
        interval = Interval(math.nan, -math.inf, math.inf, study.seeds, 0)
    else:
        logs = over_seeds(np.log(np.array(times[second]) / np.array(times[first])))
        high = math.inf if late else _exp(logs.high)  # a bound from below cannot say that it is no sooner
        low = math.exp(logs.low) if math.isfinite(logs.low) else -math.inf  # of one seed, which bounds nothing
        interval = Interval(math.exp(logs.mean), low, high, logs.seeds, 0)
        if late:
            notes.append(f"Where {second} did not reach it, its last epoch counts: the ratio is greater than that.")
    paper = study.claim.figures[0]
    found = ArmComparison(name, "times", interval, verdict(interval, 1.0, paper), paper)
    return Outcome(runs, [found], notes, {"target": target})


def _rates(study: Study, arm: Arm, target: float) -> tuple[dict[float, tuple[float, Finished | None]], float]:
    """When the first seed gets to the target at each rate, and the soonest rate.

    From `arm.rates` it goes on, twice as high each time and then half as high, until the best has a worse one on either
    side, or MOST_RATES were tried.
    """
    tried: dict[float, tuple[float, Finished | None]] = {}

    def best() -> float:
        return min(tried, key=lambda rate: (tried[rate][0], _ended(tried[rate][1])))

    waiting = list(arm.rates)
    while waiting:
        rate = waiting.pop(0)
        soonest = min((when for when, _ in tried.values()), default=math.inf)
        one = study.trained(arm, 0, rate, soonest + 1)  # later than the soonest by an epoch, it has lost
        tried[rate] = (crossing(one.epochs, target) if one else math.inf, one)
        if not waiting and len(tried) < MOST_RATES:
            waiting = [2 * max(tried)] if best() == max(tried) else [min(tried) / 2] if best() == min(tried) else []
    return tried, best()


def _ended(one: Finished | None) -> float:
    """The training error of the last epoch, a fraction: of rates that all stay above the target, it finds the best."""
    return one.epochs[-1]["train_top1_error"] if one and one.epochs else math.inf


def _when(crossed: float, one: Finished | None) -> str:
    """In words, with how long it was waited for, and the error by then."""
    if math.isfinite(crossed):
        return _epochs(crossed)
    return f"not in {len(one.epochs)}, {100 * _ended(one):.1f} % by then" if one else "infinite loss"


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _epochs(when: float) -> str:
    return f"{when:.2f}" if math.isfinite(when) else "never"


def crossing(epochs: list[dict[str, Any]], target: float) -> float:
    """When the training error falls to `target`, in epochs; infinity if it never does.

    An epoch's mean belongs to its middle, and between middles it falls along a straight line.
    """
    before: tuple[float, float] | None = None
    for line in epochs:
        here, error = line["epoch"] - 0.5, line["train_top1_error"]
        if error <= target:
            if before is None:
                return here
            return before[0] + (here - before[0]) * (before[1] - target) / (before[1] - error)
        before = here, error
    return math.inf


def _views(study: Study) -> Outcome:
    """The same networks with one view and with several."""
    runs = _all(study)
    (several,) = runs.values()
    difference = _rights(several, study.claim.views) - _rights(several, 1)
    name, figures = f"one view against {study.claim.views}", study.claim.figures
    return Outcome(runs, [_points(f"{name}, {ERRORS[i]}", difference[:, i], figures[i]) for i in (0, 1)])


def _ensemble(study: Study) -> Outcome:
    """The networks' mean error against that of their averaged probabilities."""
    if study.seeds < 2:
        raise AlexNetError("the claim ensemble takes two networks or more: give --seeds 2 or more.")
    runs = _all(study)
    (several,) = runs.values()
    both = hits([one.folder for one in several], several[0].data, study.claim.views, study.device).astype(float)
    difference = both[None] - _rights(several, study.claim.views)
    name, figures = f"one network against {len(several)}", study.claim.compared(len(several))
    errors = 100 * (1 - both.mean(1))
    notes = [f"The {len(several)} together: {errors[0]:.1f} % top-1, {errors[1]:.1f} % top-5."]
    if len(several) != study.claim.seeds:
        notes.append(f"The paper's figures are of {study.claim.seeds} networks, so they are not compared.")
    return Outcome(runs, [_points(f"{name}, {ERRORS[i]}", difference[:, i], figures[i]) for i in (0, 1)], notes)


def _start(study: Study) -> Outcome:
    """Which initial weights leave the loss of guessing: nats below it that the training loss ends."""
    runs = _all(study)
    guess = math.log(len(study.data().classes))
    found = []
    for number, (name, several) in enumerate(runs.items()):
        if not all(one.epochs for one in several):
            raise AlexNetError(
                f"{study.claim.name}: '{name}' ended within its first epoch, so its training loss is not known; give a "
                "higher --set max_steps=, or leave it out."
            )
        below = over_seeds(np.array([guess - one.epochs[-1]["train_loss"] for one in several]))
        flat = below.mean < 0.02 * guess
        should = number == 1  # the second is the one that stays
        found.append(
            ArmComparison(f"{name}: below guessing", "nats", below, "reproduced" if flat == should else "opposite")
        )
    note = (
        f"Guessing costs {guess:.3f} nats; a loss that is not below it by 2 % counts as flat, in the mean of the seeds."
    )
    return Outcome(runs, found, [note], {"guess": guess})


@dataclass(frozen=True)
class Neighbourhood:
    """Of validation pictures: pixels (n, C·H·W), labels, rows of the five nearest others by fc7, and the share of those
    that has the picture's class, by fc7 and by pixels, float64 (n,) each."""

    pixels: np.ndarray
    labels: torch.Tensor
    rows: torch.Tensor
    shares: dict[str, np.ndarray]


def neighbourhood(classifier: Classifier, data: Data) -> Neighbourhood:
    """The five nearest others of each validation picture by Euclidean distance, in fc7 and in stored pixels (§6.1)."""
    features, pixels, labels = [], [], []
    with opened(classifier, data, "valid", device="cpu") as task:
        for by_key, some, _ in task.batches(128):
            whole = by_key[classifier.preprocess.key]
            crops = classifier.preprocess.central(whole)
            features.append(outputs(classifier.model, classifier.preprocess.normalise(crops), ["fc7"])["fc7"])
            pixels.append(whole.flatten(1).float().numpy())
            labels.append(some)
    label, fc7, raw = torch.cat(labels), np.concatenate(features), np.concatenate(pixels)
    shares, shown = {}, {}
    for name, vectors in (("fc7", fc7), ("pixels", raw)):
        rows = torch.cat([_others(vectors, at) for at in range(0, len(vectors), 500)])
        shares[name] = (label[rows] == label[:, None]).double().mean(1).numpy()
        shown[name] = rows
    return Neighbourhood(raw, label, shown["fc7"], shares)


def _neighbours(study: Study) -> Outcome:
    """Of each validation picture's five nearest others, the share of its class: by fc7 and by pixels."""
    runs = _all(study)
    (several,) = runs.values()
    shares: dict[str, list[np.ndarray]] = {"fc7": [], "pixels": []}
    for one in reversed(several):  # the figure is the first's
        classifier = load_classifier(one.folder, "cpu")
        seen = neighbourhood(classifier, one.data)
        for name, share in seen.shares.items():
            shares[name].append(share)
    interval = paired(100 * (np.stack(shares["fc7"]) - np.stack(shares["pixels"])))
    found = ArmComparison("precision at 5, fc7 above pixels", "points", interval, verdict(interval))
    words = ", ".join(f"{name} {100 * np.mean(share):.1f} %" for name, share in shares.items())
    classes = len(one.data.classes)
    first_of_class = [int((seen.labels == c).nonzero()[0]) for c in np.linspace(0, classes - 1, 8).astype(int)]
    figure = {
        "pixels": seen.pixels.reshape(len(seen.pixels), *classifier.preprocess.shape),
        "queries": first_of_class,
        "rows": seen.rows,
    }
    return Outcome(runs, [found], [f"Precision at 5: {words}; chance is {100 / classes:.1f} %."], figure)


def _others(vectors: np.ndarray, at: int) -> torch.Tensor:
    """Rows of the five nearest of all others to each of 500 vectors."""
    some = torch.from_numpy(vectors[at : at + 500])
    _, rows = nearest_rows(some, [vectors], 6, "euclidean")
    own = torch.arange(at, at + len(some))[:, None]
    rank = torch.where(rows == own, 9, torch.arange(6)[None])  # itself goes last, wherever ties have put it
    return rows.gather(1, rank.argsort(dim=1, stable=True))[:, :5]


def _towers(study: Study) -> Outcome:
    """By how much the two towers' conv1 filters differ in colourfulness, against filters dealt out at random."""
    runs = _all(study)
    (several,) = runs.values()
    chances, gaps, notes, filters = [], [], [], []
    for one in several:
        weight = load_classifier(one.folder / run_files.LAST).model.get_parameter("conv1.weight").detach()
        colours = colourfulness(weight)
        first, second = np.split(colours, 2)
        chances.append(by_chance(colours))
        gaps.append(abs(first.mean() - second.mean()))
        notes.append(
            f"Seed {one.seed}: colourfulness of the towers {first.mean():.2f} and {second.mean():.2f}; filters dealt "
            f"out at random differ so much with a probability of {chances[-1]:.3f}."
        )
        filters.append(weight)
    said: Verdict = "reproduced" if max(chances) < 0.05 else "not distinguishable"
    found = ArmComparison("difference in colourfulness", "of 1", over_seeds(np.array(gaps)), said)
    return Outcome(runs, [found], notes, {"filters": filters})


def colourfulness(weight: torch.Tensor) -> np.ndarray:
    """The share of each filter's energy that gray pictures do not see: (F, 3, k, k) -> float64 (F,), 0 to 1."""
    wide = weight.double()
    gray = wide.mean(1, keepdim=True).expand_as(wide)
    return ((wide - gray).square().sum((1, 2, 3)) / wide.square().sum((1, 2, 3)).clamp(min=1e-300)).numpy()


def by_chance(values: np.ndarray, deals: int = 10_000) -> float:
    """The share of random halvings whose means differ at least as much as the two halves' of `values`."""
    generator = np.random.Generator(np.random.PCG64(2012))
    half = len(values) // 2
    true = abs(values[:half].mean() - values[half:].mean())
    dealt = generator.permuted(np.tile(values, (deals, 1)), axis=1)
    apart = abs(dealt[:, :half].mean(1) - dealt[:, half:].mean(1))
    return float((1 + (apart >= true - 1e-12).sum()) / (1 + deals))


_MEASURES: dict[str, Callable[[Study], Outcome]] = {
    "errors": _errors,
    "stated": _stated,
    "sooner": _sooner,
    "views": _views,
    "ensemble": _ensemble,
    "start": _start,
    "neighbours": _neighbours,
    "towers": _towers,
}
