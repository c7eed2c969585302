"""Pictures of every kind come out upright and in the colours that a viewer shows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alexnet.data.pictures import Unreadable, decode, stored
from conftest import encoded


def corners() -> Image.Image:
    """32 x 24: red, green over blue, yellow; plain colours, so that JPEG keeps them."""
    picture = Image.new("RGB", (32, 24))
    for box, colour in {
        (0, 0, 16, 12): (220, 30, 30), (16, 0, 32, 12): (30, 200, 40),
        (0, 12, 16, 24): (30, 40, 210), (16, 12, 32, 24): (220, 210, 40),
    }.items():  # fmt: skip
        picture.paste(colour, box)
    return picture


def near(got: Image.Image, expected: Image.Image, tolerance: int = 12) -> None:
    assert got.size == expected.size
    assert got.mode == expected.mode
    for x in (4, 27):
        for y in (4, 19):
            difference = np.subtract(got.getpixel((x, y)), expected.getpixel((x, y)))
            assert np.abs(difference).max() <= tolerance, (x, y, got.getpixel((x, y)))


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "JPEG"),
        ("RGB", "PNG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
        ("RGB", "WEBP"),
    ],
)
def test_colour_modes_come_out_as_their_colours(mode, format):
    picture = corners().quantize(8) if mode == "P" else corners().convert(mode)
    options = {} if format in ("TIFF", "PNG", "GIF") else {"quality": 95}
    near(decode(encoded(picture, format, **options)), corners())


def test_gray_becomes_three_equal_channels_and_colour_becomes_gray_on_request():
    gray = corners().convert("L")
    near(decode(encoded(gray)), gray.convert("RGB"), 0)
    near(decode(encoded(corners()), channels=1), gray, 0)


def test_sixteen_bits_keep_their_high_byte():
    values = (np.arange(32 * 24).reshape(24, 32) * 85).astype(np.uint16)
    got = np.asarray(decode(encoded(Image.fromarray(values))))
    assert (got == (values // 256)[..., None]).all()


def test_transparency_is_laid_on_white():
    picture = corners().convert("RGBA")
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 16, 12))
    picture.putalpha(alpha)
    got = decode(encoded(picture))
    assert got.getpixel((4, 4)) == (255, 255, 255)
    assert got.getpixel((27, 4)) == (30, 200, 40)


def test_a_transparent_palette_is_laid_on_white():
    picture = Image.new("P", (32, 24), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (16, 0, 32, 24))
    got = decode(encoded(picture, "PNG", transparency=0))
    assert (got.getpixel((4, 4)), got.getpixel((27, 4))) == ((255, 255, 255), (200, 100, 50))


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_rotated_by_exif_comes_out_upright(orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    near(decode(encoded(corners().transpose(undo), "JPEG", exif=exif, quality=95)), corners())


def test_arrays_and_pil_images_are_taken_too():
    pixels = np.asarray(corners())
    near(decode(pixels), corners(), 0)
    near(decode(corners()), corners(), 0)


@pytest.mark.parametrize(
    ("contents", "fault"),
    [
        (b"", "empty, 0 bytes"),
        (b"hello, I am a text", "not a picture"),
        (encoded(corners(), "JPEG")[:300], "broken picture"),
    ],
)
def test_what_is_no_picture_says_so(tmp_path, contents, fault):
    file = tmp_path / "a.jpg"
    file.write_bytes(contents)
    for source in (file, contents):
        with pytest.raises(Unreadable, match=fault):
            decode(source)
    with pytest.raises(Unreadable, match="no such file"):
        decode(tmp_path / "b.jpg")


def test_every_cut_of_a_file_is_unreadable_or_a_picture_never_another_error():
    for format in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        whole = encoded(corners(), format)
        for cut in range(0, len(whole), max(1, len(whole) // 40)):
            try:
                decode(whole[:cut])
            except Unreadable:
                continue


def test_a_picture_too_large_for_memory_is_refused_before_it_is_decoded():
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(Unreadable, match="exceeds limit"):
        decode(bomb)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (32, 32), (20, 50), (31, 16)])
def test_stored_has_the_shorter_side_then_the_central_square(size):
    ramp = np.zeros((size[1], size[0], 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, size[0])
    ramp[..., 1] = np.linspace(0, 250, size[1])[:, None]
    got = stored(Image.fromarray(ramp), 32)
    assert got.shape == (3, 32, 32)
    # The central square is symmetric about the middle of the ramp, on both axes.
    assert abs(got[0].mean() - 125) < 4  # half a pixel is 3
    assert abs(got[1].mean() - 125) < 4  # half a pixel is 3
    shorter, longer = sorted(size)
    spread = got[0] if size[0] > size[1] else got[1]
    assert abs(np.ptp(spread.astype(int)) - 250 * shorter / longer) < 25


def test_a_picture_of_the_stored_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert (stored(Image.fromarray(pixels), 32) == pixels.transpose(2, 0, 1)).all()


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    got = stored(Image.fromarray(stripes), 32)
    assert abs(got[:, 4:-4, 4:-4].astype(int) - 128).max() <= 3
