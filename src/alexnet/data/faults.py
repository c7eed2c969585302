"""Faults of DATA's structure: an error for those who want to use it, an entry of the list for `alexnet check`."""

from __future__ import annotations

from collections.abc import Callable

from alexnet.errors import AlexNetError


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


Tell = Callable[[Fault], object]  # where it returns, the reader goes on without what is at fault


def refuse(fault: Fault) -> None:
    """Raise it: what everything but `alexnet check` does with a fault."""
    raise fault
