"""Faults of DATA's structure: an error for those who want to use it, an entry of the list for `alexnet check`."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable

from alexnet.base.errors import AlexNetError


class Fault(AlexNetError):
    """What is wrong with a file or folder of DATA, whose layout can be told, and what to do about it."""

    def __init__(self, file: object, what: str, remedy: str, joint: str = " ") -> None:
        super().__init__(f"{file}{joint}{what}; {remedy}.")
        self.file, self.what, self.remedy = str(file), what, remedy

    @classmethod
    def of(cls, file: object, error: AlexNetError) -> Fault:
        """Another error as a fault of that file."""
        if isinstance(error, Fault):
            return error
        what, _, remedy = str(error).removeprefix(str(file)).removesuffix(".").rpartition("; ")
        return cls(file, what.strip(), remedy)


class Note(Fault):
    """What is odd about DATA and no reason to stop: it is said in a line."""


Tell = Callable[[Fault], object]  # where it returns, the reader goes on without what is at fault


def refuse(fault: Fault) -> None:
    """Raise it: what everything but `alexnet check` does with a fault."""
    if not isinstance(fault, Note):
        raise fault


POINTER = b"version https://git-lfs.github.com"  # so begins a file that only says where Git keeps the contents
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def is_pointer(file: str | os.PathLike[str]) -> bool:
    """Whether a file only says where Git's storage of large files has the contents."""
    try:
        with open(file, "rb") as contents:
            return contents.read(len(POINTER)) == POINTER
    except OSError:
        return False


def encoding(head: bytes) -> str:
    """Of a text that begins so: what the mark says that Windows' programs put first, UTF-16 without one, or UTF-8."""
    plain = len(head) >= 8 and all(head[:8:2]) and not any(head[1:8:2])  # each letter and a zero
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-16-le" if plain else "utf-8")


def decoded(contents: bytes) -> str:
    """A text file as text, lines ended by \\n; a ValueError where it is none."""
    return contents.decode(encoding(contents)).replace("\r\n", "\n")
