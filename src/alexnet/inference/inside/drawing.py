"""The arrays of this folder as pictures: uint8 (h, w, 3), or (h, w) for gray, and as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet.base.text import printable
from alexnet.inference.inside.compare import Compared
from alexnet.inference.inside.maps import Patch
from alexnet.inference.inside.views import PreprocessingStep, Views
from alexnet.inference.inside.where import Where

TILE, GAP, LINE = 160, 10, 16  # pixels: side of a picture on a sheet, space around it, height of a line
SMALL, ACROSS = 40, 16  # least side of a map on a sheet; how many stand in a row
MOST_MAPS = 256
TEXT, FAINT = "#222222", "#777777"


def png(pixels: np.ndarray) -> bytes:
    """A picture uint8 (h, w), (h, w, 1) or (h, w, 3) as a PNG file."""
    file = io.BytesIO()
    _image(pixels).save(file, "PNG")
    return file.getvalue()


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def in_gray(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Values as gray of the same shape, black for `low` and white for `high`: by default 0, or their least where that
    is below it, and their greatest."""
    low = min(0.0, float(values.min())) if low is None else low
    high = float(values.max()) if high is None else high
    scaled = (values - low) / (high - low if high > low else 1)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def enlarged(pixels: np.ndarray, least: int) -> np.ndarray:
    """A picture whose pixels are repeated until its longer side has `least` pixels or more."""
    times = -(-least // max(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def grid(tiles: Sequence[np.ndarray], across: int, gap: int = 1) -> np.ndarray:
    """Pictures of one size in rows, white between them."""
    height, width, *rest = tiles[0].shape
    rows = -(-len(tiles) // across)
    across = min(across, len(tiles))
    sheet = np.full((rows * (height + gap) + gap, across * (width + gap) + gap, *rest), 255, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // across * (height + gap) + gap, number % across * (width + gap) + gap
        sheet[y : y + height, x : x + width] = tile
    return sheet


def map_sheet(values: np.ndarray, order: Sequence[int] | np.ndarray | None = None, most: int = MOST_MAPS) -> np.ndarray:
    """Maps (C, h, w) in rows, gray by one scale, in the given order, the first `most` of them: uint8 (H, W)."""
    chosen = np.arange(len(values)) if order is None else np.asarray(order)
    drawn = in_gray(values)
    return grid([enlarged(drawn[one], SMALL) for one in chosen[:most]], ACROSS)


def filter_sheet(weights: np.ndarray) -> np.ndarray:
    """Filters (F, C, k, k) in rows, all scaled together from their least to their greatest weight (paper Fig. 3).

    In colour where C is 3: uint8 (H, W, 3); otherwise the mean over their channels: uint8 (H, W).
    """
    filters = np.moveaxis(weights, 1, -1)
    if filters.shape[-1] != 3:
        filters = filters.mean(-1, keepdims=True)
    drawn = in_gray(filters, float(filters.min()))
    sheet = grid(list(drawn), ACROSS if len(drawn) > 32 else ACROSS // 2)
    return sheet if sheet.shape[-1] == 3 else sheet[..., 0]


# -- heat maps --------------------------------------------------------------------------------------------------------


@cache
def _table(signed: bool) -> np.ndarray:
    """256 colours: of values from -1 to 1, or from 0 to 1."""
    from matplotlib import colormaps

    return (colormaps["RdBu_r" if signed else "inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def heat(values: np.ndarray, signed: bool) -> np.ndarray:
    """Values (h, w) in colours, uint8 (h, w, 3): red above and blue below zero, or from black to yellow."""
    most = float(np.abs(values).max()) or 1.0
    scaled = (values / most + 1) / 2 if signed else values / most
    return _table(signed)[(255 * scaled.clip(0, 1)).round().astype(np.uint8)]


def overlay(picture: np.ndarray, values: np.ndarray, signed: bool) -> np.ndarray:
    """Values (h, w) over the picture uint8 (h, w, C) that they are of, which is grey beneath: uint8 (h, w, 3).

    The stronger a value, the more its colour covers.
    """
    light = picture.astype(np.float32).mean(-1, keepdims=True).repeat(3, -1)
    most = float(np.abs(values).max()) or 1.0
    share = 0.75 * np.sqrt(np.abs(values) / most).clip(0, 1)[..., None]
    return (light * (1 - share) + heat(values, signed) * share).round().astype(np.uint8)


# -- sheets -----------------------------------------------------------------------------------------------------------


@cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=12)


def shortened(text: str, width: int, font=None) -> str:
    """The beginning of a text, as much as `width` pixels hold."""
    text, font = printable(text), font or _font()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def tile(pixels: np.ndarray, side: int = TILE) -> Image.Image:
    """A picture whose longer side is `side`; small ones keep their pixels visible."""
    picture = _image(pixels).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def captioned(tiles: Sequence[tuple[np.ndarray, Sequence[str]]], across: int, side: int = TILE) -> np.ndarray:
    """Pictures in rows, each with lines beneath: uint8 (h, w, 3)."""
    lines = max((len(said) for _, said in tiles), default=0)
    width, height = side + GAP, side + LINE * lines + GAP
    across, rows = min(across, len(tiles)), -(-len(tiles) // across)
    sheet = Image.new("RGB", (across * width + GAP, rows * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    for number, (pixels, said) in enumerate(tiles):
        x, y = number % across * width + GAP, number // across * height + GAP
        drawn = tile(pixels, side)
        sheet.paste(drawn, (x + (side - drawn.width) // 2, y + (side - drawn.height) // 2))
        for line, text in enumerate(said):
            at = (x + side // 2, y + side + 2 + line * LINE)
            draw.text(at, shortened(text, side, font), FAINT if line else TEXT, font, anchor="ma")
    return np.asarray(sheet)


def patch_sheet(patches: Sequence[Patch]) -> np.ndarray:
    """The patches that excite a map most, greatest value first, three in a row."""
    return captioned([(one.pixels, [f"{one.value:.4g}", one.file.rpartition("/")[2]]) for one in patches], 3, 120)


def view_sheet(views: Views, classes: Sequence[str]) -> np.ndarray:
    """The ten views, five in a row, each with its first class, and what the mean of all says."""
    tiles = []
    for name, crop, votes in zip(views.names, views.crops, views.probabilities, strict=True):
        best = int(votes.argmax())
        tiles.append((crop, [name, classes[best], f"{100 * votes[best]:.1f} %"]))
    best = int(views.mean.argmax())
    sheet = Image.fromarray(captioned(tiles, 5))
    whole = Image.new("RGB", (sheet.width, sheet.height + LINE + GAP), "white")
    whole.paste(sheet)
    text = f"the mean of all: {classes[best]}, {100 * views.mean[best]:.1f} %"
    ImageDraw.Draw(whole).text((GAP, sheet.height), printable(text), TEXT, _font())
    return np.asarray(whole)


def step_sheet(steps: Sequence[PreprocessingStep]) -> np.ndarray:
    """The steps of preprocessing in a row, each to the same longer side."""
    return captioned([(one.pixels, [one.name, f"{one.pixels.shape[1]} x {one.pixels.shape[0]}"]) for one in steps], 5)


def bars(classes: Sequence[tuple[str, float]], width: int = TILE, marked: str | None = None) -> np.ndarray:
    """Names and probabilities as bars, as in the paper's Fig. 4; the class `marked` has a bar of another colour."""
    sheet = Image.new("RGB", (width, LINE * len(classes)), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    for number, (name, probability) in enumerate(classes):
        y = number * LINE
        long = round(probability * (width - 1))
        draw.rectangle((0, y + 1, long, y + LINE - 2), "#f4a6b8" if name == marked else "#a9cdea")
        draw.text((3, y), shortened(name, width - 6, font), TEXT, font)
    return np.asarray(sheet)


def where_picture(found: Where, class_index: int, side: int = 480) -> np.ndarray:
    """The probability of a class over a large picture: at each pixel, that of the place whose middle is nearest."""
    height, width = found.picture.shape[:2]
    values = found.probabilities[class_index]
    rows, columns = (
        ((np.arange(size) - (found.input - 1) / 2) / found.stride).round().clip(0, count - 1).astype(int)
        for size, count in ((height, values.shape[0]), (width, values.shape[1]))
    )
    drawn = overlay(found.picture, values[np.ix_(rows, columns)], False)
    return np.asarray(tile(drawn, side))


def difference_sheet(compared: Compared) -> np.ndarray:
    """How far two models are apart at each place of each layer with maps, each by its own scale."""
    shown = [one for one in compared.layers if one.map.size > 1]
    tiles = [(enlarged(heat(one.map, False), SMALL), [one.layer, f"{100 * one.relative:.3g} %"]) for one in shown]
    return captioned(tiles, 6, 120) if tiles else np.full((LINE, TILE, 3), 255, np.uint8)
