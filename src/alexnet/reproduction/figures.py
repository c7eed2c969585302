"""A figure for each claim, drawn like the paper's where the paper has one: white, small, readable without colour."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from alexnet.inference.inside.drawing import filter_sheet
from alexnet.reproduction.measures import Outcome
from alexnet.reproduction.running import Finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("-", "--", "-.", ":")


def save_figure(outcome: Outcome, title: str, file: IO[bytes]) -> None:
    """Write the claim's figure as PNG."""
    from matplotlib.figure import Figure

    if "filters" in outcome.extra:
        figure = _filters(outcome)
    elif "queries" in outcome.extra:
        figure = _neighbours(outcome)
    else:
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _curves(left, outcome)
        _intervals(right, outcome)
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, format="png", dpi=130, facecolor="white")


def _curves(axes: Axes, outcome: Outcome) -> None:
    """Errors by epoch: the mean over seeds as a line, their extent as a band; as Fig. 1 where there is a target."""
    from matplotlib.ticker import MaxNLocator

    target, guess = outcome.extra.get("target"), outcome.extra.get("guess")
    key = "train_loss" if guess else "train_top1_error" if target else "valid_top1_error"
    scale = 1.0 if guess else 100.0
    for number, (name, several) in enumerate(outcome.runs.items()):
        if not several:  # the loss of each became infinite
            continue
        at, values = _together(several, key)
        colour, style = f"C{number}", LINES[number % len(LINES)]
        axes.plot(at, scale * np.nanmean(values, 0), style, color=colour, label=name, marker="o", ms=2.5, lw=1.3)
        if len(values) > 1:
            low, high = np.nanmin(values, 0), np.nanmax(values, 0)
            axes.fill_between(at, scale * low, scale * high, color=colour, alpha=0.2, lw=0)
    if target:
        axes.axhline(100 * target, color="0.4", lw=0.8, ls=":")
    if guess:
        axes.axhline(guess, color="0.4", lw=0.8, ls=":", label="guessing")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    what = "training loss (nats)" if guess else "training error (%)" if target else "validation error, top-1 (%)"
    axes.set(xlabel="epoch", ylabel=what)
    if not guess:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def _together(several: list[Finished], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and the values of each run by epoch, NaN where a run had ended."""
    longest = max(len(one.epochs) for one in several)
    values = np.full((len(several), longest), np.nan)
    for row, one in zip(values, several, strict=True):
        row[: len(one.epochs)] = [line[key] for line in one.epochs]
    return np.arange(1, longest + 1), values


def _intervals(axes: Axes, outcome: Outcome) -> None:
    """Each comparison as a point with its 95 % interval."""
    rows = outcome.comparisons[::-1]
    for y, one in enumerate(rows):
        mean, low, high = one.interval.mean, one.interval.low, one.interval.high
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [y, y], "-", color="C0", lw=2)
        elif np.isfinite([mean, low]).all():  # a bound from below: an arrow without an end
            axes.plot([low, mean + 0.3 * abs(mean - 1)], [y, y], "->", color="C0", lw=2, markevery=[1])
        if np.isfinite(mean):
            axes.plot([mean], [y], "o", color="C0")
            axes.annotate(f"{mean:.2f}", (mean, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    unit = rows[0].unit
    if unit in ("points", "times"):
        axes.axvline(1.0 if unit == "times" else 0.0, color="0.4", lw=0.8)
    axes.set_yticks(range(len(rows)), [one.name.replace(", ", ",\n").replace(": ", ":\n") for one in rows], fontsize=7)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    words = {"points": "better by (points of error)", "times": "times sooner"}
    axes.set_xlabel(f"{words.get(unit, unit)}; bar: 95 %", fontsize=8)
    axes.grid(alpha=0.3, axis="x")


def _filters(outcome: Outcome):
    """Fig. 3: conv1's filters, a row of two towers for each seed."""
    from matplotlib.figure import Figure

    ((several),) = outcome.runs.values()
    weights = outcome.extra["filters"]
    sheets = [[filter_sheet(half.float().cpu().numpy()) for half in weight.chunk(2)] for weight in weights]
    ratio = sheets[0][0].shape[0] / sheets[0][0].shape[1]
    figure = Figure(figsize=(9, (4.4 * ratio + 0.35) * len(weights) + 0.4), layout="constrained")
    for row, pair in zip(figure.subplots(len(weights), 2, squeeze=False), enumerate(sheets), strict=True):
        for tower, (axes, sheet) in enumerate(zip(row, pair[1], strict=True), 1):
            axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(f"seed {several[pair[0]].seed}, tower {tower}", fontsize=9)
            axes.axis("off")
    return figure


def _neighbours(outcome: Outcome):
    """Fig. 4, right: a query a row, and its five nearest by fc7."""
    from matplotlib.figure import Figure

    pixels, queries, rows = (outcome.extra[key] for key in ("pixels", "queries", "rows"))
    figure = Figure(figsize=(6.2, 1.02 * len(queries) + 0.5), layout="constrained")
    for line, query in zip(figure.subplots(len(queries), 6), queries, strict=True):
        for number, (axes, at) in enumerate(zip(line, [query, *rows[query].tolist()], strict=True)):
            axes.imshow(pixels[at].transpose(1, 2, 0).astype(np.uint8))
            axes.axis("off")
            if query == queries[0]:
                axes.set_title("query" if not number else str(number), fontsize=8)
    return figure
