"""The layers that torch.nn lacks or defines otherwise than the 2012 source: ceil convolution, norms, dropout, more.

Each gives back the type it was given, whatever autocast would make of the operators inside: the lists of a CPU and of
a GPU differ. Norms compute in float32 where they are given less, as a square of 300 is infinite in float16.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from alexnet.base.errors import Misused


class Layer(nn.Module):
    """A layer that torch.fx sees as one node, as it does torch.nn's: it may depend on types and on the mode."""

    def __call__(self, x, *more, **named):
        if isinstance(x, Proxy):
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x, *more), named)  # type: ignore[attr-defined]
        return super().__call__(x, *more, **named)


class LastWindow(nn.Module):
    """Zeros at right and bottom that fill a convolution's last window, so that there are
    1 + ceil((in + 2·pad - kernel) / stride) of them.

    float (N, C, H, W) -> (N, C, H', W'). 224 with kernel 11 and stride 4: 3 columns and rows, for 55 windows.
    """

    def __init__(self, kernel: int, stride: int, pad: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.pad = kernel, stride, pad

    def forward(self, x: Tensor) -> Tensor:
        beyond = 2 * self.pad - self.kernel
        return F.pad(x, (0, -(x.shape[3] + beyond) % self.stride, 0, -(x.shape[2] + beyond) % self.stride))

    def fits(self, layer: nn.Conv2d) -> bool:
        """Whether these are the windows of that convolution."""
        numbers = ((self.kernel, self.kernel), (self.stride, self.stride), (self.pad, self.pad))
        return (layer.kernel_size, layer.stride, layer.padding) == numbers

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, pad={self.pad}"


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, all else as it is."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


# Asked once: torch.compile of torch 2.11 cannot ask it.
AUTOCASTS = frozenset(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))


def as_written(x: Tensor):
    """A context within which no autocast changes a type on the device of x."""
    kind = x.device.type
    casts = kind in AUTOCASTS and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if casts else nullcontext()


def is_channels_last(x: Tensor) -> bool:
    """Whether x is that and not contiguous, too, as a single pixel or channel is."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def laid_out_as(y: Tensor, x: Tensor) -> Tensor:
    """y in the memory layout of x: channels last or contiguous."""
    if torch.jit.is_scripting():
        pass
    elif torch._C._are_functorch_transforms_active():
        return y.contiguous()  # vmap cannot tell the other layout
    return y.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else y.contiguous()


def in_plain_operators() -> bool:
    """Whether somebody writes down what is computed, to be kept or compiled: own functions would stand in the way."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _lrn(x: Tensor, band: Tensor, groups: int, s: float, beta: float, k: float) -> Tensor:
    """x · d^-β with d = k + s·(band ∗ x²)."""
    return x * _power(_denominator(x, band, groups, s, k), beta)


def _denominator(x: Tensor, band: Tensor, groups: int, s: float, k: float) -> Tensor:
    return F.conv2d(x * x, band, groups=groups).mul_(s).add_(k)


def _power(d: Tensor, beta: float) -> Tensor:
    if beta != 0.75:
        return d.pow(-beta)
    root = torch.rsqrt(d)
    return root * torch.sqrt(root)  # two square roots cost a fifth of pow


