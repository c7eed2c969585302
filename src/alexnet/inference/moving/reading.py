"""Moving pictures as frames with their times: video files, cameras, streams, folders of pictures; decoded by PyAV."""

from __future__ import annotations

import glob
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data.pictures import Unreadable, decode
from alexnet.data.sources import Sources
from alexnet.engines.base import package

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
    ".3gp", ".y4m",
)  # fmt: skip
CAMERA = "camera:"
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "srt://", "udp://")
RATE = 25.0  # of a folder of pictures, frames a second, unless another is given
WAIT = (20.0, 20.0)  # seconds for a stream to open, and to send the next frame
# How a camera is opened on each system: FFmpeg's name of its cameras, and what the number stands in.
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}:none"), "win32": ("dshow", "video={}")}


@dataclass(frozen=True)
class Frame:
    """The frame of that number, from 0, at so many seconds from the first; upright, RGB."""

    number: int
    time: float
    picture: Image.Image


class FrameReader(Protocol):
    """An open source: its name, frames a second (0: not known), how many frames (None: not known), whether it goes on
    by itself; after iterating, in `error` why it ended before its end."""

    name: str
    rate: float
    total: int | None
    live: bool
    error: str

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


def is_moving(name: str) -> bool:
    """Whether a name is that of a video file, a camera or a stream."""
    return is_live(name) or name.lower().endswith(SUFFIXES)


def is_live(name: str) -> bool:
    """Whether it goes on by itself, and does not wait for who looks."""
    return name.startswith((CAMERA, *STREAMS))


def named(names: Sequence[str]) -> list[str]:
    """The moving pictures that are meant, patterns such as films/*.mp4 as what they match; AlexNetError where one is
    not there."""
    found = []
    for name in names:
        there = is_live(name) or os.path.exists(name)
        several = [] if there or not glob.has_magic(name) else sorted(glob.glob(name, recursive=True))
        if not there and not several:
            raise AlexNetError(f"{name} does not exist; give a video, a folder of pictures, camera:0 or a stream.")
        found += several or [name]
    for name in found:
        if not os.path.isdir(name):
            package("av", "video", f"a moving picture ({name})")
    return found


def opened(name: str, rate: float = RATE) -> FrameReader:
    """The source of that name, opened; `rate` is that of a folder of pictures."""
    return Folder(name, rate) if os.path.isdir(name) else Video(name)


