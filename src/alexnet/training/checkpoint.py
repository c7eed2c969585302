"""The state of a run that can go on: plain data, which `torch.load(weights_only=True)` reads, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alexnet.base.errors import AlexNetError
from alexnet.base.files import write_whole
from alexnet.weights.base import first_line


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
