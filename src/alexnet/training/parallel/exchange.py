"""Pieces of activations that processes send each other within a step, and their gradients back, counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alexnet.base.distributed import World


class Exchange:
    """Every process' pieces for every other, as one flat tensor in order of rank; both sides know the lengths.

    `bytes` is what this process has sent, forward and backward, its pieces for itself left out.
    """

    def __init__(self, world: World) -> None:
        self.world, self.bytes = world, 0

    def __call__(self, pieces: Tensor, to: Sequence[int], of: Sequence[int]) -> Tensor:
        """What the others have for this process: `to` and `of` are numbers sent to and received from each."""
        return _Exchanged.apply(pieces, self, list(to), list(of))

    def send(self, pieces: Tensor, to: list[int], of: list[int]) -> Tensor:
        self.bytes += (sum(to) - to[self.world.rank]) * pieces.element_size()
        return self.world.exchange(pieces, to, of)


class _Exchanged(torch.autograd.Function):
    """Gradients go back the way that their pieces came."""

    @staticmethod
    def forward(ctx, pieces: Tensor, exchange: Exchange, to: list[int], of: list[int]) -> Tensor:
        ctx.way = exchange, of, to
        return exchange.send(pieces, to, of)

    @staticmethod
    def backward(ctx, gradients: Tensor):
        exchange, to, of = ctx.way
        return exchange.send(gradients.contiguous(), to, of), None, None, None
