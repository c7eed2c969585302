"""A convolution with a stride over few channels, as conv1 is, in the form that bfloat16 units multiply faster: blocks
of stride x stride pixels become pixels with stride² times the channels (in C++), and the convolution one of stride 1.

In float32 it gains a tenth at most, so there the plain form stays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.networks.fast.cpu.compiler import call, takes
from alexnet.networks.layers import LastWindow, is_channels_last, laid_out_as

FEW = 4  # channels


@dataclass
class Blockwise:
    """One such convolution, with the layer before it that fills its last window, if there is one."""

    names: list[str]
    layers: list[nn.Module]

    def __call__(self, x: Tensor) -> Tensor | None:
        autocast = torch.is_autocast_enabled("cpu")
        precision = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if precision != torch.bfloat16 or x.dtype not in (torch.float32, torch.bfloat16) or x.dim() != 4:
            return None
        if (
            x.requires_grad or x.device.type != "cpu" or not takes(x)
        ):  # the rearrangement has no gradient: a picture seldom needs one
            return None
        layer = cast(nn.Conv2d, self.layers[-1])
        kernel, stride, pad = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        spans = [size + 2 * pad - kernel for size in x.shape[2:]]
        outputs = [1 + (-(-span // stride) if len(self.layers) > 1 else span // stride) for span in spans]
        taps = -(-kernel // stride)  # blocks that a window covers
        blocks = _space_to_depth(x, pad, stride, [n + taps - 1 for n in outputs])
        room = taps * stride - kernel
        weight = F.pad(layer.weight, (0, room, 0, room)).unflatten(3, (taps, stride)).unflatten(2, (taps, stride))
        # (F, C, taps, dy, taps, dx) -> (F, dy · dx · C, taps, taps), the order of the blocks' channels
        weight = weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3).contiguous(memory_format=torch.channels_last)
        bias = None if layer.bias is None else layer.bias.to(torch.bfloat16)
        y = F.conv2d(blocks, weight.to(torch.bfloat16), bias)
        return y if is_channels_last(layer.weight) else laid_out_as(y, x)


class _Blocks(ctypes.Structure):
    """As in pictures.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("count", "channels", "height", "width", "pad", "stride"),
            *("out_height", "out_width", "bfloat16", "threads"),
        )
    ]


def _space_to_depth(x: Tensor, pad: int, stride: int, size: list[int]) -> Tensor:
    """float32 or bfloat16 (N, C, H, W) -> bfloat16 (N, stride² · C, *size), zeros around the picture."""
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape
    shape = (count, stride * stride * channels, *size)
    out = torch.empty(shape, dtype=torch.bfloat16, device=x.device, memory_format=torch.channels_last)
    narrow, threads = x.dtype == torch.bfloat16, torch.get_num_threads()
    what = _Blocks(count, channels, height, width, pad, stride, *size, narrow, threads)
    call("space_to_depth", what, x, out)
    return out


def passes(layers: Sequence[tuple[str, nn.Module]]) -> list[Blockwise]:
    """The convolutions of a model for which this form is the faster one."""
    found = []
    for at, (_, layer) in enumerate(layers):
        if type(layer) is nn.Conv2d and suits(layer):
            run = with_edge(layers, at)
            found.append(Blockwise([name for name, _ in run], [one for _, one in run]))
    return found


def with_edge(layers: Sequence[tuple[str, nn.Module]], at: int) -> list[tuple[str, nn.Module]]:
    """The convolution at that place, after the layer that fills its last window, if there is one."""
    name, layer = layers[at]
    before = layers[max(0, at - 1) : at]
    edge = [(n, one) for n, one in before if type(one) is LastWindow and one.fits(cast(nn.Conv2d, layer))]
    return [*edge, (name, layer)]


def suits(layer: nn.Conv2d) -> bool:
    """Whether a convolution may be one over blocks of pixels, and gains by it: square, strided, over few channels."""
    square = isinstance(layer.padding, tuple) and all(
        len(set(pair)) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding)
    )
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return square and plain and layer.stride[0] > 1 and layer.in_channels <= FEW
