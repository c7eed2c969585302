"""Layers whose kernel, stride, padding or dilation are no squares, in the fast forms of GPU and CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alexnet.networks.fast import gpu
from alexnet.networks.fast.cpu import blocks, compiler, conv1
from alexnet.networks.fast.gpu import stretches
from alexnet.networks.layers import LocalResponseNorm
from conftest import DEVICE
from interpreted import MARKS

pytestmark = MARKS


@pytest.fixture(autouse=True)
def in_the_interpreter(monkeypatch):
    monkeypatch.setattr(gpu, "ON_CPU", DEVICE.type == "cpu")


def named(layers: list[nn.Module]) -> list[tuple[str, nn.Module]]:
    return [(f"layer{i}", layer) for i, layer in enumerate(layers)]


PAIRS = [(3, 3), (3, 2), (2, 3)]


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("pad", [(0, 0), (1, 0)])
@pytest.mark.parametrize("stride", [*PAIRS, (1, 1), (1, 2)])
@pytest.mark.parametrize("kernel", PAIRS)
def test_a_convolution_that_is_not_square_is_the_convolution(kernel, stride, pad, dilation):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, kernel, stride, pad, dilation), nn.ReLU()]
    x = torch.randn(2, 3, 11, 10)
    wanted = nn.Sequential(*layers)(x)
    on_gpu = [one for one in stretches.passes(named([layer.to(DEVICE) for layer in layers])) if "layer0" in one.names]
    for one in on_gpu:
        torch.testing.assert_close(one(x.to(DEVICE)).cpu(), wanted, rtol=1e-5, atol=1e-5)
    if compiler.library()[0] is not None:
        layers[0].to("cpu", torch.bfloat16)
        for one in conv1.passes(named(layers)):
            torch.testing.assert_close(one(x.bfloat16()).relu().float(), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "pooling",
    [
        {"kernel_size": (3, 2), "stride": 2}, {"kernel_size": 3, "stride": (2, 1)}, {"kernel_size": (3, 3)},
        {"kernel_size": 3, "padding": (1, 0)}, {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "dilation": 2}, {"kernel_size": 2, "stride": 3},
    ],
    ids=str,
)  # fmt: skip
def test_pooling_that_is_not_square_is_the_pooling(pooling):
    x = torch.randn(2, 16, 11, 10, generator=torch.Generator().manual_seed(0))
    layers = [
        nn.ReLU(),
        LocalResponseNorm(16, 1, 5, 0.1, 0.75, 2.0),
        nn.MaxPool2d(**pooling, ceil_mode=True),
        nn.ReLU(),
    ]
    wanted = nn.Sequential(*layers)(x)
    for find, device in ((stretches.passes, DEVICE), (blocks.passes, torch.device("cpu"))):
        if find is blocks.passes and compiler.library()[0] is None:
            continue
        here = [layer.to(device) for layer in layers]
        taken = {one.names[0]: one for one in find(named(here))}
        y, at = x.to(device), 0
        while at < len(here):
            one = taken.get(f"layer{at}")
            y, at = (one(y), at + len(one.names)) if one else (here[at](y), at + 1)
        torch.testing.assert_close(y.cpu(), wanted, rtol=1e-5, atol=1e-5)
