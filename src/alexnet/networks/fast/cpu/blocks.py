"""Chains of ReLU, normalisations and max pooling as one C++ pass (blocks.cpp): found, checked, differentiated.

What a chain may hold, in this order, each at most once: ReLU, LRN, within-map norm, max pooling, ReLU, LRN.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from alexnet.networks.fast.cpu.compiler import call, takes
from alexnet.networks.layers import LocalResponseNorm, WithinMapNorm, laid_out_as

WIDTH = 16  # channels that the widest registers hold: towers must be a multiple
LARGEST = 33  # maps of an LRN: blocks.cpp has 16 zeros (GAP) on either side of a pixel's maps for what a window sees
NORMS = (LocalResponseNorm, WithinMapNorm)
SLOTS = ("relu_before", "norm_before", "within", "pool", "relu_after", "norm_after")
KINDS: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.ReLU: ("relu_before", "relu_after"),
    LocalResponseNorm: ("norm_before", "norm_after"),
    WithinMapNorm: ("within",),
    nn.MaxPool2d: ("pool",),
}


@dataclass
class Chain:
    """Consecutive layers of a model, by slot."""

    names: list[str] = field(default_factory=list)
    slots: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.slots.values())

    def __call__(self, x: Tensor) -> Tensor | None:
        block = block_for(self, x) if x.device.type == "cpu" and takes(x) else None
        return None if block is None else BlockFunction.apply(x, block, self.layers)

    def slot(self, layer: nn.Module) -> str | None:
        """The slot that the layer would fill: one after those already filled, ReLU after pooling being the second."""
        filled = max((SLOTS.index(slot) for slot in self.slots), default=-1)
        for slot in KINDS.get(type(layer), ()):
            if SLOTS.index(slot) > filled and (slot not in ("relu_after", "norm_after") or "pool" in self.slots):
                return slot if able(layer) else None
        return None


def able(layer: nn.Module) -> bool:
    """Whether the passes take a layer with these numbers."""
    if isinstance(layer, LocalResponseNorm):
        return layer.beta == 0.75 and layer.k > 0 and layer.size <= LARGEST
    if isinstance(layer, WithinMapNorm):
        return layer.beta == 0.75 and layer.size % 2 == 1
    if isinstance(layer, nn.MaxPool2d):
        kernel, stride = layer.kernel_size, layer.stride
        square = isinstance(kernel, int) and isinstance(stride, int) and stride <= kernel < WIDTH
        return square and (layer.padding, layer.dilation, layer.return_indices) == (0, 1, False)
    return True


def passes(layers: Iterable[tuple[str, nn.Module]]) -> list[Chain]:
    """The chains among a model's layers that gain by it: of two layers and more, and a normalisation alone."""
    found = [Chain()]
    for name, layer in layers:
        slot = found[-1].slot(layer)
        if slot is None:
            found.append(Chain())
            slot = found[-1].slot(layer)
        if slot is not None:
            found[-1].names.append(name)
            found[-1].slots[slot] = layer
    return [one for one in found if len(one.names) > 1 or isinstance(next(iter(one.layers), None), NORMS)]


class _MapsNorm(ctypes.Structure):
    _fields_ = [("half", ctypes.c_int64), ("scale", ctypes.c_float), ("k", ctypes.c_float)]


class _Block(ctypes.Structure):
    """As in blocks.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("pictures", "height", "width", "channels", "towers", "relu_before")),
        ("norm_before", _MapsNorm),
        ("within_half", ctypes.c_int64),
        ("within_scale", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("kernel", "stride", "out_height", "out_width", "relu_after")),
        ("norm_after", _MapsNorm),
        *((name, ctypes.c_int64) for name in ("bfloat16", "threads")),
    ]


def block_for(chain: Chain, x: Tensor) -> _Block | None:
    """The pass over x as C++ reads it; None where it cannot be done."""
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.bfloat16):
        return None
    pictures, channels, height, width = x.shape
    norms = [layer for layer in chain.layers if isinstance(layer, LocalResponseNorm)]
    towers = {norm.towers for norm in norms} or {1}
    block = _Block(
        pictures=pictures, height=height, width=width, channels=channels, towers=min(towers),
        relu_before="relu_before" in chain.slots, norm_before=_norm(chain, "norm_before"), within_half=-1,
        relu_after="relu_after" in chain.slots, norm_after=_norm(chain, "norm_after"),
        bfloat16=x.dtype == torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    fit = len(towers) == 1 and not channels % (WIDTH * block.towers) and all(norm.fits(channels) for norm in norms)
    if not fit or not x.numel():
        return None
    within, pool = chain.slots.get("within"), chain.slots.get("pool")
    if isinstance(within, WithinMapNorm):
        block.within_half, block.within_scale = within.size // 2, within.alpha / within.size**2
    if isinstance(pool, nn.MaxPool2d):
        block.kernel, block.stride = cast(int, pool.kernel_size), cast(int, pool.stride)
        if min(height, width) < block.kernel:
            return None
        # As torch counts; no window starts outside, because its stride is at most its size.
        more = block.stride - 1 if pool.ceil_mode else 0
        block.out_height = 1 + (height - block.kernel + more) // block.stride
        block.out_width = 1 + (width - block.kernel + more) // block.stride
    return block


def _norm(chain: Chain, slot: str) -> _MapsNorm:
    norm = chain.slots.get(slot)
    if not isinstance(norm, LocalResponseNorm):
        return _MapsNorm(-1, 0.0, 1.0)
    return _MapsNorm(norm.size // 2, norm.alpha / norm.size, norm.k)


class BlockFunction(torch.autograd.Function):
    """A chain over x, float32 or bfloat16 (N, C, H, W), channels last inside; sums are float32 in both.

    Where its gradient is to be differentiated, or asked for by a transform, the layers' plain forms give it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, block: _Block, layers: list[nn.Module]) -> Tensor:
        height, width = (block.out_height, block.out_width) if block.kernel else x.shape[2:]
        shape = (*x.shape[:2], height, width)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        places = x.new_empty(0, dtype=torch.uint8)
        if ctx.needs_input_grad[0]:
            if block.kernel:
                places = x.new_empty(y.numel(), dtype=torch.uint8)
            ctx.save_for_backward(x, places)
            ctx.block, ctx.layers = block, layers
        call("block_forward", block, x.contiguous(memory_format=torch.channels_last), y, places)
        return laid_out_as(y, x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, places = ctx.saved_tensors
        if torch.is_grad_enabled() or not takes(gradient):
            return _plain_gradient(ctx.layers, x, gradient), None, None
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        last = x.contiguous(memory_format=torch.channels_last)
        to = torch.empty_like(last)
        call("block_backward", ctx.block, last, places, gradient, to)
        return laid_out_as(to, x), None, None


def _plain_gradient(layers: list[nn.Module], x: Tensor, gradient: Tensor) -> Tensor:
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if twice else x.detach().requires_grad_()
        y = x.clone()  # a layer may work in place
        for layer in layers:
            y = layer.forward(y)
    return torch.autograd.grad(y, x, gradient, create_graph=twice)[0]
