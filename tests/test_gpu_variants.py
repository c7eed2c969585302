"""The GPU's passes in every variant against its plain form: on a GPU as they are, on a CPU interpreted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.data import augment
from alexnet.networks import fast
from alexnet.networks.fast import gpu
from alexnet.networks.fast.gpu import stretches
from alexnet.networks.layers import LastWindow
from alexnet.networks.model import AlexNet, initialise
from alexnet.networks.variants import VARIANTS
from conftest import DEVICE
from interpreted import MARKS
from narrow import narrow, redraw
from tooled import BY_KIND, KINDS

pytestmark = MARKS


@pytest.fixture(autouse=True)
def in_the_interpreter(monkeypatch):
    monkeypatch.setattr(gpu, "ON_CPU", DEVICE.type == "cpu")


def small(name: str) -> AlexNet:
    """The variant, narrow and for pictures just large enough that every pooling has a window in its input."""
    side = min(narrow(name).input, 72)
    torch.manual_seed(0)
    model = AlexNet(replace(narrow(name), input=side, stored=side), 7, 3, side)
    initialise(model)
    return model.to(DEVICE, memory_format=torch.channels_last).eval()


@pytest.mark.parametrize("name", KINDS if DEVICE.type == "cpu" else VARIANTS)
def test_every_variant_is_its_plain_form(name):
    """By the interpreter those that differ, as in the others next to nothing is new to a kernel."""
    model = small(name)
    x = 30 * torch.randn(2, 3, model.input, model.input, device=DEVICE)
    masks = augment.dropout_masks(model.dropouts, 2, np.arange(2), (0,), DEVICE)
    for layer in masks:
        getattr(model, layer).train()
    outcomes = []
    for form in (fast.plain, None):
        model.zero_grad()
        if form:
            with form():
                y = model(x, masks)
        else:
            taken = fast.passes(model.named_layers, x, model.logits, masks)
            assert taken
            assert ("drop6" not in masks) == ("relu6" not in taken)
            y = model(x, masks)
        F.cross_entropy(y, torch.arange(2, device=DEVICE)).backward()
        outcomes.append([y.detach(), *(p.grad for p in model.parameters())])
    least = 1e-7 * max(float(x.norm()) for x in outcomes[0])  # a bias before batch normalisation has no gradient
    for plain, quick in zip(*outcomes, strict=True):
        assert float((plain - quick).norm()) < 2e-5 * float(plain.norm()) + least


def asked_of_kernels(one: stretches.Stretch) -> set[tuple]:
    """What the kernels see of a stretch: each plan with its maps and whether a bias comes first, and conv1's blocks."""
    layer = one.convolution
    asked = {(layer and layer.out_channels, plan, layer is not None and at == 0) for at, plan in enumerate(one.plans)}
    if layer is not None and layer.stride[0] > 1:
        asked.add((layer.kernel_size, layer.stride, layer.padding, type(one.layers[0]) is LastWindow))
    return asked


@pytest.mark.slow
def test_what_other_variants_ask_of_a_kernel_that_those_do_not_is_its_plain_form():
    had, tried = set(), []
    for name in BY_KIND:
        model = small(name)
        redraw(model)
        for one in stretches.passes(model.named_layers()):
            asked = asked_of_kernels(one)
            if name not in KINDS and asked - had:
                tried.append((name, one.names[0]))
                for plain, quick in zip(*both_forms(model, one), strict=True):
                    assert float((plain - quick).norm()) < 2e-5 * float(plain.norm()), tried[-1]
            had |= asked
    assert len(tried) > 5


def both_forms(model: AlexNet, one: stretches.Stretch) -> list[list[torch.Tensor]]:
    """Output and gradients of a stretch, layer by layer and by its passes, of what the network makes of noise."""
    x = 30 * torch.randn(2, 3, model.input, model.input, device=DEVICE)
    at = model.order.index(one.names[0])
    if at:
        with fast.plain(), torch.no_grad():
            x = model(x, until=model.order[at - 1])
    found = []
    for form in (one.layers, [one]):
        model.zero_grad()
        y = given = x.clone().requires_grad_(at > 0)  # conv1 is by blocks where its input needs no gradient
        for layer in form:
            y = layer(y)
        y.square().sum().backward()
        learned = [p.grad for layer in one.layers for p in layer.parameters()]
        found.append([y.detach(), *learned, *([given.grad] if at else [])])
    return found
