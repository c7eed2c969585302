"""Small films, written by PyAV, and what OpenCV sees in them."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from conftest import COLOURS, coloured

FRAMES, RATE, SIZE = 24, 12, (96, 72)


def frames(count: int = FRAMES) -> list[Image.Image]:
    """A third of the clip in each colour, with a white square that moves down the left half."""
    made = []
    for number in range(count):
        picture = coloured(list(COLOURS)[number * 3 // count], 0, SIZE).resize(SIZE)
        y = number * (SIZE[1] - 16) // count
        picture.paste((255, 255, 255), (8, y, 24, y + 16))
        made.append(picture)
    return made


def write(path: Path, pictures: list[Image.Image], codec: str = "libx264", rate: int = RATE, **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "10", "g": "6"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


def of_opencv(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1][..., ::-1])
    capture.release()
    return found


def cut(clip: Path, path: Path, first: int) -> Path:
    """The clip from that frame on, not coded anew: an edit list leaves out what is only there to decode others."""
    with av.open(str(clip)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy, shift = new.add_stream_from_template(stream), round(first / RATE / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return path
