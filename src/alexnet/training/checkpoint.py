"""The state of a run that can go on: plain data, which `torch.load(weights_only=True)` reads, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils._pytree import tree_map

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.files import write_whole


class Saver:
    """Writes in a thread of its own, one save after another, so that training goes on meanwhile.

    What went wrong in it is raised by the next call, or where it is waited for.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._last: Future[None] | None = None

    def __call__(self, write: Callable[[], None]) -> None:
        """Begin a save, when the one before is done."""
        self.wait()
        self._last = self._pool.submit(write)

    def wait(self) -> None:
        """Return when the last save is whole."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # else that error is the first, and is told
                raise
        finally:
            self._pool.shutdown()


def copied(values: Any) -> Any:
    """A copy of the values, their tensors in the CPU's memory, so that training may go on changing the originals."""
    return tree_map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, torch.Tensor) else x, values)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values so that `read_state` gives them back."""
    write_whole(path, lambda file: torch.save(state, file))


def read_state(path: Path) -> dict[str, Any]:
    """The state that `write_state` saved; no code in the file is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["step"]
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise AlexNetError(
            f"{path} is not a whole state of a run ({first_line(error)}), so it cannot go on; train anew elsewhere."
        ) from None
    return state
