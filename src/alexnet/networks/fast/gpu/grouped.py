"""A GPU's grouped convolutions: the same sums in three forms, and which is fastest on a card.

None is fastest everywhere: one product over all channels multiplies zeros, but tensor cores take it whole; towers apart
multiply no zeros, but are copied out and in; torch's own form does neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.base.device import device_name, on

Numbers = tuple[Any, Any]  # stride and padding, as nn.Conv2d has them
Form = Callable[[Tensor, Tensor, Numbers, int], Tensor]


def one_product(x: Tensor, weight: Tensor, numbers: Numbers, groups: int) -> Tensor:
    """One convolution over all channels, with zeros where towers do not see each other."""
    width = weight.shape[1]
    towers = [
        F.pad(one, (0, 0, 0, 0, i * width, (groups - 1 - i) * width)) for i, one in enumerate(weight.chunk(groups))
    ]
    return F.conv2d(x, torch.cat(towers).contiguous(memory_format=torch.channels_last), None, *numbers)


def towers_apart(x: Tensor, weight: Tensor, numbers: Numbers, groups: int) -> Tensor:
    """A convolution for each tower."""
    towers = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
    return torch.cat([F.conv2d(part, one, None, *numbers) for part, one in towers], 1)


def as_torch_has_it(x: Tensor, weight: Tensor, numbers: Numbers, groups: int) -> Tensor:
    """torch's own grouped convolution."""
    return F.conv2d(x, weight, None, *numbers, 1, groups)


FORMS: dict[str, Form] = {
    "as one product": one_product,
    "tower by tower": towers_apart,
    "as torch has them": as_torch_has_it,
}
FASTEST = {"NVIDIA H200": "as one product"}  # by card, of bfloat16: LOG.md, 27 November 2026
REPEATS = 10
_tried: dict[str, str] = {}  # as FASTEST, by this process


@cache
def card_of(device: torch.device) -> str:
    """The name of the card with that number, asked once: each convolution of each step wants it."""
    return device_name(device)


def form(device: torch.device) -> Form:
    """The fastest form that is known for a card; where results must repeat, one that no clock has chosen."""
    card = card_of(device)
    known = {} if torch.are_deterministic_algorithms_enabled() else _tried
    return FORMS[known.get(card) or FASTEST.get(card) or next(iter(FORMS))]


def try_out(layers: Sequence[tuple[nn.Conv2d, Sequence[int]]], batch_size: int, device: torch.device) -> str:
    """Take the time of each form, forward and backward, over convolutions and their inputs' shapes (C, H, W).

    For a card whose form is not known yet; what came of it, in words.
    """
    card, layers = device_name(device), [one for one in layers if one[0].groups > 1]
    if not layers or card in FASTEST or card in _tried or torch.are_deterministic_algorithms_enabled():
        return ""
    taken = {name: sum(_milliseconds(each, *one, batch_size, device) for one in layers) for name, each in FORMS.items()}
    _tried[card] = min(taken, key=lambda name: taken[name])
    told = ", ".join(f"{name} {number:.2f} ms" for name, number in taken.items())
    return f"grouped convolutions: {_tried[card]}, by trial on this GPU ({told})"


def _milliseconds(form: Form, layer: nn.Conv2d, shape: Sequence[int], batch_size: int, device: torch.device) -> float:
    """Of a convolution forward and backward, in bfloat16."""
    dice = torch.Generator(device).manual_seed(0)  # torch's own are the user's
    x = torch.randn(batch_size, *shape, generator=dice, device=device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = layer.weight.detach().to(torch.bfloat16).requires_grad_()

    def once() -> None:
        y = form(x, weight, (layer.stride, layer.padding), layer.groups)
        torch.autograd.grad(y, (x, weight), y.detach())

    return measured(once, device)


def measured(work: Callable[[], None], device: torch.device) -> float:
    """Milliseconds that a GPU takes for some work, on average of REPEATS after a few that count for nothing."""
    with on(device):
        for _ in range(3):
            work()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(REPEATS):
            work()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / REPEATS
