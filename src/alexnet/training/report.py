"""The report of a run: one HTML file that needs nothing else, with curves, confusion matrix and the worst mistakes."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet.base import metrics, run_files
from alexnet.base.device import choose_device
from alexnet.base.files import write_bytes
from alexnet.base.text import printable
from alexnet.data.held_out import divided, recipe_held_out
from alexnet.data.layouts.registry import Data, Split
from alexnet.data.pictures import Source, Unreadable, decode
from alexnet.engines.loading import load_classifier
from alexnet.inference.confusion import draw_confusion
from alexnet.inference.prediction import stream
from alexnet.training import recipe as recipes
from alexnet.weights.classifier import Classifier

NAME = "report.html"
MISTAKES = 24  # pictures shown


@dataclass(frozen=True)
class Mistake:
    """A held-out picture that was taken for another class, with the probability of that and of its own."""

    row: int
    name: str
    label: int
    taken_for: int
    probability: float
    own: float


@dataclass(frozen=True)
class Judged:
    """Held-out pictures by class and answer, int64 (classes, classes), and the mistakes, surest first."""

    confusion: np.ndarray
    mistakes: list[Mistake]


def judge(classifier: Classifier, split: Split) -> Judged:
    """Classify a split, whose labels are the classifier's classes, one central view in float32."""
    classes = len(classifier.classes)
    confusion, mistakes = np.zeros((classes, classes), np.int64), []
    answers = stream(classifier, (_read(split, i) for i in range(len(split))), classes)
    for row, (label, one) in enumerate(zip(split.labels.tolist(), answers, strict=True)):
        if one.error is not None:
            continue
        first = one.classes[0]
        confusion[label, first.index] += 1
        if first.index != label:
            own = next(c.probability for c in one.classes if c.index == label)
            mistakes.append(Mistake(row, split.name(row), label, first.index, first.probability, own))
    return Judged(confusion, sorted(mistakes, key=lambda m: (m.own - m.probability, m.row)))


def _read(split: Split, row: int) -> Source:
    """The picture; nothing, which is as unreadable, where its row already is."""
    try:
        return split.read(row)
    except Unreadable:
        return b""


def write(folder: Path, data: Data, device: str | torch.device = "cpu", command: Sequence[str] = ()) -> Path:
    """report.html of the run in `folder`, whose last weights are judged on what it holds out of DATA."""
    recipe = recipes.from_toml((folder / run_files.RECIPE).read_text("utf-8"), run_files.RECIPE)
    classifier, data = load_classifier(folder, choose_device(device)), divided(data, recipe_held_out(recipe))
    text = page(folder, classifier, data, judge(classifier, data.split("valid")), command)
    write_bytes(folder / NAME, text.encode("utf-8", "replace"))
    return folder / NAME


def page(folder: Path, classifier: Classifier, data: Data, judged: Judged, command: Sequence[str]) -> str:
    """The whole file as text."""
    confusion, split, classes = judged.confusion, data.split("valid"), classifier.classes
    total, right = confusion.sum(), np.trace(confusion)
    curves = folder / "curves.png"
    parts = [
        f"<h1>{_text(folder.absolute().name)}</h1>",
        f"<p class=big>{100 * (1 - right / max(1, total)):.2f} % error: {total - right:,} of {total:,} held-out "
        f"pictures wrong</p><p>{_text(data.summary())}</p>",
        f"<p>{_text(_chosen(folder, classifier, split))}</p>",
        f"<p>{_text(classifier.model.variant.name)}, {_text(classifier.origin)}</p>",
        f"<pre>{_text(shlex.join(command))}</pre>" if command else "",
        f"<h2>Learning curves</h2>{_image(curves.read_bytes(), 'png')}" if curves.exists() else "",
        "<h2>Confusion matrix</h2><p>A row a class, a column an answer; colours are shares of a row.</p>",
        _image(draw_confusion(confusion, classes), "png"),
        f"<h2>Classes</h2>{_classes(confusion, classes)}",
        f"<h2>The worst mistakes</h2>{_mistakes(judged.mistakes, split, classes)}",
        f"<h2>Recipe</h2><pre>{html.escape((folder / run_files.RECIPE).read_text('utf-8'))}</pre>",
    ]
    return HEAD.format(title=_text(folder.absolute().name)) + "\n".join(filter(None, parts)) + "\n</html>\n"


