"""A GPU's passes: each convolution without its bias, then everything up to the next one in as few passes as it takes.

Convolutions stay torch's. conv1 sees blocks of pixels as pixels with more channels, and in bfloat16 groups become one
product with zeros between the towers, which tensor cores finish sooner than two. The rest is gpu_kernels.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.base.errors import AlexNetError
from alexnet.networks.fast.blocks import Chain
from alexnet.networks.fast.compiler import takes
from alexnet.networks.fast.conv1 import with_edge
from alexnet.networks.layers import LastWindow, LocalResponseNorm, WithinMapNorm, is_channels_last

OLDEST = (8, 0)  # compute capability: bfloat16 in tensor cores
PROGRAMS = 1024  # that add up a bias' gradient, each its own part: the sum is the same on every card
FEWEST = 16  # pictures to classify for which kernels are built, which takes seconds once a machine
FEW = 4  # input channels of a convolution that gains by blocks of pixels


@cache
def kernels() -> tuple[ModuleType | None, str]:
    """The kernels, or why there are none, in words."""
    try:
        from alexnet.networks.fast import gpu_kernels
    except ImportError:
        return None, "plain: Triton is not installed, which comes with torch on Linux; pip install triton"
    return gpu_kernels, "fast, by Triton's passes"


ON_CPU = False  # tests set it, where Triton's interpreter computes in NumPy, as TRITON_INTERPRET=1 asks


@cache
def usable(device: torch.device) -> tuple[bool, str]:
    """Whether the passes run on a device, and why not, in words."""
    found, words = kernels()
    if found is None:
        return False, words
    if device.type != "cuda" or torch.version.cuda is None:
        return False, f"plain; there are fast forms for CPUs and Nvidia's GPUs, not for {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return False, (
            f"plain; the fast forms need a GPU of compute capability {OLDEST[0]}.{OLDEST[1]}, this one has "
            f"{capability[0]}.{capability[1]}"
        )
    try:
        tried(device)
    except Exception as error:  # Triton needs a C compiler, a folder to write to and a driver that fits, and says so
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return False, f"plain; Triton's passes cannot be built here ({lines[-1][:200]})"
    return True, words


def tried(device: torch.device) -> None:
    """Build and run the smallest kernel, so that what Triton lacks shows before the first step."""
    weight, velocity, gradient = torch.ones(3, 4, device=device)
    numbers = torch.ones(2, device=device)
    _kernel("update")[(1,)](weight, velocity, gradient, numbers, 4, 1.0, 0.0, SIZE=16)
    if not torch.equal(weight.cpu(), -torch.ones(4)):
        raise RuntimeError("a kernel of four numbers gave others than it should")


def here(device: torch.device) -> bool:
    """Whether the passes run on a device."""
    return ON_CPU if device.type == "cpu" else usable(device)[0]


@dataclass(frozen=True)
class Plan:
    """What a pass does after its convolution, as the kernels take it. A half below 0 and a kernel of 0 mean none."""

    towers: int = 1
    relu: bool = False
    half: int = -1
    scale: float = 0.0
    k: float = 1.0
    beta: float = 0.75
    within: int = -1
    within_scale: float = 0.0
    within_beta: float = 0.75
    kernel: int = 0
    stride: int = 1
    ceil: bool = True
    relu_after: bool = False

    def pooled(self, side: int) -> int:
        """The side that pooling makes of a side, as torch counts."""
        if not self.kernel:
            return side
        span = side - self.kernel
        return 1 + (-(-span // self.stride) if self.ceil else span // self.stride)


@dataclass
class Stretch:
    """A convolution, if there is one, the layer before it that fills its last window, and the chain of layers after."""

    names: list[str]
    layers: list[nn.Module]
    convolution: nn.Conv2d | None
    plans: list[Plan]

    def __call__(self, x: Tensor) -> Tensor | None:
        precision = _precision(x)
        if x.dim() != 4 or not x.numel() or precision not in (torch.float32, torch.bfloat16) or not takes(x):
            return None
        last, bias = is_channels_last(x), None
        if self.convolution is not None:
            last = last or is_channels_last(self.convolution.weight)
            filled = type(self.layers[0]) is LastWindow
            x, bias = convolve(self.convolution, x, precision, filled), self.convolution.bias
        if any(min(x.shape[2:]) < plan.kernel or not fits(plan, x.shape[1]) for plan in self.plans) or not takes(x):
            return None
        for plan in self.plans:
            x, bias = PlanFunction.apply(x, bias, plan), None
        x = x if bias is None else x + bias.to(x.dtype)[:, None, None]
        return x if last else x.contiguous()


def passes(layers: Sequence[tuple[str, nn.Module]]) -> list[Stretch]:
    """The stretches of a model: each plain convolution with what follows, and other chains of two layers and more."""
    found: list[Stretch] = []
    head: list[tuple[str, nn.Module]] = []
    chain = Chain()

    def close() -> None:
        nonlocal head, chain
        if chain.names or head:
            names = [name for name, _ in head] + chain.names
            layers = [layer for _, layer in head] + chain.layers
            found.append(Stretch(names, layers, cast(nn.Conv2d, head[-1][1]) if head else None, _plans(chain)))
        head, chain = [], Chain()

    for at, (name, layer) in enumerate(layers):
        slot = chain.slot(layer)
        if slot is None and (chain.names or head):
            close()
            slot = chain.slot(layer)
        if slot is not None:
            chain.names.append(name)
            chain.slots[slot] = layer
        elif type(layer) is nn.Conv2d and _plain(layer):
            head = with_edge(layers, at)
    close()
    return [one for one in found if one.convolution is not None or len(one.names) > 1 or _has_norm(one)]


def _has_norm(one: Stretch) -> bool:
    return any(plan.half >= 0 or plan.within >= 0 for plan in one.plans)


def _plain(layer: nn.Conv2d) -> bool:
    even = isinstance(layer.padding, tuple) and len(set(layer.padding)) == 1
    return even and layer.padding_mode == "zeros" and layer.dilation == (1, 1)


def _plans(chain: Chain) -> list[Plan]:
    slots = chain.slots
    plan = _normed(Plan(relu="relu_before" in slots, relu_after="relu_after" in slots), slots.get("norm_before"))
    if isinstance(within := slots.get("within"), WithinMapNorm):
        half, scale = within.size // 2, within.alpha / within.size**2
        plan = replace(plan, within=half, within_scale=scale, within_beta=within.beta)
    if isinstance(pool := slots.get("pool"), nn.MaxPool2d):
        sizes = cast(int, pool.kernel_size), cast(int, pool.stride)
        plan = replace(plan, kernel=sizes[0], stride=sizes[1], ceil=pool.ceil_mode)
        if plan.half < 0 and plan.within < 0 and plan.relu:  # the greatest is cut off as well after pooling as before
            plan = replace(plan, relu=False, relu_after=True)
    after = _normed(Plan(), slots.get("norm_after"))
    return [one for one in (plan, after) if one != Plan()]


def _normed(plan: Plan, norm: nn.Module | None) -> Plan:
    if not isinstance(norm, LocalResponseNorm):
        return plan
    scale = norm.alpha / norm.size
    return replace(plan, towers=norm.towers, half=norm.size // 2, scale=scale, k=norm.k, beta=norm.beta)


def _precision(x: Tensor) -> torch.dtype:
    """The type that a convolution of x is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def convolve(layer: nn.Conv2d, x: Tensor, precision: torch.dtype, filled: bool) -> Tensor:
    """The convolution without its bias, its last windows filled up or not, in the form that is fastest on a GPU."""
    weight, groups = layer.weight.to(precision), layer.groups
    if groups == 1 and layer.in_channels <= FEW and layer.stride[0] > 1 and not x.requires_grad:
        return _by_blocks(layer, weight, x, filled)
    if groups > 1 and precision == torch.bfloat16:
        weight, groups = _dense(weight, groups), 1
    stride, pad = layer.stride, layer.padding
    if filled:
        x = LastWindow(layer.kernel_size[0], stride[0], int(pad[0]))(x)
    return F.conv2d(x.to(precision), weight, None, stride, pad, 1, groups)


