"""TIFF files of any bits, bands and photometric, written by the format's own description (TIFF 6.0)."""

from __future__ import annotations

import struct

import numpy as np

SHORT, LONG = 3, 4


def tiff(values: np.ndarray, bits: int, photometric: int, extra: int | None = None, big: bool = False) -> bytes:
    """An uncompressed file of whole numbers (H, W, bands); `extra` is the tag ExtraSamples, None for none."""
    order, (height, width, bands) = ">" if big else "<", values.shape
    data = _packed(values, bits) if bits < 8 or bits == 12 else values.astype(f"{order}u{bits // 8}").tobytes()
    tags: list[tuple[int, int, list[int]]] = [
        (256, SHORT, [width]), (257, SHORT, [height]), (258, SHORT, [bits] * bands), (259, SHORT, [1]),
        (262, SHORT, [photometric]), (273, LONG, [0]), (277, SHORT, [bands]), (278, SHORT, [height]),
        (279, LONG, [len(data)]), *([(338, SHORT, [extra])] if extra is not None else []),
    ]  # fmt: skip
    beside = 8 + 2 + 12 * len(tags) + 4  # where values stand that are longer than an entry
    start = beside + (2 * bands if bands > 2 else 0)
    entries, long = b"", b""
    for tag, kind, numbers in tags:
        numbers = [start] if tag == 273 else numbers
        raw = struct.pack(f"{order}{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if len(raw) > 4:
            raw, long = struct.pack(f"{order}I", beside + len(long)), long + raw
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    head = (b"MM" if big else b"II") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + long + data


def _packed(values: np.ndarray, bits: int) -> bytes:
    """Each row from the highest bit on, filled up to whole bytes."""
    rows = []
    for row in values[..., 0].tolist():
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF as a picture has it: tags with their type, count and value of at most 4 bytes, in order."""
    rows = b"".join(struct.pack("<HHI4s", *one) for one in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4)
