"""MATLAB's files of version 5, which `save` writes as -v6 and -v7: numbers, text, cells and structures, read in place.

Every length is checked against what is there before memory is taken, and objects and functions are passed over as what
they are. (SciPy's reader takes 2 GB for a file of 184 bytes that says so.)
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base import restricted_pickle
from alexnet.weights.base import MOST_PACKED

HEADER = 128  # bytes of words, version and order of bytes
MATRIX, COMPRESSED = 14, 15  # of the kinds of elements
STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXTS = {1: "latin-1", 2: "utf-8", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
CELL, STRUCTURE, TEXT = 1, 2, 4  # of the classes of arrays
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
OPAQUE = 17  # what MATLAB keeps of its newer objects, without sides
OTHERS = {3: "an object", 5: "a sparse array", 16: "a function", OPAQUE: "an object"}
MOST_ARRAYS, DEEPEST, MOST_SIDES = 1 << 18, 16, 32


@dataclass(frozen=True)
class Other:
    """What is neither numbers, text, a cell nor a structure, of which nothing was read."""

    kind: str


@dataclass(frozen=True)
class Numbers:
    """An array as the file has it; `array` copies only where the file has it in a smaller type than MATLAB."""

    shape: tuple[int, ...]
    type: str
    stored: np.ndarray

    def array(self) -> np.ndarray:
        return self.stored.astype(self.type, copy=False).reshape(self.shape, order="F")


def variables(file: Path) -> dict[str, Any]:
    """What the file holds by name: `Numbers`, text, lists for cells, lists of dictionaries for structures, `Other`.

    Raises ValueError, which names the byte, and zlib.error.
    """
    whole = np.memmap(file, np.uint8, "r").data
    if bytes(whole[124:HEADER]) != b"\x00\x01IM":
        raise ValueError("its header is not that of a file of version 5, least byte first")
    arrays, at = _Arrays(), HEADER
    room = min(restricted_pickle.LIMIT, MOST_PACKED * len(whole) + (1 << 26))
    found: dict[str, Any] = {}
    while at < len(whole):
        kind, data, at = element(whole, at, padded=False)
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj()
            data = memoryview(unpacked.decompress(data, room + 1))
            room -= len(data)
            if room < 0:
                raise ValueError(f"it unpacks to more than {len(data):,} bytes, more than its weights can have")
            if not unpacked.eof:
                raise ValueError("it ends within a compressed array")
            kind, data, _ = element(data, 0)
        if kind != MATRIX:
            raise ValueError(f"an element of kind {kind} stands where an array should, before byte {at:,}")
        name, value = arrays.read(data)
        found[name] = value
    return found


def element(data: memoryview, at: int, padded: bool = True) -> tuple[int, memoryview, int]:
    """(kind, contents, where the next one begins) of the element at a place. Raises ValueError."""
    if at + 8 > len(data):
        raise ValueError(f"it ends within the tag of an element at byte {at:,}")
    kind, size = (int(x) for x in np.frombuffer(data[at : at + 8], "<u4"))
    if kind >> 16:  # up to four bytes, which stand in the tag
        kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    else:
        start, end = at + 8, at + 8 + size + (-size % 8 if padded else 0)
    if start + size > len(data) or (end == at + 8 and size > 4):
        raise ValueError(f"at byte {at:,} {size:,} bytes are announced, {len(data) - start:,} are left")
    return kind, data[start : start + size], end


class _Arrays:
    """Reads arrays within arrays, and counts them."""

    def __init__(self) -> None:
        self.left = MOST_ARRAYS

    def read(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """The name and the value of an array. Raises ValueError."""
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise ValueError(f"it holds more than {MOST_ARRAYS:,} arrays, or arrays {DEEPEST} deep in each other")
        if not data:
            return "", Numbers((0, 0), "f8", np.empty(0))
        _, flags, at = element(data, 0)
        kind, complex = (flags[0], flags[1] & 8) if len(flags) == 8 else (0, 0)
        sides = memoryview(b"")
        if kind != OPAQUE:
            _, sides, at = element(data, at)
        _, name, at = element(data, at)
        words = bytes(name).decode("latin-1")
        if kind in OTHERS or complex:
            return words, Other(OTHERS.get(kind, "an array of complex numbers"))
        shape = tuple(int(x) for x in np.frombuffer(sides, "<i4"))
        if not 2 <= len(shape) <= MOST_SIDES or min(shape) < 0:
            raise ValueError(f"the array {words!r:.40} has the sides {shape!s:.60}")
        if kind in (CELL, STRUCTURE):
            return words, self._within(data[at:], kind, math.prod(shape), depth)
        stored, contents, _ = element(data, at)
        if kind == TEXT and stored in TEXTS:
            return words, bytes(contents).decode(TEXTS[stored], "replace")
        if kind not in NUMBERS or stored not in STORED:
            raise ValueError(f"the array {words!r:.40} is of class {kind} and kind {stored}, which are unknown")
        values = np.frombuffer(contents, STORED[stored])
        if len(values) != math.prod(shape):
            raise ValueError(f"the array {words!r:.40} has {len(values):,} numbers for the sides {shape!s:.60}")
        return words, Numbers(shape, NUMBERS[kind], values)

    def _within(self, data: memoryview, kind: int, count: int, depth: int) -> list[Any]:
        """The values in a cell; the dictionaries of a structure."""
        fields, at = [""], 0
        if kind == STRUCTURE:
            _, length, at = element(data, at)
            _, names, at = element(data, at)
            width = int(np.frombuffer(length, "<i4")[0])
            if width < 1:
                raise ValueError(f"names of fields are {width} bytes long")
            places = range(0, len(names), width)
            fields = [bytes(names[n : n + width]).split(b"\0")[0].decode("latin-1") for n in places]
            if not fields:
                return [{}] * min(count, 1)
        values = []
        for _ in range(count * len(fields)):
            what, inner, at = element(data, at)
            if what != MATRIX:
                raise ValueError(f"an element of kind {what} stands where an array should")
            values.append(self.read(inner, depth + 1)[1])
        if kind == CELL:
            return values
        starts = range(0, len(values), len(fields))
        return [dict(zip(fields, values[n : n + len(fields)], strict=True)) for n in starts]
