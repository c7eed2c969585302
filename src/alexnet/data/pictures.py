"""One picture: whatever file it comes in, upright, in the colours a viewer shows, as uint8 at the stored size."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet.errors import AlexNetError

# Broken metadata is no fault of the pixels. Pillow refuses pictures above 179 million pixels before it takes memory
# for them; half of that is only a warning.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Source = str | Path | bytes | Image.Image | np.ndarray


class Unreadable(AlexNetError):
    """Not a picture, or a broken one; the message says which and is one clause."""


def decode(source: Source, channels: int = 3, size: int = 0) -> Image.Image:
    """An upright 8-bit picture, RGB (channels=3) or gray (1), from a path, bytes, PIL image or uint8 array (H, W[, 3]).

    EXIF rotation is applied, transparency is laid on white, 16-bit values keep their high byte, CMYK becomes RGB.
    Where it will be shrunk to `size`, a JPEG is decoded at 1/2, 1/4 or 1/8 as long as that is twice `size` or more.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    try:
        if isinstance(source, Image.Image):
            return _upright(source, channels)
        with _file(source) as file:
            picture = Image.open(file)
            if size and picture.format == "JPEG":
                picture.draft(None, (2 * size, 2 * size))
            return _upright(picture, channels)
    except AlexNetError:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a picture") from None
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        raise Unreadable(f"broken picture ({str(error) or type(error).__name__})") from None


def stored(picture: Image.Image, size: int) -> np.ndarray:
    """Shorter side to `size`, antialiased, then the central square: uint8 (C, size, size); paper §2."""
    return np.array(square(picture, size).transpose(2, 0, 1), order="C")


def square(picture: Image.Image, size: int) -> np.ndarray:
    """The same as Pillow has it, colours last: uint8 (size, size, C)."""
    width, height = picture.size
    if min(width, height) != size:
        scale = size / min(width, height)
        picture = picture.resize(
            (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BILINEAR
        )
        width, height = picture.size
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _file(source: str | Path | bytes) -> BinaryIO:
    """The source as an open file that is not empty."""
    if isinstance(source, bytes):
        file: BinaryIO = io.BytesIO(source)
        size = len(source)
    else:
        try:
            file = open(source, "rb")  # noqa: SIM115, the caller closes it
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise Unreadable("no such file" if missing else f"cannot be opened ({error.strerror})") from None
        size = os.fstat(file.fileno()).st_size
    if not size:
        file.close()
        raise Unreadable("empty, 0 bytes")
    return file


def _upright(picture: Image.Image, channels: int) -> Image.Image:
    if channels not in (1, 3):
        raise AlexNetError(
            f"pictures were asked for with {channels} channels; set channels to 1 (gray) or 3 (RGB), as files hold."
        )
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit gray (I;16, or I as some plugins give it) by its high byte, as a 16-bit RGB file is read."""
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise Unreadable("pixel values outside 0 to 65535")
    if picture.mode == "F":
        raise Unreadable("floating-point pixels, whose range is not defined; save it with 8 or 16 bits")
    return Image.fromarray((values / 256).astype(np.uint8))
