"""One picture: whatever it comes in, upright, in the colours a viewer shows, as a square of uint8."""

from __future__ import annotations

import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import SQUARES
from alexnet.base.limits import too_many_open
from alexnet.data.foreign import LOOKED_AT, told_by

if TYPE_CHECKING:
    from torch import Tensor

# Broken metadata is no fault of the pixels. Pillow refuses pictures above 179 million pixels before it takes memory
# for them; half of that is only a warning.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# A path, a file's bytes, an open file, {"bytes": …, "path": …}, a PIL image, an array (H, W[, C]), a tensor (C, H, W)
Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Mapping[str, Any] | Image.Image | np.ndarray | Tensor"
)

LONGEST = 64  # times its short side: longer pictures are cut before they are resized
STRIP = 1 << 22  # pixels that are laid on white at once
BITS, PHOTOMETRIC, WHITE_IS_ZERO, EXTRA_SAMPLES = 258, 262, 0, 338  # of TIFF
ORIENTATION = 274  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
HEIF = (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftypmif1", b"ftypmsf1")


class Unreadable(AlexNetError):
    """Not a picture, or a broken one; the message says which and is one clause."""


@dataclass(frozen=True, order=True)
class Square:
    """How a picture becomes a square, by Pillow's antialiased bilinear resizing.

    crop: the shorter side to the square's, then the centre (paper §2). squash: both sides, as Caffe's nets and Tiny
    ImageNet have it. torchvision: the same as crop, but long side and place are rounded as torchvision.transforms does
    it, so that the central `input` pixels (0: all) are those of its Resize and CenterCrop.
    """

    how: str = "crop"
    input: int = 0

    @classmethod
    def of(cls, how: str, input: int) -> Square:
        """That of a network which sees the central `input` pixels."""
        return cls(how, input if how == "torchvision" else 0)

    def __call__(self, picture: Image.Image, side: int) -> np.ndarray:
        """uint8 (side, side, C)."""
        pixels = np.asarray(_squashed(picture, side) if self.how == "squash" else self._centre(picture, side))
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def whole(self, picture: Image.Image, side: int) -> np.ndarray:
        """The picture before the square is cut out of it, uint8 (h, w, C); of one whose long side is more than LONGEST
        times the short one, the middle."""
        if self.how == "squash":
            resized = _squashed(picture, side)
        else:
            short, long = sorted(picture.size)
            cut = max(0, long - LONGEST * short) // 2
            wide = picture.width > picture.height
            part = picture.crop((cut, 0, long - cut, short) if wide else (0, cut, short, long - cut))
            length = self._length(part, side)
            resized = part.resize((length, side) if wide else (side, length), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _length(self, picture: Image.Image, side: int) -> int:
        """Of the longer side, where the shorter one has `side` pixels."""
        short, long = sorted(picture.size)
        return int(side * long / short) if self.how == "torchvision" else max(side, round(long * (side / short)))

    def _centre(self, picture: Image.Image, side: int) -> Image.Image:
        short, long = sorted(picture.size)
        length = self._length(picture, side)
        if self.how == "torchvision":
            inner = self.input or side
            start = round((length - inner) / 2) - round((side - inner) / 2)
        else:
            start = (length - side) // 2

        def placed(along: float, across: float) -> tuple[Any, Any]:
            return (along, across) if picture.width > picture.height else (across, along)

        if length <= LONGEST * side:
            whole = picture if long == length else picture.resize(placed(length, side), Image.Resampling.BILINEAR)
            return whole.crop((*placed(start, 0), *placed(start + side, side)))
        # A picture of 1 x 60,000 would be 256 times as long: only what the square sees is resized.
        step = long / length
        low, high, margin = start * step, (start + side) * step, math.ceil(step) + 2
        first, last = max(0, math.floor(low) - margin), min(long, math.ceil(high) + margin)
        part = picture.crop((*placed(first, 0), *placed(last, short)))
        box = (*placed(low - first, 0), *placed(high - first, short))
        return part.resize((side, side), Image.Resampling.BILINEAR, box)


CROP = Square()


def stored(picture: Image.Image, size: int, square: Square = CROP) -> np.ndarray:
    """A picture at the stored size, colours first: uint8 (C, size, size)."""
    return np.array(square(picture, size).transpose(2, 0, 1), order="C")


def check_square(how: str) -> str:
    """Refuse what is no way to make a square."""
    if how not in SQUARES:
        raise AlexNetError(f"square was given '{how}'; it takes {', '.join(SQUARES)}.")
    return how


def _squashed(picture: Image.Image, side: int) -> Image.Image:
    if picture.size == (side, side):
        return picture
    if side * picture.height > max(picture.width * picture.height, LONGEST * side * side):
        # Pillow resizes rows first, which here would make the picture larger before it becomes smaller.
        picture = picture.resize((picture.width, side), Image.Resampling.BILINEAR)
    return picture.resize((side, side), Image.Resampling.BILINEAR)


def fill_squares(
    read: Callable[[int], Source | Unreadable], rows: np.ndarray, out: np.ndarray, places: np.ndarray, square: Square
) -> dict[int, str]:
    """Put the pictures `read(row)` as squares into `out`, uint8 (n, S, S, C), each at its place there.

    Gives what is wrong with each that cannot be read, by its row; what was at its place stays.
    """
    failed = {}
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        try:
            out[place] = square(decode(read(row), out.shape[3]), out.shape[1])
        except Unreadable as error:
            failed[row] = str(error)
    return failed


def is_source(given: object) -> bool:
    """Whether this is one picture, or a path, not an iterable of them."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Mapping, Image.Image)
    return isinstance(given, kinds) or hasattr(given, "read") or getattr(given, "ndim", 1) in (0, 2, 3)


def decode(source: Source | Unreadable, channels: int = 3) -> Image.Image:
    """An upright 8-bit picture, RGB (channels=3) or gray (1), from whatever a Source is; why there is none is raised.

    EXIF rotation is applied, transparency is laid on white, 16-bit values keep their high byte, CMYK becomes RGB.
    Arrays are uint8, or uint16 of which the high byte is kept, or floats from 0 (black) to 1.
    """
    try:
        if isinstance(source, Unreadable):
            raise source
        if isinstance(source, Mapping):
            source = _of_mapping(source)
        if isinstance(source, Image.Image):
            return _upright(source, channels)
        if hasattr(source, "data_ptr") or hasattr(source, "__array__"):
            return _upright(_of_array(source), channels)
        with _file(source) as file:
            return _upright(_opened(file), channels)
    except AlexNetError:
        raise
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        raise Unreadable(f"broken picture ({str(error) or type(error).__name__})") from None


def as_given(source: Source) -> bytes:
    """The bytes of a Source as they are, undecoded; why there are none is raised."""
    if isinstance(source, Unreadable):
        raise source
    if isinstance(source, Mapping):
        source = _of_mapping(source)
    if isinstance(source, Image.Image) or hasattr(source, "data_ptr") or hasattr(source, "__array__"):
        array = np.asarray(source)
        return f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    with _file(source) as file:
        return file.read()


def whole_contents(file: IO) -> bytes:
    """What is in an open file, from its beginning where it can be rewound, as Pillow has it."""
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        found = file.read()
    except (OSError, ValueError) as error:
        raise Unreadable(f"an open file that cannot be read ({error})") from None
    if isinstance(found, str):
        raise Unreadable("a file that was opened as text; open it with mode 'rb'")
    return found


def _of_mapping(given: Mapping[str, Any]) -> Source:
    found = given.get("bytes") or given.get("path") or given.get("bytes")
    if found is None:
        raise Unreadable(f"a mapping with the keys {', '.join(map(str, given))}; a picture has 'bytes' or 'path'")
    return found


def _of_array(given: Any) -> Image.Image:
    """A PIL image of an array, colours last, or of a tensor, colours first."""
    if hasattr(given, "data_ptr"):
        tensor = given.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        array, shapes = (
            array.transpose(1, 2, 0) if array.ndim == 3 else array,
            "(H, W), (1, H, W), (3, H, W) or (4, H, W)",
        )
    else:
        array, shapes = np.asarray(given), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if array.ndim not in (2, 3) or not array.size or array.shape[2:] not in ((), (1,), (3,), (4,)):
        kind = "a tensor" if hasattr(given, "data_ptr") else "an array"
        raise Unreadable(f"{kind} of shape {tuple(given.shape)}; a picture has {shapes}")
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):
            raise Unreadable(
                f"floating-point pixels from {low:.4g} to {high:.4g}; they go from 0 (black) to 1, or give uint8"
            )
        array = np.rint(array * 255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = array >> 8
    elif array.dtype != np.uint8:
        raise Unreadable(f"pixels of type {array.dtype}; give uint8 (0 to 255), uint16, or floats from 0 to 1")
    array = np.ascontiguousarray(array, np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _file(source: Any) -> BinaryIO:
    """The source as an open file that is not empty."""
    if hasattr(source, "read"):
        source = whole_contents(source)
    if isinstance(source, bytes | bytearray | memoryview):
        file: BinaryIO = io.BytesIO(source)
        size = len(source)
    elif isinstance(source, str | os.PathLike):
        try:
            file = open(source, "rb", opener=_at_once)  # noqa: SIM115, the caller closes it
        except OSError as error:
            if full := too_many_open(error, source):  # else pictures that are whole would be left out as broken
                raise full from None
            missing = isinstance(error, FileNotFoundError)
            raise Unreadable("no such file" if missing else f"cannot be opened ({error.strerror})") from None
        found = os.fstat(file.fileno())
        size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            file.close()
            raise Unreadable("a device or a pipe, which is not read by its name; send the picture to - on stdin")
    else:
        raise Unreadable(
            f"no picture but {type(source).__name__}; give a path, bytes, an open file, a PIL image, an array or a "
            "tensor"
        )
    if not size:
        file.close()
        raise Unreadable("empty, 0 bytes")
    return file


@cache
def reads_heif() -> bool:
    """Whether Pillow reads HEIC, as iPhones save photographs: with the extra heif, once this has been asked."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for who may write into it, where it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(LOOKED_AT)
        if head[4:12] in HEIF and reads_heif():
            file.seek(0)
            with suppress(UnidentifiedImageError):
                return Image.open(file)
        raise Unreadable(_what(head)) from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise Unreadable(f"larger than the {most:,} pixels that are read; make it smaller") from None


def _what(head: bytes) -> str:
    """What a file is that is no picture which Pillow reads, by its first bytes."""
    if head[4:12] in HEIF:
        how = (
            "broken" if reads_heif() else "in a clone of alexnet, pip install '.[heif]' to read it; or save it as JPEG"
        )
        return f"HEIC, as iPhones save photographs; {how}"
    return told_by(head)


def _upright(picture: Image.Image, channels: int) -> Image.Image:
    if channels not in (1, 3):
        raise AlexNetError(
            f"pictures were asked for with {channels} channels; set channels to 1 (gray) or 3 (RGB), as files hold."
        )
    picture.load()
    tags = getattr(picture, "tag_v2", {})
    inverted, bits = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO, tags.get(BITS, (16,))[0]
    unnamed = picture.mode == "RGBA" and bool(tags) and EXTRA_SAMPLES not in tags
    picture = _turned(picture)
    if unnamed:
        _say_unnamed()
        picture = picture.convert("RGB")
    if picture.mode.startswith("I") or picture.mode == "F":
        if picture.mode == "F" or bits > 16:
            raise Unreadable("pixels of 32 bits, whose range is not defined; save it with 8 or 16 bits")
        picture = _eight_bit(picture, 4 if bits == 12 else 8, inverted)
    mode = "L" if channels == 1 else "RGB"
    if picture.has_transparency_data:
        return _on_white(picture, mode)
    return picture if picture.mode == mode else picture.convert(mode)


def _on_white(picture: Image.Image, mode: str) -> Image.Image:
    """Laid on white some rows at a time, as three whole pictures of four bytes a pixel may be gigabytes."""
    whole, rows = Image.new(mode, picture.size), max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        part = picture.crop((0, top, picture.width, min(top + rows, picture.height))).convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert(mode), (0, top))
    return whole


def _turned(picture: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF says, which it then no longer says.

    ImageOps.exif_transpose writes all other EXIF anew, which fails where a value is of another kind than its tag's.
    """
    said = None
    with suppress(Exception):  # EXIF that cannot be read is no fault of the pixels
        said = picture.getexif().get(ORIENTATION)
    if said not in TURNS:
        return picture.copy()
    turned = picture.transpose(TURNS[said])
    for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        turned.info.pop(key, None)
    return turned


@cache  # once is enough
def _say_unnamed() -> None:
    logging.getLogger("alexnet").warning(
        "a TIFF has four bands and does not say what the fourth is: the first three are taken as red, green and blue"
    )


def _eight_bit(picture: Image.Image, low: int, inverted: bool) -> Image.Image:
    """Gray of more bits (I;16, or I as some plugins give it) without its `low` bits, as a 16-bit RGB file is read.

    Pillow turns a TIFF in which 0 is white into one in which it is black up to 8 bits, not at 16.
    """
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("pixel values outside 0 to 65535")
    high = (values >> low).astype(np.uint8)
    gray, clear = Image.fromarray(255 - high if inverted else high), picture.info.get("transparency")
    if not isinstance(clear, int):
        return gray
    return Image.merge("LA", (gray, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
