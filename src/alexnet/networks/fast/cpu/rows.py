"""Layers with a row a picture whose products are rounded alike in any company: compiled, or sixteen rows at a time.

How MKL adds up a row depends on how many there are, on which of them it is, and on the processor (LOG.md, 27 November
2026). The compiled form (products.cpp) adds up every row in one order, and for few of them it is faster; without it
sixteen rows are the best there is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.networks.fast.cpu.compiler import call, library, readable
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
class RowsAlike:
    """A layer of such products, outside training."""

    names: list[str]
    layers: list[nn.Module]

    def __call__(self, x: Tensor) -> Tensor | None:
        (layer,) = self.layers
        if layer.training or not len(x):
            return None
        return _compiled(layer, x) if _suits(layer, x) else _by_sixteens(layer, x)


def _by_sixteens(layer: nn.Module, x: Tensor) -> Tensor:
    """The last picture again where some lack."""
    last = x[-1:].expand(-len(x) % SIXTEEN, *x.shape[1:])
    parts = torch.cat([x, last]).split(SIXTEEN)
    return torch.cat([layer(laid_out_as(part, x)) for part in parts])[: len(x)]


class _Products(ctypes.Structure):
    """As in products.cpp."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("pictures", "groups", "inputs", "outputs", "far", "apart", "threads")
    ]


def _suits(layer: nn.Module, x: Tensor) -> bool:
    """Whether the compiled product may be given these: it takes all sizes from the input and looks at no others."""
    fully = cast(nn.Linear, layer)
    given = [one for one in (x, fully.weight, fully.bias) if one is not None]
    plain = all(readable(one) and one.dtype == torch.float32 for one in given)
    return plain and _fits(layer, x) and not torch.is_autocast_enabled("cpu") and library()[0] is not None


def _fits(layer: nn.Module, x: Tensor) -> bool:
    """Whether input, weights and biases are of sizes that belong together; where they are not, the layer says so."""
    if isinstance(layer, LocalConv2d):
        sizes = tuple(layer.weight.shape[1:]) == (*layer.sides, *x.shape[1:2], layer.kernel, layer.kernel)
        return x.dim() == 4 and layer.windows(x) == layer.sides and sizes and layer.bias.shape == layer.weight.shape[:3]
    weight, bias = cast(nn.Linear, layer).weight, cast(nn.Linear, layer).bias
    groups = _groups(layer)
    sizes = weight.dim() == 2 and x.shape[1:] == (groups * weight.shape[1],) and len(weight) % groups == 0
    return sizes and (bias is None or bias.shape == weight.shape[:1])


def _groups(layer: nn.Module) -> int:
    return layer.groups if isinstance(layer, GroupedLinear) else 1


def _compiled(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, LocalConv2d):  # each position is a group, which sees its own window
        windows = F.unfold(x, layer.kernel, padding=layer.pad, stride=layer.stride).permute(2, 0, 1)
        weight, bias = layer.weight.permute(1, 2, 0, 3, 4, 5), layer.bias.permute(1, 2, 0)
        y = _product(windows, weight.reshape(bias.numel(), -1), bias)
        return laid_out_as(y.view(len(x), *layer.sides, -1).permute(0, 3, 1, 2), x)
    fully = cast(nn.Linear, layer)
    return _product(x.contiguous().unflatten(1, (_groups(layer), -1)).transpose(0, 1), fully.weight, fully.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(groups, N, inputs) and (groups · outputs, inputs) -> (N, groups · outputs)."""
    x = x if x.stride(2) == 1 else x.contiguous()
    groups, pictures, inputs = x.shape
    y = x.new_empty(pictures, len(weight))
    what = _Products(pictures, groups, inputs, len(weight) // groups, x.stride(1), x.stride(0), torch.get_num_threads())
    added = x.new_empty(0) if bias is None else bias.contiguous()
    call("products", what, x, weight.contiguous(), added, y)
    return y


def passes(layers: Sequence[tuple[str, nn.Module]]) -> list[RowsAlike]:
    """Each layer of a model whose product has a row a picture, where rows are to be alike."""
    asked = _asked.get() and not torch.is_grad_enabled()
    return [RowsAlike([name], [layer]) for name, layer in layers if type(layer) in KINDS] if asked else []
