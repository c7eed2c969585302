"""Pictures of every kind come out upright and in the colours that a viewer shows."""

from __future__ import annotations

import io
import itertools
import logging
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from alexnet.data import pictures
from alexnet.data.layouts.folders import claims
from alexnet.data.pictures import SQUARES, Square, Unreadable, decode, fill_squares, stored
from conftest import encoded, needs
from tiff_file import exif, tiff


def corners() -> Image.Image:
    """32 x 24: red, green over blue, yellow; plain colours, so that JPEG keeps them."""
    picture = Image.new("RGB", (32, 24))
    for place, colour in enumerate([(220, 30, 30), (30, 200, 40), (30, 40, 210), (220, 210, 40)]):
        x, y = place % 2 * 16, place // 2 * 12
        picture.paste(colour, (x, y, x + 16, y + 12))
    return picture


def near(got: Image.Image, expected: Image.Image, tolerance: int = 12) -> None:
    assert got.size == expected.size
    assert got.mode == expected.mode
    for x in (4, 27):
        for y in (4, 19):
            difference = np.subtract(got.getpixel((x, y)), expected.getpixel((x, y)))
            assert np.abs(difference).max() <= tolerance, (x, y, got.getpixel((x, y)))


@pytest.mark.parametrize(("mode", "format"), [
    ("RGB", "JPEG"), ("RGB", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "PNG"),
    ("RGB", "WEBP"),
])  # fmt: skip
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


@pytest.mark.parametrize("strip", [1, 70, 1 << 22])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "RGB"])
def test_transparency_is_laid_on_white_in_strips_of_any_height(monkeypatch, mode, strip):
    monkeypatch.setattr(pictures, "STRIP", strip)
    picture = corners().convert(mode)
    if mode.endswith("A"):
        alpha = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))
        picture.putalpha(Image.fromarray(alpha))
    else:
        seen = picture.getpixel((0, 0))
        alpha = np.where((np.asarray(picture) == seen).reshape(24, 32, -1).all(2), 0, 255)
        picture.info["transparency"] = bool(seen) if mode == "1" else seen
    colours, share = np.asarray(picture.convert("RGBA"), float)[..., :3], alpha[..., None] / 255
    expected, real, laid = colours * share + 255 * (1 - share), Image.alpha_composite, list[int]()
    monkeypatch.setattr(
        Image, "alpha_composite", lambda one, two: laid.append(one.width * one.height) or real(one, two)
    )
    assert np.abs(np.asarray(decode(picture), float) - expected).max() <= 1
    assert np.abs(np.asarray(decode(picture, 1), float) - expected @ [0.299, 0.587, 0.114]).max() <= 1.5
    assert max(laid) <= max(strip, 32)


def test_a_transparent_palette_is_laid_on_white():
    picture = Image.new("P", (32, 24), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (16, 0, 32, 24))
    got = decode(encoded(picture, "PNG", transparency=0))
    assert (got.getpixel((4, 4)), got.getpixel((27, 4))) == ((255, 255, 255), (200, 100, 50))


