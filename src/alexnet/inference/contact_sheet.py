"""A contact sheet: a row a query, the query at the left, its neighbours with their distances beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from alexnet.base.files import write_whole
from alexnet.base.text import printable
from alexnet.data.pictures import Source, Unreadable, decode
from alexnet.data.sources import Sources
from alexnet.inference.similarity import Similar

TILE, GAP, LINE = 144, 10, 16  # pixels: side of a picture, space around it, height of its caption
ROWS, ACROSS = 40, 20  # queries, and neighbours of each, that fit on a sheet
FORMATS = {".png": "PNG", ".jpg": "JPEG"}  # Pillow's, by the name's end


def contact_sheet(answers: Sequence[Similar], pictures: Mapping[str, Source]) -> Image.Image:
    """The sheet of the answers without errors, and first neighbours of each; what `pictures` lacks is a grey tile."""
    shown = [one for one in answers if one.error is None][:ROWS]
    across = 1 + min(ACROSS, max((len(one.neighbours) for one in shown), default=0))
    step = TILE + GAP
    sheet = Image.new("RGB", (across * step + 3 * GAP, max(1, len(shown)) * (step + 2 * LINE) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, one in enumerate(shown):
        y = GAP + number * (step + 2 * LINE)
        cells = [(one.file, ""), *((n.file, f"{round(n.distance, 6):.4g}") for n in one.neighbours[:ACROSS])]
        for column, (name, said) in enumerate(cells):
            x = GAP + column * step + (2 * GAP if column else 0)  # the query stands apart
            tile = _tile(pictures.get(name))
            sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
            draw.text((x + TILE // 2, y + TILE + 2), _short(draw, font, name), "black", font, anchor="ma")
            draw.text((x + TILE // 2, y + TILE + 2 + LINE), said, "#777777", font, anchor="ma")
    draw.line([(GAP + step + GAP // 2, 0), (GAP + step + GAP // 2, sheet.height)], "#cccccc")
    return sheet


def save(path: Path, answers: Sequence[Similar], pictures: Mapping[str, Source]) -> None:
    """Write the sheet as .png or .jpg."""
    sheet = contact_sheet(answers, pictures)
    write_whole(path, lambda file: sheet.save(file, FORMATS[path.suffix], quality=90))


class Pages:
    """Sheets of ROWS answers each: FILE, FILE-page2 … of the same ending, written as they fill; `files` are those."""

    def __init__(self, path: Path, images: Iterable[str], indexed: Iterable[str]) -> None:
        self.path, self.images, self.indexed = path, list(images), list(indexed)
        self.files: list[str] = []
        self._answers: list[Similar] = []

    def add(self, one: Similar) -> None:
        """An answer more."""
        self._answers.append(one)
        if len(self._answers) == ROWS:
            self.write()

    def write(self) -> None:
        """The answers that are in no sheet yet."""
        if not self._answers:
            return
        number = len(self.files) + 1
        path = self.path if number == 1 else self.path.with_stem(f"{self.path.stem}-page{number}")
        asked = find_pictures(self.images, [one.file for one in self._answers])
        shown = find_pictures(self.indexed, {n.file for one in self._answers for n in one.neighbours[:ACROSS]})
        save(path, self._answers, asked | shown)
        self.files.append(str(path))
        self._answers = []


def pages(path: Path) -> list[Path]:
    """The sheet of that name and its further pages, as far as they are there."""
    numbered = re.compile(rf"{re.escape(path.stem)}-page\d+{re.escape(path.suffix)}")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return [one for one in beside if one.name == path.name or numbered.fullmatch(one.name)]


def find_pictures(images: Iterable[str], names: Iterable[str]) -> dict[str, Source]:
    """The pictures of those names: files where they are, the others from the archives that hold them."""
    wanted, found = set(names), dict[str, Source]()
    for name in list(wanted):
        if Path(name).is_file():
            found[name] = name
            wanted.discard(name)
    if wanted:
        for name, source in Sources([image for image in images if image != "-"]):
            if name in wanted:
                found[name] = b"" if isinstance(source, Unreadable) else source
                wanted.discard(name)
            if not wanted:
                break
    return found


def _tile(source: Source | None) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), "#dddddd")
    if source is not None:
        try:
            picture = decode(source)
        except Unreadable:
            return tile
        scale = TILE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    return tile


def _short(draw: ImageDraw.ImageDraw, font, name: str) -> str:
    """The end of a name, as much of it as a tile is wide."""
    text = printable(name.rpartition("/")[2] or name)
    while draw.textlength(text, font) > TILE and len(text) > 4:
        text = "…" + text[2:]
    return text