def _chosen(folder: Path, classifier: Classifier, split: Split) -> str:
    """Which epoch's weights these are, and by which pictures it was chosen."""
    epochs = [line for line in metrics.read(folder / run_files.METRICS) if line["kind"] == "epoch"]
    best = metrics.best(folder / run_files.METRICS)
    own = next((line for line in epochs if line["step"] == classifier.trained.get("step")), None)
    if best is None or own is None:
        return ""
    by = f"the {len(split):,} held-out pictures ({split.origin})"
    error = f"{100 * best['valid_top1_error']:.2f} %"
    if own["epoch"] == epochs[-1]["epoch"]:
        last = f"The weights are those of the last epoch, {own['epoch']}."
        if best["valid_top1_error"] == own["valid_top1_error"]:
            return last
        return (
            f"{last} By the error on {by}, epoch {best['epoch']} was the best, {error}: its weights are "
            f"{run_files.BEST}, which --weights best takes."
        )
    return (
        f"The weights are those of epoch {own['epoch']} of {len(epochs)}, chosen by the lowest error on {by}, {error}. "
        "As these pictures chose it, the error on others is likely to be a little higher."
    )


def _classes(confusion: np.ndarray, classes: list[str]) -> str:
    rows = []
    for label in np.argsort(np.diag(confusion) / np.maximum(1, confusion.sum(1)), kind="stable"):
        count, right = confusion[label].sum(), confusion[label, label]
        if not count:
            continue
        others = confusion[label].copy()
        others[label] = 0
        most = f"{_text(classes[others.argmax()])} ({others.max()})" if others.any() else ""
        share = f"{100 * (count - right) / count:.1f} %"
        rows.append(f"<tr><td>{_text(classes[label])}<td>{count}<td>{share}<td>{most}")
    return f"<table><tr><th>class<th>pictures<th>error<th>most taken for{''.join(rows)}</table>"


def _mistakes(mistakes: list[Mistake], split: Split, classes: list[str]) -> str:
    if not mistakes:
        return "<p>None.</p>"
    figures = []
    for one in mistakes[:MISTAKES]:
        try:
            picture = decode(split.read(one.row))
        except Unreadable:  # it was there a moment ago
            continue
        picture.thumbnail((160, 160))
        if max(picture.size) < 80:
            scale = 160 // max(picture.size)
            picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        said = (
            f"<b>{_text(classes[one.taken_for])}</b> {100 * one.probability:.0f} %<br>{_text(classes[one.label])} "
            f"{100 * one.own:.0f} %<br><small>{_text(one.name)}</small>"
        )
        figures.append(f"<figure>{_image(file.getvalue(), 'jpeg')}<figcaption>{said}</figcaption></figure>")
    return f"<p>What it was taken for, then what it is.</p><div class=sheet>{''.join(figures)}</div>"


def _image(contents: bytes, kind: str) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(contents).decode()}">'


def _text(text: str) -> str:
    return html.escape(printable(text))


HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }}
h2 {{ margin-top: 2em }} .big {{ font-size: 1.5em }} img {{ max-width: 100% }}
pre {{ background: #f4f4f4; padding: .7em; overflow-x: auto; white-space: pre-wrap }}
table {{ border-collapse: collapse }} td, th {{ padding: .15em .8em; text-align: left; border-bottom: 1px solid #ddd }}
.sheet {{ display: flex; flex-wrap: wrap; gap: 14px }} figure {{ margin: 0; width: 160px; overflow-wrap: anywhere }}
</style>
"""
