"""What a training step needs of a device's memory, about, and what to do where it is not there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data.loader import HELD
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import LayerFacts, layer_facts

GIB = 1 << 30


def needed(model: AlexNet, batch_size: int, precision: torch.dtype, captured: bool = False, picture: int = 0) -> float:
    """Bytes of a step of this model, about, with the batches on a GPU at once where a `picture` is sent as so many."""
    rows = layer_facts(model.variant, model.classes, model.channels, model.input)
    weights = sum(one.numel() for one in model.parameters())
    return step_bytes(rows, weights, batch_size, precision, captured) + HELD * batch_size * picture


def step_bytes(
    rows: Sequence[LayerFacts], weights: int, batch_size: int, precision: torch.dtype, captured: bool
) -> float:
    """Bytes of a step, about: weights and momenta in float32, and what it makes: gradients in float32, weights and
    every layer's output in `precision`.

    What is kept for the backward pass is between half of the outputs (fast forms) and 1.4 times them (plain norms).
    A step `captured` as a CUDA graph keeps all that it makes, beside what an epoch's last batch makes, which is no
    part of the graph and may have a picture less.
    """
    each = torch.finfo(precision).bits // 8
    outputs = sum(math.prod(row.output) for row in rows)
    made = (4 + (each if each < 4 else 0)) * weights + each * batch_size * outputs
    return 2 * 4 * weights + (2 if captured else 1) * made


def too_little(
    model: AlexNet, batch_size: int, precision: torch.dtype, device: torch.device, captured: bool = False,
    picture: int = 0, readers: int = 1, there: int = 0,
) -> AlexNetError:  # fmt: skip
    """The error of a step for which there was no memory: what it needs, and the batch size that should fit.

    A batch is divided among so many `readers`, of which this process is one; beside it pictures of so many bytes lie
    `there`.
    """

    def bytes_of(batch_size: int) -> float:
        here = -(-batch_size // readers)
        return needed(model, here, precision, captured, picture if device.type == "cuda" else 0)

    smaller = max(1, batch_size // 2)
    of = ""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        of = f" of {total / GIB:.1f} GiB"
        while smaller > 1 and bytes_of(smaller) > 0.7 * total - there:
            smaller //= 2
    share = f" among {readers} processes" if readers > 1 else ""
    what = (
        f"{device.type}'s memory{of} ran out in a step of {model.variant.name} with batches of "
        f"{counted(batch_size, 'picture')}{share}, which takes about {bytes_of(batch_size) / GIB:.1f} GiB beside "
        f"{f'the {there / GIB:.1f} GiB of pictures that lie there and ' if there else ''}what other programs hold"
    )
    if batch_size == 1:
        return AlexNetError(f"{what}; end what else uses that memory, or choose a smaller network or input.")
    return AlexNetError(
        f"{what}; use --set batch_size={smaller} (about {bytes_of(smaller) / GIB:.1f} GiB), which "
        "trains another way: give it a learning_rate of its own."
    )
