"""Files of weights, each format in a file of its own; which it is, is found by looking at the first bytes."""

from __future__ import annotations

from pathlib import Path

from alexnet.errors import AlexNetError
from alexnet.weights.base import Weights


def read(file: Path) -> Weights:
    """The weights in a file of any known format; a file that is none of them is an error that says what is wrong."""
    from alexnet.weights import native, torchvision

    try:
        with open(file, "rb") as opened:
            head = opened.read(16)
    except OSError as error:
        raise AlexNetError(f"MODEL {file} cannot be read ({error.strerror}); give a file that you may read.") from None
    for reader in (torchvision, native):
        if reader.recognises(head):
            return reader.read(file)
    raise AlexNetError(
        f"MODEL {file} is not a whole file of AlexNet weights (its first bytes are those of no known format); give a "
        "run folder, a .safetensors file of alexnet train or a .pth file of torchvision's alexnet."
    )
