"""The layers that torch.nn lacks or defines otherwise than the 2012 source: ceil convolution, norms, dropout, more.

Each gives back the type it was given, whatever autocast would make of the operators inside: the lists of a CPU and of
a GPU differ. Norms compute in float32 where they are given less, as a square of 300 is infinite in float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CeilConv2d(nn.Conv2d):
    """Convolution with 1 + ceil((in + 2·pad - kernel) / stride) outputs: zeros at right and bottom fill the last.

    float (N, C, H, W) -> (N, F, H', W'). 224 -> 55 with kernel 11 and stride 4: 3 columns and rows of zeros.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.padded(x))

    def padded(self, x: Tensor) -> Tensor:
        """x with the zeros that its last windows need."""
        right, bottom = (
            -(size + 2 * pad - kernel) % stride
            for size, pad, kernel, stride in zip(
                (x.shape[3], x.shape[2]),
                (int(self.padding[1]), int(self.padding[0])),
                (self.kernel_size[1], self.kernel_size[0]),
                (self.stride[1], self.stride[0]),
                strict=True,
            )
        )
        return F.pad(x, (0, right, 0, bottom)) if right or bottom else x


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, all else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@contextmanager
def as_written(x: Tensor) -> Iterator[None]:
    """Within it no autocast changes a type on the device of x."""
    if not torch.amp.is_autocast_available(x.device.type):
        yield
        return
    with torch.autocast(x.device.type, enabled=False):
        yield


class _LRN(torch.autograd.Function):
    """y = x · d^-β with d = k + s·(band ∗ x²), and its gradient with three tensors kept instead of eight."""

    @staticmethod
    def forward(ctx, x: Tensor, band: Tensor, groups: int, s: float, beta: float, k: float) -> Tensor:
        d = F.conv2d(x * x, band, groups=groups).mul_(s).add_(k)
        power = _minus_three_quarters(d) if beta == 0.75 else d.pow(-beta)
        ctx.save_for_backward(x, d, power, band)
        ctx.numbers = groups, s, beta
        return x * power

    @staticmethod
    def backward(ctx, g: Tensor):
        x, d, power, band = ctx.saved_tensors
        groups, s, beta = ctx.numbers
        # The band is symmetric, so the sum over the maps that see x is the same convolution.
        spread = F.conv2d(g * x * power / d, band, groups=groups)
        return g * power - (2 * s * beta) * x * spread, None, None, None, None, None


def _minus_three_quarters(d: Tensor) -> Tensor:
    root = torch.rsqrt(d)
    return root * torch.sqrt(root)  # two square roots cost a fifth of pow


