"""Protocol buffers' wire format, as far as Caffe's and ONNX' files of weights need it: read in place, and written.

Each field is a number and a value; what it means is for the caller, who has the format's description. Every length
is checked against what is there before it is used, so a file that lies is an error that names the byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTH = {FIXED64: 8, FIXED32: 4}


MOST_FIELDS = 1 << 20  # of a message, and numbers of a list that are read one by one


class WireError(ValueError):
    """What is wrong with the bytes, and where."""


@dataclass(frozen=True)
class Message:
    """Some bytes of a file as a message, and where in the file they begin."""

    data: memoryview
    start: int = 0

    def fields(self) -> Iterator[tuple[int, int, int | Message]]:
        """(field number, wire type, value): a whole number for varints, a Message for everything else."""
        at, end, count = 0, len(self.data), 0
        while at < end:
            count += 1
            if count > MOST_FIELDS:
                raise WireError(f"the message at byte {self.start} has more than {MOST_FIELDS:,} fields")
            key, at = self._varint(at)
            number, wire = key >> 3, key & 7
            if wire == VARINT:
                value, at = self._varint(at)
                yield number, wire, value
                continue
            if wire == BYTES:
                length, at = self._varint(at)
            elif wire in _WIDTH:
                length = _WIDTH[wire]
            else:
                raise WireError(f"byte {self.start + at} begins no field of a protocol buffer")
            if not number or length > end - at:
                raise WireError(f"at byte {self.start + at} {length:,} bytes are announced, {end - at:,} are left")
            yield number, wire, Message(self.data[at : at + length], self.start + at)
            at += length

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(self.data):
                raise WireError(f"the file ends within a number at byte {self.start + at}")
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise WireError(f"byte {self.start + at} continues a number beyond 64 bits")

    def messages(self, number: int) -> list[Message]:
        """The values of a field of messages, strings or bytes."""
        return [value for n, _, value in self.fields() if n == number and isinstance(value, Message)]

    def texts(self, number: int) -> list[str]:
        """The values of a field of strings."""
        return [bytes(value.data).decode("utf-8", "replace") for value in self.messages(number)]

    def text(self, number: int) -> str:
        """The last value of a field of strings; empty where it is absent."""
        return ["", *self.texts(number)][-1]

    def integers(self, number: int) -> list[int]:
        """The values of a field of whole numbers, packed or not; numbers from 2^63 on are negative."""
        values: list[int] = []
        for n, _, value in self.fields():
            if n != number:
                continue
            if isinstance(value, int):
                values.append(value)
            else:
                at = 0
                while at < len(value.data):
                    one, at = value._varint(at)
                    values.append(one)
                    if len(values) > MOST_FIELDS:
                        raise WireError(f"the list at byte {value.start} has more than {MOST_FIELDS:,} numbers")
        return [value - (1 << 64) if value >= 1 << 63 else value for value in values]

    def integer(self, number: int, default: int) -> int:
        """The last value of a field of whole numbers."""
        return [default, *self.integers(number)][-1]

    def floats(self, number: int) -> np.ndarray:
        """The values of a field of 32-bit floats, packed or not: float32 (n,), without a copy where they are packed."""
        parts = [value.data for n, _, value in self.fields() if n == number and isinstance(value, Message)]
        if any(len(part) % 4 for part in parts):
            raise WireError(f"a list of floats at byte {self.start} is no whole number of floats")
        arrays = [np.frombuffer(part, "<f4") for part in parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, "<f4"), *arrays])

    def float(self, number: int, default: float) -> float:
        """The last value of a field of 32-bit floats."""
        values = self.floats(number)
        return float(values[-1]) if len(values) else default


def whole(file: Path) -> Message:
    """A file as a message, mapped into memory: only what is looked at is read."""
    return Message(np.memmap(file, np.uint8, "r").data)


def varint(value: int) -> bytes:
    """A whole number, negative ones as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """A field with a whole number."""
    return varint(number << 3 | VARINT) + varint(value)


def single(number: int, value: float) -> bytes:
    """A field with a 32-bit float."""
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)


def block(number: int, value: bytes | str | memoryview) -> bytes:
    """A field with bytes, a string or a message."""
    data = value.encode() if isinstance(value, str) else value
    return b"".join((varint(number << 3 | BYTES), varint(len(data)), data))


def integers(number: int, values) -> bytes:
    """A packed field of whole numbers."""
    return block(number, b"".join(varint(int(value)) for value in values))
