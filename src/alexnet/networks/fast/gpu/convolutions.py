"""A GPU's convolutions, which stay torch's: conv1 sees blocks of pixels as pixels with more channels, and in bfloat16
groups take the form that is fastest on the card (grouped.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.networks.fast.cpu.conv1 import suits
from alexnet.networks.fast.gpu import Kernel, grouped
from alexnet.networks.fast.gpu.plan import power_of_two
from alexnet.networks.layers import LastWindow


def convolve(layer: nn.Conv2d, x: Tensor, precision: torch.dtype, filled: bool) -> Tensor:
    """The convolution without its bias, its last windows filled up or not, in the form that is fastest on a GPU."""
    weight, groups = layer.weight.to(precision), layer.groups
    if suits(layer) and not x.requires_grad:
        return _by_blocks(layer, weight, x, filled)
    if filled:
        x = LastWindow(layer.kernel_size[0], layer.stride[0], int(layer.padding[0]))(x)
    chosen = groups > 1 and precision == torch.bfloat16
    convolution = grouped.form(x.device) if chosen else grouped.as_torch_has_it
    return convolution(x.to(precision), weight, (layer.stride, layer.padding), groups)


def _by_blocks(layer: nn.Conv2d, weight: Tensor, x: Tensor, filled: bool) -> Tensor:
    """The convolution of stride s as one of stride 1 over blocks of s x s pixels, whose pixels are channels."""
    kernel, stride, pad = weight.shape[2], layer.stride[0], int(layer.padding[0])
    taps = -(-kernel // stride)
    spans = [size + 2 * pad - kernel for size in x.shape[2:]]
    outputs = [1 + (-(-span // stride) if filled else span // stride) for span in spans]
    blocks = blocks_of_pixels(x, stride, pad, [n + taps - 1 for n in outputs], weight.dtype)
    room = taps * stride - kernel
    weight = F.pad(weight, (0, room, 0, room)).unflatten(3, (taps, stride)).unflatten(2, (taps, stride))
    # (F, C, taps, dy, taps, dx) -> (F, dy · dx · C, taps, taps), the order of the blocks' channels
    weight = weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3).contiguous(memory_format=torch.channels_last)
    return F.conv2d(blocks, weight)


def blocks_of_pixels(x: Tensor, stride: int, pad: int, size: list[int], dtype: torch.dtype) -> Tensor:
    """float (N, C, H, W) -> (N, stride² · C, *size) channels last, zeros around the picture."""
    (count, channels, height, width), depth = x.shape, stride * stride * x.shape[1]
    out = torch.empty((count, depth, *size), dtype=dtype, device=x.device, memory_format=torch.channels_last)
    rows, window = count * size[0] * size[1], power_of_two(depth)
    each = max(1, 4096 // window)
    Kernel("blocks_of_pixels")[(-(-rows // each),)](
        x, out, rows, height, width, *size, pad, *x.stride(), C=channels, STRIDE=stride, DEPTH=depth, WIN=window,
        ROWS=each,
    )  # fmt: skip
    return out
