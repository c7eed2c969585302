"""Python 2's pickle, protocol 2, written opcode by opcode: byte strings, old-style classes, arrays of numpy 1."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(eq=False)
class Class:
    """A reference to a class or function by name: GLOBAL."""

    module: str
    name: str


@dataclass(eq=False)
class Instance:
    """An instance of an old-style class: OBJ, then its dictionary by BUILD."""

    of: Class
    state: dict[str, Any]


@dataclass(eq=False)
class Call:
    """What a pickle that runs code does: REDUCE of any function with any arguments."""

    function: Class
    arguments: tuple


RECONSTRUCT = Class("numpy.core.multiarray", "_reconstruct")
NDARRAY = Class("numpy", "ndarray")
DTYPE = Class("numpy", "dtype")


class Pickler:
    """Protocol 2 as Python 2's cPickle writes it: `Pickler().encode(value)`; str and bytes are both byte strings."""

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.memo: dict[Any, int] = {}
        self.kept: list[Any] = []  # nothing may be freed while its id is in the memo

    def encode(self, value: Any) -> bytes:
        self.out.write(b"\x80\x02")
        self.put(value)
        self.out.write(b".")
        return self.out.getvalue()

    def put(self, value: Any) -> None:
        write = self.out.write
        if value is None or isinstance(value, bool):
            write({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            write(self._integer(value))
        elif isinstance(value, float):
            write(b"G" + struct.pack(">d", value))
        elif isinstance(value, tuple):
            self._tuple(value)
        elif isinstance(value, bytes):
            write(b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value)))
            write(value)
        elif not self._again(value):
            self._new(value)

    def _new(self, value: Any) -> None:
        """What the memo remembers, at its first sight."""
        write = self.out.write
        if isinstance(value, str):
            self.put(value.encode("latin-1"))
            self._remember(value)
        elif isinstance(value, list):
            write(b"]")
            self._remember(value)
            write(b"(")
            for item in value:
                self.put(item)
            write(b"e")
        elif isinstance(value, dict):
            write(b"}")
            self._remember(value)
            write(b"(")
            for key, item in value.items():
                self.put(key)
                self.put(item)
            write(b"u")
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, Class):
            write(b"c" + value.module.encode() + b"\n" + value.name.encode() + b"\n")
            self._remember(value)
        elif isinstance(value, Instance):
            write(b"(")
            self.put(value.of)
            write(b"o")
            self._remember(value)
            self.put(value.state)
            write(b"b")
        elif isinstance(value, Call):
            self.put(value.function)
            self.put(value.arguments)
            write(b"R")
        else:
            raise TypeError(f"no way to pickle {type(value)}")

    def _integer(self, value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if 0 <= value < 65536:
            return b"M" + struct.pack("<H", value)
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        return b"I" + str(value).encode() + b"\n"  # Python 2's int of 64 bits, as text even in protocol 2

    def _tuple(self, value: tuple) -> None:
        if len(value) > 3:
            self.out.write(b"(")
        for item in value:
            self.put(item)
        self.out.write({0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value), b"t"))

    def _array(self, array: np.ndarray) -> None:
        """numpy 1.x: an empty array, then version, shape, dtype, whether in Fortran order and the bytes."""
        self.put(Call(RECONSTRUCT, (NDARRAY, (0,), "b")))
        self._remember(array)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self.out.write(b"(")
        self.put(1)
        self.put(array.shape)
        self._dtype(array.dtype)
        self.put(fortran)
        self.put(array.tobytes("F" if fortran else "C"))
        self.out.write(b"tb")

    def _dtype(self, dtype: np.dtype) -> None:
        if not self._again(dtype):
            self.put(Call(DTYPE, (dtype.str[1:], 0, 1)))
            self._remember(dtype)
            self.put((3, dtype.str[0], None, None, None, -1, -1, 0))
            self.out.write(b"b")

    def _key(self, value: Any) -> Any:
        return value if isinstance(value, str) else id(value)

    def _remember(self, value: Any) -> None:
        number = self.memo[self._key(value)] = len(self.memo) + 1
        self.kept.append(value)
        self.out.write(b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<i", number))

    def _again(self, value: Any) -> bool:
        number = self.memo.get(self._key(value))
        if number is None:
            return False
        self.out.write(b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<i", number))
        return True