def _dense(weight: Tensor, groups: int) -> Tensor:
    """A grouped convolution's weights as one's over all channels: zeros where towers do not see each other."""
    width = weight.shape[1]
    towers = weight.chunk(groups)
    return torch.cat(
        [F.pad(one, (0, 0, 0, 0, i * width, (groups - 1 - i) * width)) for i, one in enumerate(towers)]
    ).contiguous(memory_format=torch.channels_last)


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
    _kernel("blocks_of_pixels")[(-(-rows // each),)](
        x, out, rows, height, width, *size, pad, *x.stride(), C=channels, STRIDE=stride, DEPTH=depth, WIN=window,
        ROWS=each,
    )  # fmt: skip
    return out


def _kernel(name: str) -> Any:
    return getattr(kernels()[0], name)


def power_of_two(number: int) -> int:
    return 1 << max(4, (number - 1).bit_length())


@dataclass(frozen=True)
class Shape:
    """How a kernel cuts channels into windows: see gpu_kernels.py."""

    P: int
    WIN: int
    TILE: int
    HALO: int

    @property
    def columns(self) -> int:
        """Programs to a row of one tower."""
        return -(-self.P // self.TILE)


def shape(channels: int, towers: int, half: int, products: bool = True) -> Shape:
    """Windows for that many channels; for products LRN's towers stay whole up to 128 maps, and wider ones overlap."""
    if half < 0:
        window = min(128, power_of_two(channels))
        return Shape(channels, window, window, 0)
    each = channels // towers
    if not products:
        window = min(128, power_of_two(each))
        return Shape(each, window, window, 0)
    if each <= 128:
        return Shape(each, power_of_two(each), each, 0)
    return Shape(each, 128, 128 - 16, 8)


def fits(plan: Plan, channels: int) -> bool:
    """Whether an LRN's gradient, which reaches twice half its size, stays between the HALOs."""
    return not shape(channels, plan.towers, plan.half).HALO or 2 * plan.half <= 8


class PlanFunction(torch.autograd.Function):
    """A plan over x, float32 or bfloat16 (N, C, H, W), plus a bias (C,) before it; channels last, sums in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        keep = any(ctx.needs_input_grad)
        nothing = x.new_empty(0)
        ctx.plan, ctx.input, ctx.bias_type = plan, x.shape, None if bias is None else bias.dtype
        z = d = places = nothing
        if plan.within >= 0:
            first = replace(plan, within=-1, kernel=0, relu_after=False)
            z = _stage(x, bias, first, False)[0] if bias is not None or plan.relu or plan.half >= 0 else x
            y, d = _within(z, plan, keep)
            if plan.kernel:
                last = replace(plan, relu=False, half=-1, within=-1)
                y, places = _stage(y, None, last, keep)
        else:
            y, places = _stage(x, bias, plan, keep)
        if keep:
            if plan.half >= 0:
                ctx.save_for_backward(x, bias, z, d, places)
            else:  # where the ReLU let something through is seen in its output, too
                ctx.save_for_backward(z if plan.within >= 0 else y if plan.relu else nothing, None, z, d, places)
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        if torch.is_grad_enabled() or not takes(g):
            raise AlexNetError(
                "a GPU's fast layers have no second derivatives and no batches of gradients; run both passes within "
                "alexnet.fast.plain(), whose layers have them."
            )
        x, bias, z, d, places = ctx.saved_tensors
        plan, (n, channels, height, width) = ctx.plan, ctx.input
        dx = torch.empty(ctx.input, dtype=d.dtype, device=g.device, memory_format=torch.channels_last)
        g = g.to(d.dtype).contiguous(memory_format=torch.channels_last)
        out_height, out_width = g.shape[2:]
        rows = n * height * width
        kernel = plan.kernel
        if plan.within >= 0:
            t, direct = torch.empty_like(z), torch.empty_like(z)
            window = min(128, power_of_two(channels))
            tile = _rows("within backward", window)
            _kernel("within_backward")[(-(-rows // tile["ROWS"]), -(-channels // window))](
                z, d, g, places, direct, t, rows, height, width, out_height, out_width, C=channels, WIN=window,
                BETA=plan.within_beta, KERNEL=kernel, STRIDE=plan.stride, **tile,
            )  # fmt: skip
            tile = _rows("within", window)
            _kernel("within_spread")[(-(-rows // tile["ROWS"]), -(-channels // window))](
                z, direct, t, rows, plan.within_scale, height, width, C=channels, WIN=window, WITHIN=plan.within,
                BETA=plan.within_beta, **tile,
            )  # fmt: skip
            g, kernel = direct, 0
        cut = shape(channels, plan.towers, plan.half)
        tile = _rows("backward norm" if plan.half >= 0 else "backward", cut.WIN)
        programs = min(-(-rows // tile["ROWS"]), PROGRAMS)
        add_up = ctx.needs_input_grad[1]
        sums = torch.empty((programs, channels), dtype=torch.float32, device=g.device) if add_up else g
        _kernel("stage_backward")[(programs, cut.columns * (channels // cut.P))](
            x, g if bias is None else bias, g, places, dx, sums, rows, plan.scale, plan.k,
            height, width, out_height, out_width, C=channels, P=cut.P, WIN=cut.WIN, TILE=cut.TILE, HALO=cut.HALO,
            HAS_BIAS=bias is not None, RELU=plan.relu, HALF=plan.half, BETA=plan.beta, KERNEL=kernel,
            STRIDE=plan.stride, ADD_UP=add_up, NARROW=_narrow(g),
            **tile,
        )  # fmt: skip
        return dx, sums.sum(0).to(ctx.bias_type) if add_up else None, None


def _narrow(x: Tensor) -> bool:
    """Whether sums over maps are taken of bfloat16, on tensor cores; Triton's interpreter cannot."""
    return x.dtype == torch.bfloat16 and x.is_cuda


# Numbers of a program's tile, and its warps, as they were fastest on an H100; "norm" is LRN.
TILES = {
    "forward": (4096, 4),
    "forward norm": (2048, 4),
    "pooling": (2048, 4),
    "pooling norm": (1024, 2),
    "backward": (4096, 4),
    "backward norm": (4096, 4),
    "within": (2048, 4),
    "within backward": (2048, 4),
}


def _rows(kind: str, window: int) -> dict[str, int]:
    """A kernel's rows and warps, for windows of a width; products need 16 rows at least."""
    numbers, warps = TILES[kind]
    return {"ROWS": max(16, numbers // window), "num_warps": warps}


def _stage(x: Tensor, bias: Tensor | None, plan: Plan, keep: bool) -> tuple[Tensor, Tensor]:
    """Bias, ReLU, LRN, pooling, ReLU of the plan: their output, and the places of maxima where they are kept."""
    n, channels, height, width = x.shape
    out_height, out_width = plan.pooled(height), plan.pooled(width)
    y = torch.empty(
        (n, channels, out_height, out_width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    keep = keep and plan.kernel > 0
    places = torch.empty(y.numel() if keep else 0, dtype=torch.uint8, device=x.device)
    cut = shape(channels, plan.towers, plan.half, products=plan.kernel > 0)
    rows = n * out_height * out_width
    tile = _rows(("pooling" if plan.kernel else "forward") + (" norm" if plan.half >= 0 else ""), cut.WIN)
    _kernel("stage_forward")[(-(-rows // tile["ROWS"]), cut.columns * (channels // cut.P))](
        x, x if bias is None else bias, y, places, rows, plan.scale, plan.k, height, width, out_height, out_width,
        C=channels, P=cut.P, WIN=cut.WIN, TILE=cut.TILE, HALO=cut.HALO, HAS_BIAS=bias is not None,
        RELU=plan.relu, HALF=plan.half, BETA=plan.beta, KERNEL=plan.kernel, STRIDE=plan.stride,
        RELU_AFTER=plan.relu_after, KEEP=keep, NARROW=_narrow(x), **tile,
    )  # fmt: skip
    return y, places


def _within(z: Tensor, plan: Plan, keep: bool) -> tuple[Tensor, Tensor]:
    """The within-map norm of z, and what it divided by where that is kept."""
    n, channels, height, width = z.shape
    y, d = torch.empty_like(z), torch.empty_like(z) if keep else z
    rows, window = n * height * width, min(128, power_of_two(channels))
    tile = _rows("within", window)
    _kernel("within_forward")[(-(-rows // tile["ROWS"]), -(-channels // window))](
        z, y, d, rows, plan.within_scale, height, width, C=channels, WIN=window, WITHIN=plan.within,
        BETA=plan.within_beta, KEEP=keep, **tile,
    )  # fmt: skip
    return y, d
