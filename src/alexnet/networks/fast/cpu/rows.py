"""Matrix products with a row a picture, sixteen rows at a time, so that each is rounded alike in any company.

How MKL adds up a row depends on how many there are and, of 8 and of 32 rows on CPUs with AVX2, on which of them it is.
Of 16 it is the same for all, with AVX-512, AVX2 and SSE4.2 (LOG.md, 27 November 2026).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.networks.layers import GroupedLinear, LocalConv2d, laid_out_as

SIXTEEN = 16
KINDS = (nn.Linear, GroupedLinear, LocalConv2d)

_asked: ContextVar[bool] = ContextVar("rows alike", default=False)  # each thread's own


@contextmanager
def alike() -> Iterator[None]:
    """Within it what a layer makes of a picture does not depend on the others, in this thread, on a CPU."""
    before = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(before)


@dataclass
class Sixteens:
    """A layer of such products, outside training, on sixteen rows at a time, the last picture again where they lack."""

    names: list[str]
    layers: list[nn.Module]

    def __call__(self, x: Tensor) -> Tensor | None:
        (layer,) = self.layers
        if layer.training or not len(x):
            return None
        last = x[-1:].expand(-len(x) % SIXTEEN, *x.shape[1:])
        parts = torch.cat([x, last]).split(SIXTEEN)
        return torch.cat([layer(laid_out_as(part, x)) for part in parts])[: len(x)]


def passes(layers: Sequence[tuple[str, nn.Module]]) -> list[Sixteens]:
    """Each layer of a model whose product has a row a picture, where rows are to be alike."""
    asked = _asked.get() and not torch.is_grad_enabled()
    return [Sixteens([name], [layer]) for name, layer in layers if type(layer) in KINDS] if asked else []