class _LRN(torch.autograd.Function):
    """`_lrn` that keeps its input alone for the gradient, where its operators would keep seven tensors more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, band: Tensor, groups: int, s: float, beta: float, k: float) -> Tensor:
        return _lrn(x, band, groups, s, beta, k)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, band, *ctx.numbers = inputs
        ctx.save_for_backward(x, band)
        ctx.save_for_forward(x, band)

    @staticmethod
    def backward(ctx, g: Tensor):
        x, band = ctx.saved_tensors
        groups, s, beta, k = ctx.numbers
        with as_written(x):
            d = _denominator(x, band, groups, s, k)
            straight = g * _power(d, beta)
            # The band is symmetric, so the sum over the maps that see x is the same convolution.
            spread = F.conv2d(straight * x / d, band, groups=groups)
            return straight - (2 * s * beta) * x * spread, None, None, None, None, None

    @staticmethod
    def jvp(ctx, t: Tensor, *others):
        x, band = ctx.saved_tensors
        groups, s, beta, k = ctx.numbers
        with as_written(x):
            d = _denominator(x, band, groups, s, k)
            return _power(d, beta) * (t - (2 * s * beta) * x * F.conv2d(x * t, band, groups=groups) / d)


class LocalResponseNorm(Layer):
    """Cross-map response normalisation, each of `towers` groups of maps by itself (docs/facts.md 2.4; paper §3.3).

    float (N, C, H, W) -> same: x · (k + alpha/size · Σ x²)^-beta over `size` neighbouring maps, clipped at the
    first and last map of a tower, the divisor staying `size`. The sum over maps is a 1 × 1 convolution with a band
    of ones, which runs as a matrix product in every precision.
    """

    def __init__(self, channels: int, towers: int, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise Misused(f"LocalResponseNorm was given a size of {size} maps; give an odd one: as many on each side.")
        self.towers, self._size, self.alpha, self.beta, self.k = towers, size, alpha, beta, k
        self.band = nn.Buffer(self._band(channels).to(torch.get_default_device()), persistent=False)

    @property
    def size(self) -> int:
        """How many maps are summed over; the band is made for it, so another size is another layer."""
        return self._size

    def fits(self, channels: int) -> bool:
        """Whether the band is that of so many maps, in towers as many as the layer has now."""
        return self.band.shape == (channels, channels // self.towers, 1, 1)

    def _band(self, channels: int) -> Tensor:
        # On the CPU whatever the default is: for arithmetic on the meta device torch imports 900 modules.
        index = torch.arange(channels // self.towers, device="cpu")
        near = (index[:, None] - index[None, :]).abs() <= self.size // 2
        return near.float().repeat(self.towers, 1)[:, :, None, None]

    def reset_parameters(self) -> None:
        """Make the band anew where it is: memory that `to_empty` gave holds anything."""
        self.renew(self.band)

    def renew(self, near: Tensor) -> None:
        """Make the band anew, on the device and of the type of weights `near` by."""
        kind = near.dtype if near.is_floating_point() else torch.float32
        made = self._band(len(self.band)).to(near.device, kind)
        if (self.band.device, self.band.dtype) == (made.device, made.dtype):
            self.band.copy_(made)  # what was captured with it stays right
        else:
            self.band = nn.Buffer(made, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        band, s = self.band.to(wide.dtype), self.alpha / self.size
        if torch.jit.is_scripting():
            return _lrn(wide, band, self.towers, s, self.beta, self.k).to(x.dtype)
        else:
            compute = _lrn if in_plain_operators() else _LRN.apply
            with as_written(x):
                return compute(wide, band, self.towers, s, self.beta, self.k).to(x.dtype)

    def extra_repr(self) -> str:
        return f"towers={self.towers}, size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def renew_bands(net: nn.Module, *given: object) -> None:
    """Make anew what a net's state_dict leaves out: it may be on the meta device, on another than the weights that were
    assigned, or memory that `to_empty` left as it was."""
    near: Tensor | None = None
    with torch.no_grad():
        for layer in net.modules():
            near = next(layer.parameters(recurse=False), near)
            if isinstance(layer, LocalResponseNorm) and near is not None:
                layer.renew(near)


class LocalConv2d(Layer):
    """A convolution with unshared weights: every position has its own filters and biases (docs/facts.md 8, "local").

    float (N, C, H, W) -> (N, F, H', W'); weight (F, H', W', C, k, k), bias (F, H', W').
    """

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, pad: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.kernel, self.stride, self.pad, self.sides = kernel, stride, pad, sides
        self.weight = nn.Parameter(torch.empty(filters, *sides, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(filters, *sides))

    def windows(self, x: Tensor) -> tuple[int, int]:
        """How many windows maps like x have, in height and width."""
        beyond = 2 * self.pad - self.kernel
        return 1 + (x.shape[2] + beyond) // self.stride, 1 + (x.shape[3] + beyond) // self.stride

    def _check(self, x: Tensor) -> None:
        if in_plain_operators() or (there := self.windows(x)) == self.sides:
            return
        raise Misused(
            f"a locally connected layer with weights for {self.sides[0]} x {self.sides[1]} windows was given maps of "
            f"{x.shape[2]} x {x.shape[3]}, which have {there[0]} x {there[1]}; give maps of the size it was made for."
        )

    def forward(self, x: Tensor) -> Tensor:
        (height, width), stride, pad = self.sides, self.stride, self.pad
        if not torch.jit.is_scripting():
            self._check(x)
        padded = F.pad(x, (pad, pad, pad, pad)).permute(2, 3, 0, 1)  # (H, W, N, C): a position's pictures are a matrix
        taps = []
        for dy in range(self.kernel):
            for dx in range(self.kernel):
                taps.append(padded[dy : dy + stride * height : stride, dx : dx + stride * width : stride])
        columns = torch.cat(taps, 3).flatten(0, 1)  # (H'·W', N, k·k·C)
        weight = self.weight.permute(1, 2, 4, 5, 3, 0).flatten(2, 4).flatten(0, 1)  # (H'·W', k·k·C, F)
        y = torch.bmm(columns, weight).unflatten(0, (height, width))
        y = y + self.bias.permute(1, 2, 0).unsqueeze(2).to(y.dtype)
        return laid_out_as(y.permute(2, 3, 0, 1), x)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.stride}, pad={self.pad}"


class _AllTies(torch.autograd.Function):
    """Max pooling whose gradient goes in full to every input that equals its window's maximum (docs/facts.md 2.3)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kernel: int, stride: int, ceil: bool) -> Tensor:
        return F.max_pool2d(x, kernel, stride, ceil_mode=ceil)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, *ctx.numbers, _ = inputs
        ctx.save_for_backward(x, output)
        ctx.save_for_forward(x, output)

    @staticmethod
    def backward(ctx, g: Tensor):
        x, y = ctx.saved_tensors
        whole = _with_room(-torch.inf, x, y, *ctx.numbers)
        gradient = torch.zeros_like(whole) + g.new_zeros(1)  # where either is a batch of vmap's, so is the sum
        for at in _taps(y, *ctx.numbers):
            gradient[at] += g * (whole[at] == y)
        if gradient.shape[2:] != x.shape[2:]:  # a slice of all is an alias, which a batch of gradients cannot take
            gradient = gradient[..., : x.shape[2], : x.shape[3]]
        return gradient, None, None, None


