"""Weights of every variant, random and thin, for the tests of the files that hold them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants
from alexnet.networks.model import empty_build
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights.base import Weights
from alexnet.weights.classifier import built

CLASSES = [str(n) for n in range(7)]


def narrow(name: str, divisor: int = 16) -> variants.Variant:
    """The variant with a sixteenth of its filters and units."""

    def less(layer):
        if isinstance(layer, variants.Conv | variants.Local):
            return replace(layer, filters=max(8, layer.filters // divisor))
        if isinstance(layer, variants.FC) and layer.units:
            return replace(layer, units=layer.units // divisor)
        return layer

    return replace(variant(name), layers=tuple(map(less, variant(name).layers)))


def thin_variants(patch: pytest.MonkeyPatch) -> None:
    """Every variant at reduced width, under its own name."""
    for each in VARIANTS:
        patch.setitem(VARIANTS, each, narrow(each))


def torchvisions(patch: pytest.MonkeyPatch, classes: int) -> nn.Module:
    """torchvision's network, random, with 256 units a layer for 4096, as ours has under `patch`: all take seconds."""
    with torch.device("meta"):
        peer = torchvision.models.alexnet(weights=None, num_classes=classes)
        for place, sides in ((1, (9216, 256)), (4, (256, 256)), (6, (256, classes))):
            peer.classifier[place] = nn.Linear(*sides)
    peer.to_empty(device="cpu")
    for layer in peer.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    ours = variant("alexnet_owt")
    fewer = [replace(x, units=256) if isinstance(x, variants.FC) and x.units else x for x in ours.layers]
    patch.setitem(VARIANTS, "alexnet_owt", replace(ours, layers=tuple(fewer)))
    return peer.eval()


def made(name: str, input: int | None = None, mean: torch.Tensor | None = None, classes=CLASSES, **changes) -> Weights:
    """Random weights large enough that every layer matters."""
    torch.manual_seed(0)
    plan = variant(name)
    input = input or plan.input
    model = empty_build(plan, len(classes), 3, input, changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.dim() < 6 else parameter[0, 0, 0].numel()
                parameter.normal_(0, 1.5 * fan_in**-0.5)
            else:
                parameter.uniform_(-0.5, 0.5)
        for buffer in ("running_mean", "running_var"):
            for key, value in model.state_dict().items():
                if key.endswith(buffer):
                    value.uniform_(0.5, 2)
    mean = torch.rand(3, 1, 1) * 255 if mean is None else mean
    stored = max(plan.stored, input)
    preprocess = Preprocess(stored, input, "RGB", (plan.pixel_scale,), mean)
    return Weights(name, dict(model.state_dict()), list(classes), preprocess, changes, "made for a test")


def logits(found: Weights, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return built(found).model(x).numpy()


def alexnet_names() -> list[str]:
    return labels.names(1000)


def pictures(found: Weights, scale: float = 40.0) -> torch.Tensor:
    side = found.preprocess.input
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * scale / found.preprocess.scale[0]


def same_tensors(a: Weights, b: Weights) -> bool:
    kept = {key for key in a.tensors if not key.endswith("num_batches_tracked")}
    return kept <= b.tensors.keys() and all(torch.equal(a.tensors[key], b.tensors[key]) for key in kept)


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max()))
