"""Figures 3 and 4 of Krizhevsky, Sutskever, Hinton 2012, redrawn for any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted, printable
from alexnet.data import labels
from alexnet.data.pictures import Source, Unreadable, decode
from alexnet.inference.contact_sheet import find_pictures
from alexnet.inference.inside import drawing, maps
from alexnet.inference.prediction import Prediction, predict
from alexnet.inference.similarity import Index, similar
from alexnet.weights.classifier import Classifier

TESTED, QUERIES, NEIGHBOURS = 8, 5, 6  # as many as the paper has
SIDE, SCALE, SPACE = 160, 6, 24


def figure3(classifier: Classifier) -> np.ndarray:
    """The filters of conv1 (paper Fig. 3), those of each tower apart: uint8 (h, w, 3)."""
    weights = maps.filters(classifier, "conv1")
    towers = max(getattr(record, "groups", 1) for record in classifier.model.variant.layers)
    halves = np.split(weights, towers) if len(weights) % towers == 0 else [weights]
    low, high = float(weights.min()), float(weights.max())
    sheets = []
    for half in halves:
        filters = np.moveaxis(half, 1, -1)
        if filters.shape[-1] != 3:
            filters = filters.mean(-1, keepdims=True).repeat(3, -1)
        tiles = list(drawing.in_gray(filters, low, high))
        sheets.append(drawing.grid(tiles, min(drawing.ACROSS, max(8, len(tiles)))))
    scale = max(2, SCALE * 11 // max(7, weights.shape[-1]))
    drawn = [Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)) for sheet in sheets]
    count, channels, side, _ = weights.shape
    said = f"conv1: {count} filters, {side} x {side} x {channels}" + ("; a block a tower" if len(halves) > 1 else "")
    return _stacked(drawn, said)


def figure4(
    classifier: Classifier, pictures: Sequence[str], index: Index | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> np.ndarray:  # fmt: skip
    """Pictures with their five most probable classes as bars, and beside them, with an index, others with their nearest
    neighbours by its layer (paper Fig. 4): uint8 (h, w, 3).

    The name below a picture, and the bar in another colour, is its class where its folder is called so.
    """
    asked = predict(classifier, pictures)
    answers = [one for one in asked if one.error is None]
    if not answers:
        raise AlexNetError("Fig. 4 shows pictures and their classes; none was given that can be read.")
    for one in asked:
        if one.error is not None:
            say(f"fig4: without {printable(one.file)}, which cannot be read ({one.error})")
    if len(answers) > TESTED:
        count = counted(len(answers), "picture")
        say(f"fig4: the first {TESTED} of {count}, and with an index the neighbours of {QUERIES}")
    found = find_pictures(pictures, [one.file for one in answers])
    known = labels.position(classifier.classes)
    cells = [_tested(one, found[one.file], _own(one.file, known, classifier.classes)) for one in answers[:TESTED]]
    left = _stacked([_rows(cells, 4)], "the five most probable classes; pink: its own")
    if index is None:
        return left
    queries = [one.file for one in answers[:QUERIES]]
    given = [name if Path(name).is_file() else found[name] for name in queries]
    rows = list(similar(index, given, NEIGHBOURS, model=classifier, not_itself=True))
    near = find_pictures(index.images, {n.file for row in rows for n in row.neighbours})
    tiles = []
    for name, row in zip(queries, rows, strict=True):
        none = [Image.new("RGB", (SIDE, SIDE), "white")] * (NEIGHBOURS - len(row.neighbours))
        tiles += [_square(found[name]), *(_square(near.get(n.file)) for n in row.neighbours), *none]
    right = _stacked(
        [_rows(tiles, 1 + NEIGHBOURS)], f"a picture, and those of the index that are nearest to it by {index.layer}"
    )
    return _beside(left, right)


def _own(file: str, known: dict[str, int], classes: Sequence[str]) -> str | None:
    """The class that the folder of a picture is called after."""
    place = known.get(Path(file).parent.name)
    return None if place is None else classes[place]


def _tested(one: Prediction, source: Source, own: str | None) -> Image.Image:
    """A picture, its own class and five bars."""
    bars = Image.fromarray(drawing.bars([(c.label, c.probability) for c in one.classes], SIDE, own))
    cell = Image.new("RGB", (SIDE, SIDE + drawing.LINE + 2 + bars.height), "white")
    cell.paste(_square(source), (0, 0))
    draw, font = ImageDraw.Draw(cell), drawing._font()
    draw.text((SIDE // 2, SIDE + 1), drawing.shortened(own or "", SIDE), drawing.TEXT, font, anchor="ma")
    cell.paste(bars, (0, SIDE + drawing.LINE + 2))
    return cell


def _square(source: Source | None) -> Image.Image:
    """The middle of a picture, or gray where it is not to be found."""
    try:
        picture = decode(source) if source is not None else None
    except Unreadable:
        picture = None
    if picture is None:
        return Image.new("RGB", (SIDE, SIDE), "#dddddd")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    return Image.fromarray(
        np.asarray(drawing.tile(np.asarray(picture.crop((left, top, left + short, top + short))), SIDE))
    )


def _rows(cells: Sequence[Image.Image], across: int) -> Image.Image:
    width, height = cells[0].width + drawing.GAP, max(cell.height for cell in cells) + drawing.GAP
    sheet = Image.new("RGB", (min(across, len(cells)) * width, -(-len(cells) // across) * height), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % across * width, number // across * height))
    return sheet


def _stacked(parts: Sequence[Image.Image], said: str) -> np.ndarray:
    """Pictures under each other, and a line beneath."""
    width = max(max(part.width for part in parts), 200)
    height = sum(part.height + drawing.GAP for part in parts) + drawing.LINE
    sheet, y = Image.new("RGB", (width + 2 * drawing.GAP, height + drawing.GAP), "white"), drawing.GAP
    for part in parts:
        sheet.paste(part, (drawing.GAP, y))
        y += part.height + drawing.GAP
    ImageDraw.Draw(sheet).text((drawing.GAP, y - 4), drawing.shortened(said, width), drawing.FAINT, drawing._font())
    return np.asarray(sheet)


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    sheet = np.full((max(len(left), len(right)), left.shape[1] + SPACE + right.shape[1], 3), 255, np.uint8)
    sheet[: len(left), : left.shape[1]] = left
    sheet[: len(right), -right.shape[1] :] = right
    return sheet
