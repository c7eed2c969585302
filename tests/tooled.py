"""Narrow networks whose weights let the signal through, for the tests with others' tools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from alexnet.networks import fast
from alexnet.networks.fast.cpu import compiler
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS
from narrow import narrow

# Between them they have every kind of layer in every order; the others are their relatives.
KINDS = (
    "alexnet2012", "alexnet_paper", "caffenet", "alexnet_owt", "alexnet_bn", "alexnet2012_apart", "cifar10_18",
    "cifar10_11", "alexnet32",
)  # fmt: skip
TRACED = ("alexnet2012", "alexnet_owt", "cifar10_11", "alexnet_bn")  # a layer of every kind
every_variant = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow]) for name in VARIANTS]
)
needs_compiler = pytest.mark.skipif(compiler.library()[0] is None, reason="no C++ compiler here")


def net(name: str, **changes) -> AlexNet:
    """The variant, narrow, with weights that let the signal through: the authors' would hide most of a difference."""
    plan = narrow(name)
    model = AlexNet(plan, 7, 3, plan.input, changes)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            many = parameter.dim() > 1
            scale = (2 / parameter[0].numel()) ** 0.5 if many else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=source))
    return model.eval()


def pictures(model: AlexNet, count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return 30 * torch.randn(count, 3, model.input, model.input, generator=source).to(dtype)


def only_torchs(program: torch.export.ExportedProgram) -> bool:
    """Whether it computes by torch's own operators alone, so that it runs where this package is not."""
    return all(str(n.target).startswith("aten.") for n in program.graph.nodes if n.op == "call_function")


def close(one: Tensor, other: Tensor, share: float = 1e-4) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().norm()) <= share * float(other.detach().norm())


def in_plain(model: AlexNet, x: Tensor) -> Tensor:
    with fast.plain():
        return model(x)


def shared_relu(model: AlexNet) -> None:
    one = nn.ReLU()
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.ReLU):
            setattr(model, name, one)
