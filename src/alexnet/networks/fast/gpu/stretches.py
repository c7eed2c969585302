"""A GPU's passes found in a model: each convolution without its bias, then everything up to the next one in as few
passes as it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from alexnet.networks.fast.cpu.blocks import Chain
from alexnet.networks.fast.cpu.compiler import takes
from alexnet.networks.fast.cpu.conv1 import with_edge
from alexnet.networks.fast.gpu.convolutions import convolve
from alexnet.networks.fast.gpu.plan import Plan, fits
from alexnet.networks.fast.gpu.stages import PlanFunction
from alexnet.networks.layers import LastWindow, LocalResponseNorm, WithinMapNorm, is_channels_last


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
        if any(
            min(x.shape[2:]) < plan.kernel or not fits(plan, x.shape[1], precision == torch.bfloat16)
            for plan in self.plans
        ) or not takes(x):
            return None
        if not all(one.fits(x.shape[1]) for one in self.layers if isinstance(one, LocalResponseNorm)):
            return None
        for plan in self.plans:
            x, bias = PlanFunction.apply(x, bias, plan, torch.is_grad_enabled()), None
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
