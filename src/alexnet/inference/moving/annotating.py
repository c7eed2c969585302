"""Moving pictures with their classes written on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image, ImageDraw, ImageFont, ImageOps

from alexnet.base.files import writing
from alexnet.base.text import printable
from alexnet.engines.base import package
from alexnet.inference.moving.reading import RATE, Frame
from alexnet.inference.prediction import ClassProbability

SUFFIXES = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}  # and FFmpeg's names
CODECS = ("libx264", "mpeg4")  # the first that PyAV was built with
TICKS = 10_000  # a second, to which frames' times are rounded


def annotated(picture: Image.Image, classes: Sequence[ClassProbability]) -> Image.Image:
    """The picture with names and bars in its upper left."""
    size = max(11, min(picture.height // 22, picture.width // 26))
    font, line, width = ImageFont.load_default(size=size), round(1.35 * size), min(picture.width, 16 * size)
    shade = Image.new("RGBA", (width, line * len(classes) + size // 2), (0, 0, 0, 150))
    draw = ImageDraw.Draw(shade)
    for number, one in enumerate(classes):
        y = size // 4 + number * line
        draw.rectangle((0, y + 1, round(one.probability * (width - 1)), y + line - 2), (59, 130, 196, 220))
        text = f"{100 * one.probability:.0f} %  {printable(one.label)}"
        while font.getlength(text) > width - size and len(text) > 8:
            text = text[:-2] + "…"
        draw.text((size // 2, y), text, "white", font)
    drawn = picture.convert("RGBA")
    drawn.alpha_composite(shade)
    return drawn.convert("RGB")


class Film:
    """A new video file that frames are added to; it is in its place when all is well at the end.

    It is as large as its first frame; others are fitted in, with borders. Without a frame there is no file.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.av: Any = package("av", "video", "--annotate")
        self.path, self.part = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        self.rate = Fraction(rate or RATE).limit_denominator(1001)
        self.stream: Any = None
        self.size = (0, 0)
        self.last = -1

    def __enter__(self) -> Self:
        with writing(self.path):
            self.container = self.av.open(str(self.part), "w", format=SUFFIXES[self.path.suffix])
        return self

    def add(self, frame: Frame, classes: Sequence[ClassProbability]) -> None:
        """One more frame, at its time."""
        with writing(self.path):
            if self.stream is None:
                self._begin(frame.picture)
            picture = frame.picture
            if picture.size != self.size:
                picture = ImageOps.pad(picture.convert("RGB"), self.size)
            drawn = annotated(picture, classes) if classes else picture
            made = self.av.VideoFrame.from_image(drawn.crop((0, 0, self.stream.width, self.stream.height)))
            made.time_base = Fraction(1, TICKS)
            made.pts = self.last = max(self.last + 1, round(frame.time * TICKS))
            self.container.mux(self.stream.encode(made))

    def _begin(self, picture: Image.Image) -> None:
        codec = next(one for one in CODECS if one in self.av.codecs_available)
        self.stream, self.size = self.container.add_stream(codec, rate=self.rate), picture.size
        # Colours of two pixels each way are one: sides are even.
        self.stream.width, self.stream.height = max(2, picture.width // 2 * 2), max(2, picture.height // 2 * 2)
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, TICKS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with writing(self.path):
                whole = self.stream is not None and kind is None
                if whole:
                    self.container.mux(self.stream.encode(None))
                self.container.close()
                if whole:
                    os.replace(self.part, self.path)
        finally:
            self.part.unlink(missing_ok=True)
