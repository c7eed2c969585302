"""One figure of all claims: the paper's figure and ours with its interval, claim by claim, on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alexnet.base.files import write_whole
from alexnet.reproduction.claims import Claim

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"reproduced": "C2", "weaker": "C8", "stronger": "C9", "opposite": "C3", "not distinguishable": "0.45"}
ClaimResults = Sequence[tuple[Claim, dict[str, Any]]]  # claims with their results


class Row(NamedTuple):
    """A line of the figure, in points of error, or times: the paper's figure where it has one, and ours."""

    name: str
    paper: float | None
    mean: float
    low: float
    high: float
    verdict: str


def rows(found: ClaimResults) -> list[Row]:
    """What can be drawn on one axis: differences of error, an error's distance from the stated one, and times."""
    drawn: list[Row] = []
    for claim, facts in found:
        for one in facts["comparisons"]:
            if one["mean"] is None:
                continue
            low, high = (end if one[key] is None else one[key] for key, end in (("low", -math.inf), ("high", math.inf)))
            mean, paper, what = one["mean"], one.get("paper"), f"{claim.name}: {one['name']}"
            if claim.kind == "stated":
                if not claim.stated:
                    continue
                mean, low, high, paper = claim.stated - mean, claim.stated - high, claim.stated - low, 0.0
                what = f"{claim.name}: stated error less ours"
            elif one["unit"] not in ("points", "times"):
                continue
            if one["unit"] == "times":
                what += " (times)"
            drawn.append(Row(what, paper, mean, low, high, one["verdict"]))
    return drawn


def save_overview(found: ClaimResults, path: Path) -> None:
    """Write the figure as .png: runs in earnest above, quick ones below."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    both = [[one for one in found if one[1]["quick"] == quick] for quick in (False, True)]
    parts = [(title, some) for title, some in zip(TITLES, map(rows, both), strict=True) if some]
    heights = [len(some) + 1.2 for _, some in parts]
    figure = Figure(figsize=(9, 0.26 * sum(heights) + 1.3), layout="constrained")
    if parts:
        panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, some) in zip(panels, parts, strict=True):
            _panel(axes, some)
            axes.set_title(title, fontsize=10, loc="left")
        panels[-1].set_xlabel(
            "points of error that the paper's choice is better by (relu-vs-tanh: times sooner, 1 is none)", fontsize=9
        )
        used = {one.verdict for _, some in parts for one in some}
        marks = [Line2D([], [], marker="D", ls="", mfc="white", mec="k", label="the paper")]
        marks += [
            Line2D([], [], marker="o", ls="-", color=c, label=name) for name, c in COLOURS.items() if name in used
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=130, facecolor="white"))


TITLES = ("in earnest", "quick: that the commands work; decides nothing")


def _panel(axes: Axes, some: list[Row]) -> None:
    ends = [x for one in some for x in (one.mean, one.low, one.high, one.paper or 0.0) if math.isfinite(x)]
    span = max(ends) - min(ends) or 1.0
    for y, one in enumerate(some):
        colour = COLOURS[one.verdict]
        high = one.high if math.isfinite(one.high) else max(ends) + 0.05 * span
        if math.isfinite(one.low):
            axes.plot([one.low, high], [y, y], "-", color=colour, lw=2.2)
            if not math.isfinite(one.high):  # a bound from below
                axes.plot([high], [y], ">", color=colour)
        axes.plot([one.mean], [y], "o", color=colour, ms=5)
        if one.paper is not None:
            axes.plot([one.paper], [y], "D", mfc="none", mec="k", ms=6)
    axes.axvline(0.0, color="0.4", lw=0.8)
    axes.set_yticks(range(len(some)), [one.name for one in some], fontsize=8)
    axes.set_ylim(len(some) - 0.4, -0.6)
    axes.grid(alpha=0.3, axis="x")
