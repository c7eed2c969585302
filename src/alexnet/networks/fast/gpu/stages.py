"""What stands between two convolutions, as Triton's kernels do it, in both directions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.networks.fast.cpu.compiler import takes
from alexnet.networks.fast.gpu import Kernel
from alexnet.networks.fast.gpu.plan import PROGRAMS, Plan, power_of_two, shape, tiles


class PlanFunction(torch.autograd.Function):
    """A plan over x, float32 or bfloat16 (N, C, H, W), plus a bias (C,) before it; channels last, sums in float32.

    `learning` says whether what the gradient needs is to be kept.
    """

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, plan: Plan, learning: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        keep = learning and any(ctx.needs_input_grad)  # a parameter needs one under no_grad, too
        nothing = x.new_empty(0)
        ctx.plan, ctx.input, ctx.bias_type = plan, x.shape, None if bias is None else bias.dtype
        z = d = places = nothing
        first, last = (
            replace(plan, within=-1, kernel=0, relu_after=False),
            replace(plan, relu=False, half=-1, within=-1),
        )
        if plan.within >= 0:
            z = _stage(x, bias, first, False)[0] if bias is not None or plan.relu or plan.half >= 0 else x
            y, d = _within(z, plan, keep)
            if plan.kernel:
                y, places = _stage(y, None, last, keep)
        elif plan.half >= 0 and plan.kernel:  # in one, a window's nine normalisations do not fit into registers
            y, places = _stage(_stage(x, bias, first, False)[0], None, last, keep)
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
        plan, add_up = ctx.plan, ctx.needs_input_grad[1]
        g = g.to(d.dtype).contiguous(memory_format=torch.channels_last)
        if plan.within >= 0:
            g = _within_gradient(z, d, g, places, plan)
            plan = replace(plan, kernel=0)
        dx, sums = _stage_gradient(x, bias, g, places, plan, ctx.input, add_up)
        return dx, None if sums is None else sums.sum(0).to(ctx.bias_type), None, None


def _narrow(x: Tensor) -> bool:
    """Whether sums over maps are taken of bfloat16, on tensor cores; Triton's interpreter cannot."""
    return x.dtype == torch.bfloat16 and x.is_cuda


def _stage(x: Tensor, bias: Tensor | None, plan: Plan, keep: bool) -> tuple[Tensor, Tensor]:
    """Bias, ReLU, LRN, pooling, ReLU of the plan: their output, and the places of maxima where they are kept."""
    n, channels, height, width = x.shape
    out_height, out_width = plan.pooled(height), plan.pooled(width)
    y = torch.empty(
        (n, channels, out_height, out_width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    keep = keep and plan.kernel > 0
    places = torch.empty(y.numel() if keep else 0, dtype=torch.uint8, device=x.device)
    cut = shape(channels, plan.towers, plan.half, products=False)
    tile = tiles("pooling" if plan.kernel else "forward norm" if plan.half >= 0 else "forward", cut.WIN)
    outputs = n * out_height * out_width
    Kernel("stage_forward")[(-(-outputs // tile["ROWS"]), cut.columns * (channels // cut.P))](
        x, x if bias is None else bias, y, places, outputs, plan.scale, plan.k, height, width, out_height, out_width,
        C=channels, P=cut.P, WIN=cut.WIN, HAS_BIAS=bias is not None, RELU=plan.relu, HALF=plan.half, BETA=plan.beta,
        KERNEL=plan.kernel, STRIDE=plan.stride, RELU_AFTER=plan.relu_after, KEEP=keep, **tile,
    )  # fmt: skip
    return y, places


def _within(z: Tensor, plan: Plan, keep: bool) -> tuple[Tensor, Tensor]:
    """The within-map norm of z, and what it divided by where that is kept."""
    n, channels, height, width = z.shape
    y, d = torch.empty_like(z), torch.empty_like(z) if keep else z
    rows, window = n * height * width, min(128, power_of_two(channels))
    tile = tiles("within", window)
    Kernel("within_forward")[(-(-rows // tile["ROWS"]), -(-channels // window))](
        z, y, d, rows, plan.within_scale, height, width, C=channels, WIN=window, WITHIN=plan.within,
        BETA=plan.within_beta, KEEP=keep, **tile,
    )  # fmt: skip
    return y, d


def _stage_gradient(
    x: Tensor, bias: Tensor | None, g: Tensor, places: Tensor, plan: Plan, size: torch.Size, add_up: bool
) -> tuple[Tensor, Tensor | None]:
    """What `_stage` passes down to its input, and the bias' gradient in parts where it is asked for.

    x is the input, or where there is no LRN the output of the ReLU.
    """
    n, channels, height, width = size
    dx = torch.empty(size, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
    low = g.dtype == torch.bfloat16
    cut, rows = shape(channels, plan.towers, plan.half, low=low), n * height * width
    tile = tiles("backward" if plan.half < 0 else "backward norm" if low else "backward norm float32", cut.WIN)
    programs = min(-(-rows // tile["ROWS"]), PROGRAMS)
    sums = torch.empty((programs, channels), dtype=torch.float32, device=g.device) if add_up else None
    Kernel("stage_backward")[(programs, cut.columns * (channels // cut.P))](
        x, g if bias is None else bias, g, places, dx, g if sums is None else sums, rows, plan.scale, plan.k,
        height, width, *g.shape[2:], C=channels, P=cut.P, WIN=cut.WIN, TILE=cut.TILE, HALO=cut.HALO,
        HAS_BIAS=bias is not None, RELU=plan.relu, HALF=plan.half, BETA=plan.beta, KERNEL=plan.kernel,
        STRIDE=plan.stride, ADD_UP=add_up, NARROW=_narrow(g), **tile,
    )  # fmt: skip
    return dx, sums


def _within_gradient(z: Tensor, d: Tensor, g: Tensor, places: Tensor, plan: Plan) -> Tensor:
    """What the within-map norm of z, pooled or not, passes down to z."""
    n, channels, height, width = z.shape
    rows, window = n * height * width, min(128, power_of_two(channels))
    t, direct = torch.empty_like(z), torch.empty_like(z)
    tile = tiles("within backward", window)
    Kernel("within_backward")[(-(-rows // tile["ROWS"]), -(-channels // window))](
        z, d, g, places, direct, t, rows, height, width, *g.shape[2:], C=channels, WIN=window,
        BETA=plan.within_beta, KERNEL=plan.kernel, STRIDE=plan.stride, **tile,
    )  # fmt: skip
    tile = tiles("within", window)
    Kernel("within_spread")[(-(-rows // tile["ROWS"]), -(-channels // window))](
        z, direct, t, rows, plan.within_scale, height, width, C=channels, WIN=window, WITHIN=plan.within,
        BETA=plan.within_beta, **tile,
    )  # fmt: skip
    return direct
