"""The one exception that users see: the command line prints its sentence and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlexNetError(Exception):
    """What was given, what was expected and what to do next, in one sentence."""


class Misused(AlexNetError, ValueError):
    """What a network cannot be called with; a ValueError too, so that programs may catch it as one."""


class Agreed(AlexNetError):
    """An error that all processes of a command raise together: the first says it."""


class Diverged(AlexNetError):
    """Training whose loss became infinite or not a number."""


class CannotWrite(AlexNetError):
    """A file that cannot be written, why, and what to do next."""

    def __init__(self, path: object, reason: str, then: str = "free space or give another place") -> None:
        super().__init__(f"cannot write {path} ({reason}); {then}.")
        self.path, self.reason = path, reason


class Lost(AlexNetError):
    """Another process that is gone or stuck: perhaps the first, which says all other errors."""


class Interrupted(Agreed):
    """A run stopped by a signal after it was saved; `status` is the exit status (130 or 143)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


# What cuDNN and cuBLAS say where they have no memory to work in, most often; a driver that does not fit, or a layer
# that they cannot compute, ends so too.
MOST_OFTEN = ("nable to find an engine", "CUBLAS_STATUS_NOT_INITIALIZED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is Python's, CUDA's or torch's error of memory; those of torch on a CPU, of CUDA where another
    program fills the GPU, of cuBLAS and of cuDNN have no type of their own."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    said = ("allocate memory", "out of memory", "ALLOC_FAILED", *MOST_OFTEN)
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in said))


def told_of_memory(error: BaseException) -> str:
    """What to say before a sentence about memory where torch's error does not name it; "" where it does."""
    if any(words in str(error) for words in MOST_OFTEN):
        return f"torch said '{first_line(error)}', for which too little memory is most often the cause: "
    return ""


def is_busy(error: BaseException) -> bool:
    """Whether the GPU belongs to another program alone, or cannot be used at all now."""
    return isinstance(error, RuntimeError) and "busy or unavailable" in str(error)


def lacks_kernels(error: BaseException) -> bool:
    """Whether torch was built without kernels for the GPU that it is used on: too old for it, or too new."""
    return isinstance(error, RuntimeError) and "no kernel image is available" in str(error)


def first_line(error: BaseException) -> str:
    """An error of a library in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_least(name: str, given: float, least: int) -> None:
    """Refuse a number that is too small, by the name under which it was given."""
    if not given >= least:
        raise AlexNetError(f"{name} was given {given}; it takes {least} or more.")


def nearest_names(name: str, known: Iterable[str], count: int = 1, alike: float = 0.0) -> list[str]:
    """The known names that are most like one that is not, the nearest first; case counts for nothing.

    `alike` is how much they have in common at least, 0 to 1.
    """
    folded = {one.casefold(): one for one in known}
    return [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, count, alike)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What ends the first half of an error about an unknown name: a question, or where no known name is like it, a
    full stop."""
    near = nearest_names(name, known, alike=0.5)
    return f"; did you mean '{near[0]}'?" if near else "."