class LocalResponseNorm(nn.Module):
    """Cross-map response normalisation, each of `towers` groups of maps by itself (spec 2.4; paper §3.3).

    float (N, C, H, W) -> same: x · (k + alpha/size · Σ x²)^-beta over `size` neighbouring maps, clipped at the
    first and last map of a tower, the divisor staying `size`. The sum over maps is a 1 × 1 convolution with a band
    of ones, which runs as a matrix product in every precision.
    """

    band: Tensor

    def __init__(self, channels: int, towers: int, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        per_tower = channels // towers
        index = torch.arange(per_tower)
        band = (index[:, None] - index[None, :]).abs() <= size // 2
        self.register_buffer("band", band.float().repeat(towers, 1)[:, :, None, None], persistent=False)
        self.towers, self.size, self.alpha, self.beta, self.k = towers, size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        with as_written(x):
            y = _LRN.apply(wide, self.band.to(wide.dtype), self.towers, self.alpha / self.size, self.beta, self.k)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"towers={self.towers}, size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class LocalConv2d(nn.Module):
    """A convolution with unshared weights: every position has its own filters and biases (spec §8, "local").

    float (N, C, H, W) -> (N, F, H', W'); weight (F, H', W', C, k, k), bias (F, H', W').
    """

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, pad: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.kernel, self.stride, self.pad, self.sides = kernel, stride, pad, sides
        self.weight = nn.Parameter(torch.empty(filters, *sides, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(filters, *sides))

    def forward(self, x: Tensor) -> Tensor:
        (height, width), stride, pad = self.sides, self.stride, self.pad
        padded = F.pad(x, (pad, pad, pad, pad)).permute(2, 3, 0, 1)  # (H, W, N, C): a position's pictures are a matrix
        taps = [
            padded[dy : dy + stride * height : stride, dx : dx + stride * width : stride]
            for dy in range(self.kernel)
            for dx in range(self.kernel)
        ]
        columns = torch.cat(taps, 3).flatten(0, 1)  # (H'·W', N, k·k·C)
        weight = self.weight.permute(1, 2, 4, 5, 3, 0).flatten(2, 4).flatten(0, 1)  # (H'·W', k·k·C, F)
        y = torch.bmm(columns, weight).unflatten(0, self.sides)
        return (y + self.bias.permute(1, 2, 0)[:, :, None].to(y.dtype)).permute(2, 3, 0, 1)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.stride}, pad={self.pad}"


class _AllTies(torch.autograd.Function):
    """Max pooling whose gradient goes in full to every input that equals its window's maximum (spec 2.3)."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: int, stride: int) -> Tensor:
        y = F.max_pool2d(x, kernel, stride, ceil_mode=True)
        ctx.save_for_backward(x, y)
        ctx.numbers = kernel, stride
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        x, y = ctx.saved_tensors
        kernel, stride = ctx.numbers
        (height, width), (rows, columns) = x.shape[2:], y.shape[2:]
        # Windows that overhang see only what is there; room for the rest keeps the slices simple.
        whole = F.pad(
            x, (0, (columns - 1) * stride + kernel - width, 0, (rows - 1) * stride + kernel - height), value=-torch.inf
        )
        gradient = torch.zeros_like(whole)
        for dy in range(kernel):
            for dx in range(kernel):
                at = (..., slice(dy, dy + rows * stride, stride), slice(dx, dx + columns * stride, stride))
                gradient[at] += g * (whole[at] == y)
        return gradient[..., :height, :width], None, None


class AllTiesMaxPool2d(nn.Module):
    """Max pooling by the 2012 code's rule for ties: float (N, C, H, W) -> (N, C, H', W'), windows clipped."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return _AllTies.apply(x, self.kernel, self.stride)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


class GroupedLinear(nn.Linear):
    """Fully connected towers: group g of the outputs sees only group g of the inputs, each contiguous.

    float (N, in) -> (N, out); weight (out, in / groups), as a grouped convolution's.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs // groups, outputs)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        towers = x.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (groups, N, in / groups)
        weight = self.weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        y = torch.bmm(towers, weight).transpose(0, 1).flatten(1)
        return y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class WithinMapNorm(nn.Module):
    """x · (1 + alpha/size² · Σ x²)^-beta over size × size positions of the same map (spec 2.5).

    float (N, C, H, W) -> same; windows are clipped at the border, the divisor stays size².
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        with as_written(x):
            mean_square = F.avg_pool2d(wide * wide, self.size, stride=1, padding=self.size // 2, count_include_pad=True)
            return (wide * (1 + self.alpha * mean_square).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}"


class Dropout(nn.Module):
    """Dropout as in 2012: × 0/1 in training, × (1 - rate) otherwise; `inverted` rescales in training instead.

    float (N, units) or (N, C, H, W) -> same. `mask` (N, units), 1 where a unit stays, makes the draw the caller's;
    without it torch's generator draws. Spec 2.7, 4.6.
    """

    def __init__(self, rate: float, inverted: bool) -> None:
        super().__init__()
        self.rate, self.inverted = rate, inverted

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        keep = 1 - self.rate
        if not self.training:
            return x if self.inverted else x * keep
        if mask is None:
            mask = torch.rand(x.shape, device=x.device) < keep
        x = x * mask.reshape(x.shape).to(x.dtype)
        return x / keep if self.inverted else x

    def extra_repr(self) -> str:
        return f"rate={self.rate}, inverted={self.inverted}"