class _AllTiesForward(_AllTies):
    """With derivatives in forward mode, which torch.compile does not take."""

    @staticmethod
    def jvp(ctx, t: Tensor, *numbers):
        x, y = ctx.saved_tensors
        whole, tangents = _with_room(-torch.inf, x, y, *ctx.numbers), _with_room(0.0, t, y, *ctx.numbers)
        return sum(tangents[at] * (whole[at] == y) for at in _taps(y, *ctx.numbers))


def _with_room(value: float, x: Tensor, y: Tensor, kernel: int, stride: int) -> Tensor:
    """Windows that overhang see only what is there; room for the rest keeps the slices simple."""
    ends = [(out - 1) * stride + kernel for out in y.shape[2:]]
    rows, columns = (max(0, end - size) for end, size in zip(ends, x.shape[2:], strict=True))
    return F.pad(x, (0, columns, 0, rows), value=value)


def _taps(y: Tensor, kernel: int, stride: int) -> list[tuple]:
    """The places of all windows' first, second, … input."""
    rows, columns = y.shape[2] * stride, y.shape[3] * stride
    return [
        (..., slice(dy, dy + rows, stride), slice(dx, dx + columns, stride))
        for dy in range(kernel)
        for dx in range(kernel)
    ]


class AllTiesMaxPool2d(Layer):
    """Max pooling by the 2012 code's rule for ties: float (N, C, H, W) -> (N, C, H', W'), windows clipped, or without
    `ceil` those left out that overhang.

    A traced or scripted form is torch's pooling, whose gradient goes to the first.
    """

    def __init__(self, kernel: int, stride: int, ceil: bool = True) -> None:
        super().__init__()
        self.kernel, self.stride, self.ceil = kernel, stride, ceil

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.max_pool2d(x, self.kernel, self.stride, ceil_mode=self.ceil)
        else:
            if torch.jit.is_tracing():
                return F.max_pool2d(x, self.kernel, self.stride, ceil_mode=self.ceil)
            form = _AllTies if torch.compiler.is_compiling() else _AllTiesForward
            return form.apply(x, self.kernel, self.stride, self.ceil)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, ceil={self.ceil}"


class GroupedLinear(Layer, nn.Linear):
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


class WithinMapNorm(Layer):
    """x · (1 + alpha/size² · Σ x²)^-beta over size × size positions of the same map (docs/facts.md 2.5).

    float (N, C, H, W) -> same; windows are clipped at the border, the divisor stays size².
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._normalised(x)
        else:
            with as_written(x):
                return self._normalised(x)

    def _normalised(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        mean_square = F.avg_pool2d(wide * wide, self.size, stride=1, padding=self.size // 2, count_include_pad=True)
        return (wide * (1 + self.alpha * mean_square).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}"


class Dropout(Layer, nn.Dropout):
    """Dropout as in 2012: × 0/1 in training, × (1 - p) otherwise; `inverted` rescales in training instead.

    float (N, units) or (N, C, H, W) -> same. `mask` (N, units), 1 where a unit stays, makes the draw the caller's;
    without it torch's generator draws. docs/facts.md 2.7, 4.6.
    """

    def __init__(self, p: float, inverted: bool) -> None:
        super().__init__(p)
        self.inverted = inverted

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        keep = 1 - self.p
        if self.training and mask is not None:
            x = x * mask.reshape(x.shape).to(x.dtype)
            return x / keep if self.inverted else x
        x = F.dropout(x, self.p, self.training)
        return x if self.inverted else x * keep

    def extra_repr(self) -> str:
        return f"p={self.p}, inverted={self.inverted}"
