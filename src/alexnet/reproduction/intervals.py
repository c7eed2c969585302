"""How sure a difference is: paired confidence intervals over pictures and seeds, and the verdict on a claim."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["reproduced", "weaker", "stronger", "opposite", "not distinguishable"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % confidence interval, over so many seeds and pictures."""

    mean: float
    low: float
    high: float
    seeds: int
    pictures: int


def paired(differences: np.ndarray) -> Interval:
    """The interval of the mean of float (seeds, pictures), each a difference on one picture between two nets.

    Variance of the mean = that of the seeds' means / seeds + that of the pictures' means / pictures, which counts their
    interaction twice and so errs on the safe side; Student's t with Welch and Satterthwaite's degrees of freedom. With
    one seed the interval is over pictures alone.
    """
    seeds, pictures = differences.shape
    parts = [(differences.mean(0).var(ddof=1) / pictures, pictures - 1)] if pictures > 1 else []
    if seeds > 1:
        parts.append((differences.mean(1).var(ddof=1) / seeds, seeds - 1))
    return _interval(float(differences.mean()), parts, seeds, pictures)


def over_seeds(values: np.ndarray, pictures: int = 0) -> Interval:
    """The interval of the mean of one value a seed, float (seeds,); with one seed it is everything."""
    parts = [(values.var(ddof=1) / len(values), len(values) - 1)] if len(values) > 1 else []
    return _interval(float(values.mean()), parts, len(values), pictures)


def _interval(mean: float, parts: list[tuple[float, int]], seeds: int, pictures: int) -> Interval:
    from scipy.stats import t

    if not parts:
        return Interval(mean, -math.inf, math.inf, seeds, pictures)
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / n for v, n in parts) if variance else 1.0
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance) if variance else 0.0
    return Interval(mean, mean - half, mean + half, seeds, pictures)


def verdict(interval: Interval, none: float = 0.0, paper: float | None = None, over: bool = False) -> Verdict:
    """What an interval says of a claim that the value is above `none` and, where the paper has a figure, that it is
    `paper`, or with `over` that or more: reproduced in direction but not in size is weaker or stronger."""
    if interval.low <= none:
        return "opposite" if interval.high < none else "not distinguishable"
    if paper is None or interval.low <= paper <= interval.high:
        return "reproduced"
    if interval.high < paper:
        return "weaker"
    return "reproduced" if over else "stronger"


NEAR = 1.0  # points of error above a stated one, whose rounding is half of that


def met(interval: Interval, stated: float) -> Verdict:
    """What an interval says of an error that is stated in whole percent: it is met where the whole interval is at or
    below it, or where the interval holds it and its mean is no more than NEAR above."""
    if interval.low > stated + 0.5:
        return "opposite"
    near = interval.low <= stated <= interval.high and interval.mean <= stated + NEAR
    return "reproduced" if interval.high <= stated + 0.5 or near else "not distinguishable"


def together(verdicts: list[Verdict]) -> Verdict:
    """The verdict on a claim with several comparisons: that of the one that is farthest from the paper."""
    order: tuple[Verdict, ...] = ("opposite", "not distinguishable", "weaker", "stronger", "reproduced")
    return min(verdicts, key=order.index)
