"""Narrow networks whose weights let the signal through, for the tests with others' tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from alexnet.networks import fast
from alexnet.networks.fast.cpu import compiler
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS, Layer, Weighted
from narrow import narrow

# Between them they have every kind of layer in every order; the others are their relatives.
KINDS = (
    "alexnet2012", "alexnet_paper", "caffenet", "alexnet_owt", "alexnet_bn", "alexnet2012_apart", "cifar10_18",
    "cifar10_11", "alexnet32",
)  # fmt: skip
TRACED = ("alexnet2012", "alexnet_owt", "cifar10_11", "alexnet_bn")  # a layer of every kind
BY_KIND = tuple(dict.fromkeys([*KINDS, *VARIANTS]))  # all, those first


def settings(layer: Layer) -> Layer:
    """The layer without its name, its width and what begins and decays its weights: tests draw their own."""
    if isinstance(layer, Weighted):
        layer = replace(layer, std=0.01, bias=0.0, decay_mult=1.0)
    return replace(layer, name="", **{key: 1 for key in ("filters", "units") if hasattr(layer, key)})


def sort(layer: Layer) -> tuple[type, bool]:
    """What module the layer is."""
    return type(layer), getattr(layer, "groups", 1) > 1


def with_new(seen: Callable[[Sequence[Layer]], Iterable[object]], names: Iterable[str] = BY_KIND) -> list[str]:
    """The variants in whose layers something is seen that none before them in `names` has."""
    found, had = [], set()
    for name in names:
        there = set(seen(VARIANTS[name].layers))
        found += [name] if there - had else []
        had |= there
    return found


# A program is traced layer by layer, so that no order of layers is new to it.
TO_TRACE = with_new(lambda layers: map(settings, layers), [*TRACED, *VARIANTS])
# The kinds, and of their relatives those in which a layer follows one of settings that it follows in none before.
DIFFERENT = with_new(lambda layers: pairwise(map(settings, layers)))
every_variant = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow]) for name in DIFFERENT]
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
