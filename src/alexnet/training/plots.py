"""The pictures of a run: a function each, which lists itself by the file that it draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from alexnet.base import metrics
from alexnet.base.files import write_whole
from alexnet.base.run_files import METRICS
from alexnet.inference.inside.drawing import filter_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet.training.run import Run

Draw: TypeAlias = "Callable[[Run, int | None], Figure | None]"
PICTURES: dict[str, Draw] = {}


def picture(file: str) -> Callable[[Draw], Draw]:
    """List what draws this file of a run that has ended; it is told the epoch whose weights are kept, where one is."""

    def add(draw: Draw) -> Draw:
        PICTURES[file] = draw
        return draw

    return add


def save_all(run: Run, kept: int | None) -> None:
    """Draw every picture of a run that has ended into its folder."""
    for file, draw in PICTURES.items():
        if figure := draw(run, kept):
            write_whole(run.folder / file, partial(figure.savefig, format="png", dpi=130))


@picture("curves.png")
def draw_curves(run: Run, kept: int | None) -> Figure | None:
    """From the run's metrics: loss by step, training and validation error by epoch; None without lines.

    The epoch that is kept is marked; without one, that of the lowest validation error.
    """
    from matplotlib.figure import Figure

    lines = metrics.read(run.folder / METRICS)
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    if not steps:
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = [s["epoch"] for s in steps]
    left.plot(at, [s["loss"] for s in steps], color="0.75", lw=0.8, label="training, by step")
    if epochs:
        _by_epoch(left, right, epochs, kept)
    else:
        right.plot(at, [100 * s["top1_error"] for s in steps], color="0.5", label="training, by step")
    left.set(xlabel="epoch", ylabel="loss (nats a picture)", title="Loss")
    right.set(xlabel="epoch", ylabel="error (%)", title="Error")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _by_epoch(left: Any, right: Any, epochs: list[dict[str, Any]], kept: int | None) -> None:
    """Loss and errors by epoch, the chosen one marked."""
    at = [e["epoch"] for e in epochs]
    left.plot(at, [e["train_loss"] for e in epochs], color="C0", label="training")
    left.plot(at, [e["valid_loss"] for e in epochs], color="C1", label="validation")
    right.plot(at, [100 * e["train_top1_error"] for e in epochs], color="C0", label="training top-1")
    right.plot(at, [100 * e["valid_top1_error"] for e in epochs], color="C1", label="validation top-1")
    if epochs[-1]["valid_top5_error"] is not None:
        right.plot(at, [100 * e["valid_top5_error"] for e in epochs], color="C1", ls=":", label="validation top-5")
    best = min(epochs, key=lambda line: line["valid_top1_error"])
    epoch, label = (best["epoch"], "lowest") if kept is None else (kept, "weights kept")
    error = next((100 * e["valid_top1_error"] for e in epochs if e["epoch"] == epoch), None)
    if error is not None:  # lines are lost with a file that was moved away, or in a power cut
        right.plot([epoch], [error], "o", color="C1", label=f"{label}: epoch {epoch}, {error:.2f} %")


@picture("filters.png")
def draw_filters(run: Run, kept: int | None) -> Figure:
    """conv1's filters, all scaled together from their least to their greatest weight (paper Fig. 3)."""
    from matplotlib.figure import Figure

    weight = dict(run.model.named_parameters())["conv1.weight"].detach().float().cpu().numpy()
    sheet = filter_sheet(weight)
    figure = Figure(figsize=(6, 6 * sheet.shape[0] / sheet.shape[1] + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    count, channels, side, _ = weight.shape
    axes.set_title(f"conv1: {count} filters, {side} x {side} x {channels}", fontsize=9)
    axes.axis("off")
    return figure
