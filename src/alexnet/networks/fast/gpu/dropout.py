"""ReLU and dropout by a given mask, as fc6 and fc7 have them, in one pass each way instead of three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from alexnet.networks.fast.cpu.compiler import takes
from alexnet.networks.fast.gpu import Kernel
from alexnet.networks.layers import Dropout

SIZE = 1024  # numbers of a program


@dataclass
class Dropped:
    """A ReLU, the dropout after it, and the mask that the caller has drawn for it: 0 and 1, a number a unit."""

    names: list[str]
    layers: list[nn.Module]
    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor | None:
        layer, mask = cast(Dropout, self.layers[1]), self.mask
        there = mask.device == x.device and mask.numel() == x.numel() and mask.is_contiguous() and takes(mask)
        if not (layer.training and there and x.numel() and x.is_contiguous() and takes(x)):
            return None
        return DropoutFunction.apply(x, mask, 1 - layer.p, layer.inverted)


def passes(layers: Sequence[tuple[str, nn.Module]], masks: Mapping[str, Tensor]) -> list[Dropped]:
    """Each ReLU of a model that a dropout with a mask follows."""
    return [
        Dropped([before, name], [relu, layer], masks[name])
        for (before, relu), (name, layer) in pairwise(layers)
        if type(relu) is nn.ReLU and type(layer) is Dropout and name in masks
    ]


class DropoutFunction(torch.autograd.Function):
    """max(x, 0) · mask, and ÷ keep where that is done in training; x float32 or bfloat16 of any shape."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, keep: float, inverted: bool) -> Tensor:
        y, size = torch.empty_like(x), x.numel()
        Kernel("relu_dropout")[(-(-size // SIZE),)](x, mask, y, size, keep, SIZE=SIZE, INVERTED=inverted)
        ctx.keep, ctx.inverted = keep, inverted
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(g):  # second derivatives, or a batch of gradients
            return torch.where(y > 0, g / ctx.keep if ctx.inverted else g, 0.0), None, None, None
        dx, g, size = torch.empty_like(y), g.contiguous(), y.numel()
        Kernel("relu_dropout_gradient")[(-(-size // SIZE),)](y, g, dx, size, ctx.keep, SIZE=SIZE, INVERTED=ctx.inverted)
        return dx, None, None, None