class Video:
    """A file, a camera (camera:0, or camera:NAME) or a stream that PyAV decodes."""

    def __init__(self, name: str) -> None:
        self.av: Any = package("av", "video", f"a moving picture ({name})")
        self.name, self.error, self.live = name, "", is_live(name)
        self.container, self.stream = _container(self.av, name)
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        # A film that was cut without coding it anew counts frames in its header that its index leaves out.
        entries, frames = len(self.stream.index_entries), self.stream.frames
        self.total = (min(frames, entries) if entries else frames) if frames else None
        self.pixel = float(self.stream.codec_context.sample_aspect_ratio or 1)  # its width over its height

    def __iter__(self) -> Iterator[Frame]:
        self.stream.thread_type = "AUTO"
        number, packets, first = 0, 0, None
        try:
            for packet in self.container.demux(self.stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    at = frame.time if frame.time is not None else number / (self.rate or RATE)
                    first = at if first is None else first
                    yield Frame(number, max(0.0, at - first), _upright(frame, self.pixel))
                    number += 1
        except self.av.FFmpegError as error:
            self.error = f"cannot be decoded after {counted(number, 'frame')} ({_reason(self.av, error)})"
            if not number:
                raise AlexNetError(f"{self.name} {self._broken(_reason(self.av, error))}") from None
        if not number:
            raise AlexNetError(f"{self.name} {self._broken('no frame in it')}")
        # Not by frames: some are only there so that others can be decoded.
        if not self.error and self.total and packets < self.total:
            self.error = f"is cut short: it says that it has {counted(self.total, 'frame')}, and has {number:,}"

    def _broken(self, reason: str) -> str:
        if self.live:
            return f"has sent nothing that can be decoded ({reason}); see that it is there and sends."
        return _broken(reason)

    def close(self) -> None:
        self.container.close()


def _container(av: Any, name: str) -> tuple[Any, Any]:
    """The open container and its first stream of pictures."""
    try:
        if name.startswith(CAMERA):
            container = _camera(av, name)
        elif is_live(name):
            container = av.open(name, timeout=WAIT)
        else:
            # FFmpeg takes what stands before a colon for a protocol.
            container = av.open(os.path.abspath(name))
    except av.FFmpegError as error:
        if is_live(name):
            reason = _reason(av, error)
            raise AlexNetError(f"{name} cannot be opened ({reason}); see that it is there and sends.") from None
        raise AlexNetError(f"{name} {_broken(error.strerror)}") from None
    if not container.streams.video:
        container.close()
        raise AlexNetError(f"{name} has no pictures, only sound or text; give a video.")
    return container, container.streams.video[0]


def _reason(av: Any, error: Any) -> str:
    """Why FFmpeg gave up; where it was told to, how long it had waited."""
    return f"nothing came for {WAIT[1]:.0f} s" if isinstance(error, av.error.ExitError) else error.strerror


def _broken(reason: str) -> str:
    return f"is no video that can be decoded ({reason}); copy it again, or convert it to .mp4."


def _camera(av: Any, name: str) -> Any:
    format, place = CAMERAS.get(sys.platform, CAMERAS["linux"])
    which = name.removeprefix(CAMERA)
    if not which:
        raise AlexNetError("camera: needs a number or a name, such as camera:0.")
    try:
        # A number is one of the system's; a name, which Windows has alone, is given as it is.
        return av.open(place.format(which) if which.isdecimal() or format == "dshow" else which, format=format)
    except (av.FFmpegError, ValueError) as error:
        here = sorted(Path("/dev").glob("video*")) if format == "v4l2" else []
        others = ", ".join(CAMERA + one.name.removeprefix("video") for one in here)
        reason = getattr(error, "strerror", None) or str(error)
        known = f" those of this machine are {others}" if others else " there is none on this machine"
        raise AlexNetError(
            f"{name} cannot be opened ({reason});{known if format == 'v4l2' else ' see that it is there and free'}."
        ) from None


def _upright(frame: Any, pixel: float) -> Image.Image:
    """The frame as it is meant to be seen: turned, and with square pixels."""
    picture = frame.to_image()
    if pixel != 1:
        picture = picture.resize((max(1, round(picture.width * pixel)), picture.height))
    turn = round(frame.rotation) % 360
    return picture.rotate(turn, expand=True) if turn else picture


class Folder:
    """The pictures of a folder as frames, in the order of their names; one that cannot be read is left out and said."""

    def __init__(self, name: str, rate: float = RATE) -> None:
        self.name, self.rate, self.error, self.live = name, rate, "", False
        self.sources = Sources(name)
        self.total = self.sources.total

    def __iter__(self) -> Iterator[Frame]:
        failed = []
        for number, (name, source) in enumerate(self.sources):
            try:
                yield Frame(number, number / self.rate, decode(source))
            except Unreadable as error:
                failed.append(f"{name}: {error}")
        if failed:
            self.error = f"has left out {counted(len(failed), 'picture')} that cannot be read, such as {failed[0]}"

    def close(self) -> None:
        """Nothing is open."""


class Newest:
    """A source of which only the newest frame is ever given, so that who looks never lags; `dropped` counts the others.

    Frames of a file, which would come as fast as they can be decoded, come at their times. It ends when `stopped` says
    so, though its source is silent.
    """

    def __init__(self, reader: FrameReader, stopped: Callable[[], bool] = lambda: False) -> None:
        self.reader, self.stopped, self.dropped, self.read = reader, stopped, 0, 0
        self.name, self.rate, self.total, self.live = reader.name, reader.rate, reader.total, True
        self._slot: Frame | None = None
        self._fault: BaseException | None = None
        self._changed, self._stopped = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
        self._ended = self._closed = False

    @property
    def error(self) -> str:
        return self.reader.error

    def _run(self) -> None:
        began = time.monotonic()
        try:
            for frame in self.reader:
                if not self.reader.live:
                    time.sleep(max(0.0, began + frame.time - time.monotonic()))
                with self._changed:
                    if self._stopped:
                        break
                    self.dropped += self._slot is not None
                    self._slot = frame
                    self.read += 1
                    self._changed.notify()
        except BaseException as fault:
            self._fault = fault
        with self._changed:
            self._ended = True
            self._changed.notify()
            if self._closed:
                self.reader.close()

    def __iter__(self) -> Iterator[Frame]:
        self._thread.start()
        try:
            while True:
                with self._changed:
                    # In parts, so that Ctrl-C is heard.
                    while self._slot is None and not self._ended and not self.stopped():
                        self._changed.wait(0.2)
                    frame, self._slot = self._slot, None
                if frame is None:
                    break
                yield frame
        finally:
            with self._changed:
                self._stopped = True
            self._thread.join(2)
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Close the source; one that is silent, when it has sent something: FFmpeg is within it."""
        with self._changed:
            self._closed = True
            if self._ended or not self._thread.is_alive():
                self.reader.close()