ODD = {
    "nothing else": [],
    "a unit as text": [(296, 2, 2, b"2")],
    "a resolution as text": [(282, 2, 4, b"abc")],
    "a program's name as a number": [(305, 3, 1, b"\1")],
    "GPS as text": [(34853, 2, 4, b"abc")],
    "further EXIF beyond the end": [(34665, 4, 1, b"\xff\xff\xff\x7f")],
    "a type that there is not": [(296, 99, 1, b"2")],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_by_exif_comes_out_upright_whatever_else_is_in_it(orientation, odd):
    # EXIF says where the file's first row and first column are on the picture: top, left, bottom or right.
    row, column = ["tl", "tr", "br", "bl", "lt", "rt", "rb", "lb"][orientation - 1]
    pixels = np.asarray(corners())
    pixels = pixels.transpose(1, 0, 2) if row in "lr" else pixels
    pixels = pixels[:: -1 if row in "br" else 1, :: -1 if column in "br" else 1]
    contents = exif((274, 3, 1, struct.pack("<H", orientation)), *ODD[odd])
    for format in ("JPEG", "PNG", "WEBP"):
        got = decode(encoded(Image.fromarray(pixels), format, exif=contents, quality=95))
        near(got, corners(), 20)
        near(decode(got), corners(), 20)


@pytest.mark.parametrize("contents", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", exif((274, 2, 2, b"6"))])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as pictures.py has it
def test_exif_that_says_no_turn_leaves_the_picture_as_it_is(format, contents):
    near(decode(encoded(corners(), format, exif=contents, quality=95)), corners(), 20)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_a_gray_tiff_of_any_bits_has_its_brightness_whether_0_is_white_or_black(bits, photometric, big):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (3, 5, 1))
    file = tiff(values, bits, photometric, big=big)
    if (bits, photometric, big) in {(12, 0, False), (12, 0, True), (12, 1, True), (16, 0, True)}:
        with pytest.raises(Unreadable, match="that Pillow does not read; save it with 8 bits"):
            decode(file)
        return
    got = np.asarray(decode(file, channels=1))
    bright = values[..., 0] if photometric else (1 << bits) - 1 - values[..., 0]
    assert (got == (bright >> (bits - 8) if bits > 8 else bright * 255 // ((1 << bits) - 1))).all()


def test_a_tiff_of_32_bits_has_no_range_and_is_refused():
    for values in (np.full((3, 3), 200, np.int32), np.full((3, 3), 0.5, np.float32)):
        file = io.BytesIO()
        Image.fromarray(values).save(file, "TIFF")
        with pytest.raises(Unreadable, match="whose range is not defined; save it with 8 or 16 bits"):
            decode(file.getvalue())


@pytest.mark.parametrize(("extra", "alpha"), [(None, False), (0, False), (1, True), (2, True)])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_fourth_band_of_a_tiff_is_alpha_only_where_the_file_says_so(bits, extra, alpha, caplog):
    pictures._say_unnamed.cache_clear()
    colours = np.array([[[100, 50, 20, 128], [0, 0, 0, 0]]]) << (bits - 8)
    for _ in range(2):
        got = np.asarray(decode(tiff(colours, bits, 2, extra))).astype(int)
    assert (got[0] == colours[0, :, :3] >> (bits - 8)).all() != alpha
    if alpha:
        assert (got[0, 1] == 255).all()  # nothing of it covers the white
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == (extra is None)


KINDS = {
    "path": lambda file: file,
    "name": lambda file: str(file),
    "bytes": lambda file: file.read_bytes(),
    "bytearray": lambda file: bytearray(file.read_bytes()),
    "memoryview": lambda file: memoryview(file.read_bytes()),
    "in memory": lambda file: io.BytesIO(file.read_bytes()),
    "open file": lambda file: file.open("rb"),
    "mapping of bytes": lambda file: {"bytes": file.read_bytes(), "path": None},
    "mapping of path": lambda file: {"bytes": None, "path": str(file)},
    "PIL image": Image.open,
    "array": lambda file: np.asarray(Image.open(file).convert("RGB")),
    "floats": lambda file: np.asarray(Image.open(file).convert("RGB")) / 255,
    "tensor": lambda file: pil_to_tensor(Image.open(file).convert("RGB")),
    "float tensor": lambda file: transforms.ToTensor()(Image.open(file).convert("RGB")),
    "half tensor": lambda file: transforms.ToTensor()(Image.open(file).convert("RGB")).double(),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "CMYK JPEG", "gray PNG"])
def test_the_same_picture_gives_the_same_pixels_however_it_comes(tmp_path, format):
    noise = np.random.default_rng(3).integers(0, 256, (30, 41, 3), np.uint8)
    picture = Image.fromarray(noise).resize((410, 300))
    picture = picture.convert("CMYK" if "CMYK" in format else "L" if "gray" in format else "RGB")
    file = tmp_path / "a"
    picture.save(file, format.split()[-1])
    for how, channels in itertools.product(SQUARES, (1, 3)):
        square = Square(how, 30)
        whole = np.asarray(Image.open(file).convert("RGB" if channels == 3 else "L"))
        expected = stored(Image.fromarray(whole), 32, square)
        for kind, made in KINDS.items():
            if channels == 1 and "gray" not in format and kind in ("array", "floats", "tensor"):
                continue  # CMYK to gray is not CMYK to RGB to gray
            source = made(file)
            assert (stored(decode(source, channels), 32, square) == expected).all(), (how, kind)
            if hasattr(source, "close"):
                source.close()


def test_arrays_and_tensors_of_every_shape_are_pictures():
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    on_white = np.asarray(decode(Image.fromarray(colours)))
    gray = np.repeat(colours[..., :1], 3, 2)
    for array, expected in {
        "(H, W)": (colours[..., 0], gray),
        "(H, W, 1)": (colours[..., :1], gray),
        "(H, W, 3)": (colours[..., :3], colours[..., :3]),
        "(H, W, 4)": (colours, on_white),
        "mirrored": (colours[:, ::-1, :3], colours[:, ::-1, :3]),
        "16 bits": (colours[..., :3].astype(np.uint16) * 257, colours[..., :3]),
        "floats between": (np.full((5, 4, 3), 100.6 / 255), np.full((5, 4, 3), 101)),
        "16 bits of the other order": ((colours[..., 0].astype(np.uint16) * 257).astype(">u2"), gray),
    }.values():
        assert (np.asarray(decode(array)) == expected).all()
        if array.dtype == np.uint8 and array.strides[1] > 0:
            tensor = torch.from_numpy(array if array.ndim == 2 else array.transpose(2, 0, 1).copy())
            assert (np.asarray(decode(tensor)) == expected).all()


@pytest.mark.parametrize(("source", "fault"), [
    (np.zeros((3, 8, 8), np.uint8), r"array of shape \(3, 8, 8\); a picture has \(H, W\)"),
    (torch.zeros(8, 8, 3, dtype=torch.uint8), r"tensor of shape \(8, 8, 3\).* \(3, H, W\)"),
    (np.zeros((0, 8, 3), np.uint8), "shape"),
    (np.zeros((), np.uint8), "shape"),
    (np.full((8, 8, 3), 1.5), "from 0 .black. to 1"),
    (torch.full((3, 8, 8), -0.1), "from 0 .black. to 1"),
    (np.full((8, 8), np.nan), "from 0 .black. to 1"),
    (np.zeros((8, 8, 3), np.int64), "int64; give uint8"),
    (np.zeros((8, 8), bool), "bool; give uint8"),
    ({"pixels": 3}, "mapping with the keys pixels; a picture has 'bytes' or 'path'"),
    (io.StringIO("text"), "opened as text"),
    (io.BytesIO(b""), "empty, 0 bytes"),
    ({"bytes": b"", "path": None}, "empty, 0 bytes"),
    (5, "no picture but int"),
    (None, "no picture but NoneType"),
])  # fmt: skip
def test_what_cannot_be_a_picture_says_what_is_one(source, fault):
    with pytest.raises(Unreadable, match=fault):
        decode(source)


@pytest.mark.parametrize(("contents", "fault"), [
    (b"", "empty, 0 bytes"),
    (b"hello, I am a text", "not a picture"),
    (encoded(corners(), "JPEG")[:300], "broken picture"),
    (b"\n<!DOCTYPE html><html>no such page</html>", "a web page, perhaps one that says an error; fetch it again"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS to it; git lfs pull"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a drawing, SVG; save it as PNG"),
    (b"%PDF-1.4 ...", "a PDF; save its pages as pictures"),
    (b"\xff\x0a" + bytes(40), "JPEG XL, which Pillow does not read; save it as JPEG or PNG"),
])  # fmt: skip
def test_what_is_no_picture_says_so(tmp_path, contents, fault):
    file = tmp_path / "a.jpg"
    file.write_bytes(contents)
    for source in (file, contents):
        with pytest.raises(Unreadable, match=fault):
            decode(source)
    with pytest.raises(Unreadable, match="no such file"):
        decode(tmp_path / "b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(Unreadable, match="a device or a pipe, which is not read by its name; send the picture to -"):
        decode(tmp_path / "pipe.jpg")
    assert claims("pipe", tmp_path / "pipe.jpg")


def test_every_cut_of_a_file_is_unreadable_or_a_picture_never_another_error():
    for format in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        whole = encoded(corners(), format)
        for cut in range(0, len(whole), max(1, len(whole) // 40)):
            try:
                decode(whole[:cut])
            except Unreadable:
                continue


@pytest.mark.parametrize("orientation", [1, 6])
def test_photographs_of_iphones_are_read_where_their_extra_is(tmp_path, orientation):
    needs("pillow_heif")
    assert pictures.reads_heif()  # to write it
    exif = Image.Exif()
    exif[0x112] = orientation
    turned = corners() if orientation == 1 else corners().transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "IMG_1.HEIC").write_bytes(encoded(turned, "HEIF", quality=100, exif=exif.tobytes()))
    Image.ID.remove("HEIF")  # as before the first of them
    pictures.reads_heif.cache_clear()
    got = np.asarray(decode(tmp_path / "IMG_1.HEIC"), int)
    assert got.shape == np.asarray(corners()).shape
    assert np.abs(got - np.asarray(corners(), int)).mean() < 8


def test_a_photograph_of_an_iphone_without_the_extra_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pictures, "reads_heif", lambda: False)
    with pytest.raises(Unreadable, match=r"HEIC.*pip install '\.\[heif\]' to read it; or save it as JPEG"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))


def test_a_picture_too_large_for_memory_is_refused_before_it_is_decoded():
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    bomb = b"\x89PNG\r\n\x1a\n" + body
    with pytest.raises(Unreadable, match=r"larger than the [0-9,]+ pixels that are read; make it smaller"):
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


def test_squares_go_to_their_places_and_what_cannot_be_read_leaves_its_place_as_it_is():
    given = {7: Image.new("RGB", (3, 2), (10, 20, 30)), 2: Unreadable("no such file"), 5: b""}
    given[9] = encoded(Image.new("L", (2, 4), 40))
    out = np.full((6, 2, 2, 3), 255, np.uint8)
    failed = fill_squares(given.__getitem__, np.array([7, 2, 5, 9]), out, np.array([4, 0, 1, 3]), Square("crop"))
    assert failed == {2: "no such file", 5: "empty, 0 bytes"}
    wanted = {4: (10, 20, 30), 3: (40, 40, 40)}
    assert all((out[place] == wanted.get(place, (255,) * 3)).all() for place in range(6))


def test_a_picture_of_the_stored_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert (stored(Image.fromarray(pixels), 32) == pixels.transpose(2, 0, 1)).all()


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    got = stored(Image.fromarray(stripes), 32)
    assert abs(got[:, 4:-4, 4:-4].astype(int) - 128).max() <= 3


SIZES = [
    *((w, h) for w in (31, 32, 33, 64, 65) for h in (32, 45, 64, 97)), *((100 + 7 * n, 61 + 3 * n) for n in range(24)),
    (500, 375), (375, 500), (1, 1), (1, 60), (300, 5), (640, 33), (33, 640),
]  # fmt: skip


@pytest.mark.parametrize(("side", "inner"), [(32, 28), (32, 27), (33, 28), (33, 30), (32, 32), (37, 36)])
def test_torchvisions_square_is_torchvisions_to_the_pixel(side, inner):
    generator, low = np.random.default_rng(side), round((side - inner) / 2)
    judge = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(inner), transforms.PILToTensor()])
    for size in SIZES:
        picture = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8))
        got = stored(picture, side, Square("torchvision", inner))[:, low : low + inner, low : low + inner]
        assert (got == judge(picture).numpy()).all(), size


