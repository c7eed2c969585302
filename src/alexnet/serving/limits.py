"""How much is taken, and how much at once; what is over it is refused in a sentence, with its HTTP status."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image
from starlette.requests import Request

from alexnet.base.text import counted
from alexnet.data.pictures import HEIF, reads_heif

MEMORY = 1 << 28  # bytes of uploads that are held at once, whatever they are


class Refused(Exception):
    """What a client is answered instead: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Limits:
    """Bytes of a request, pixels of a picture, seconds of a request, and pictures that wait at once."""

    upload: int = 16 << 20
    pixels: int = 50_000_000
    seconds: float = 30.0
    queue: int = 256


@dataclass
class Room:
    """What is inside at the moment: pictures and bytes of requests that are not answered yet."""

    limits: Limits
    pictures: int = 0
    held: int = 0
    stopping: bool = False

    @contextmanager
    def entered(self) -> Iterator[Entry]:
        """A request, which counts as one picture until more of it is known."""
        entry = Entry(self)
        try:
            entry.count(1)
            yield entry
        finally:
            self.pictures -= entry.pictures
            self.held -= entry.held


@dataclass
class Entry:
    """The share of one request."""

    room: Room
    pictures: int = field(default=0, init=False)
    held: int = field(default=0, init=False)

    def count(self, pictures: int) -> None:
        """It has this many pictures in all."""
        more, queue = pictures - self.pictures, self.room.limits.queue
        if pictures > queue:
            raise Refused(
                413, f"the request has {counted(pictures, 'picture')}, and {queue:,} at once are the most; send fewer."
            )
        if self.room.pictures + more > queue:
            raise Refused(503, f"as many pictures are waiting as may ({queue:,}); try again soon.")
        self.room.pictures += more
        self.pictures = pictures

    def hold(self, size: int) -> None:
        """So many bytes more have come."""
        if self.room.held + size > max(MEMORY, self.room.limits.upload):
            raise Refused(503, "uploads fill the memory that is set aside for them; try again soon.")
        self.room.held += size
        self.held += size


async def body(request: Request, limits: Limits, entry: Entry) -> bytes:
    """What a request carries, within the limits of size and time."""
    over = Refused(413, f"the upload is over {limits.upload:,} bytes, the most that is taken; send a smaller picture.")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limits.upload:
        raise over
    found = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                if len(found) + len(chunk) > limits.upload:
                    raise over
                entry.hold(len(chunk))
                found += chunk
    except TimeoutError:
        raise Refused(
            408, f"the upload was not whole after {limits.seconds:g} s, the most that is waited; send it again."
        ) from None
    return bytes(found)


def check_pixels(picture: bytes, most: int) -> None:
    """Refuse a picture by the size that its first bytes tell, before memory is taken for it."""
    if picture[4:12] in HEIF:
        reads_heif()  # or Pillow would not know the first that comes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(picture)) as opened:
                width, height = opened.size
    except Image.DecompressionBombError:
        raise Refused(
            413, f"the picture has more than {most:,} pixels, the most that is taken; make it smaller."
        ) from None
    except Exception:  # no picture, or a broken one: decoding it will say which
        return
    if width * height > most:
        raise Refused(
            413, f"the picture has {width:,} x {height:,} pixels, and {most:,} in all are the most; make it smaller."
        )