def test_squash_brings_both_sides_to_the_squares():
    for size in ((32, 32), (50, 20), (20, 50), (640, 33)):
        picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8))
        expected = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
        assert (Square("squash")(picture, 32) == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("how", SQUARES)
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 700), (5, 9000), (40, 9000), (40000, 3)])
def test_a_picture_of_any_aspect_becomes_what_the_whole_would_in_little_memory(size, how, mode, monkeypatch):
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    if how == "squash":
        whole = picture.resize((8, 8), Image.Resampling.BILINEAR)
    else:
        long = int(8 * max(size) / min(size)) if how == "torchvision" else max(8, round(max(size) * (8 / min(size))))
        start = round((long - 8) / 2) if how == "torchvision" else (long - 8) // 2
        wide = size[0] > size[1]
        whole = picture.resize((long, 8) if wide else (8, long), Image.Resampling.BILINEAR)
        whole = whole.crop((start, 0, start + 8, 8) if wide else (0, start, 8, start + 8))
    made = []
    resize = Image.Image.resize

    def counted(self, size, resample=None, box=None, reducing_gap=None):
        rows = self.height if box is None else box[3] - box[1]
        made.append(max(size[0] * rows, size[0] * size[1]))  # Pillow resizes rows first
        return resize(self, size, resample, box, reducing_gap)

    monkeypatch.setattr(Image.Image, "resize", counted)
    got = Square(how)(picture, 8).squeeze()
    assert np.abs(got.astype(int) - np.asarray(whole)).max() <= 1
    assert max(made) <= max(64 * 8 * 8, size[0] * size[1])
