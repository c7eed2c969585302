"""Every variant in every precision: types, and a training step, also where autocast has a GPU's list.

On a GPU the list is its own (TEST_DEVICE=cuda); on a CPU it is imitated."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.data import augment
from alexnet.networks import fast
from alexnet.networks.model import AlexNet, initialise
from alexnet.networks.variants import VARIANTS
from conftest import DEVICE
from cuda_autocast import cuda_autocast
from narrow import narrow

pytestmark = pytest.mark.device
CASTS = {"float32": nullcontext, "bfloat16": nullcontext}
if DEVICE.type == "cpu":
    CASTS["bfloat16, as on a GPU"] = cuda_autocast


def net(name: str, classes: int = 7) -> AlexNet:
    plan = narrow(name)
    torch.manual_seed(0)
    model = AlexNet(plan, classes, 3, plan.input)
    initialise(model)
    return model.to(DEVICE, memory_format=torch.channels_last)


@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize("casts", CASTS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_takes_a_step_with_masks_in_every_precision(name, casts, form):
    model = net(name)
    images = 30 * torch.randn(4, 3, model.input, model.input, device=DEVICE)
    masks = augment.dropout_masks(model.dropouts, 4, np.arange(4), (0, 0, 0, 2), DEVICE)
    with CASTS[casts](), fast.plain() if form == "plain" else nullcontext():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=casts != "float32"):
            logits = model(images, masks)
        F.cross_entropy(logits.float(), torch.arange(4, device=DEVICE)).backward()
    assert logits.dtype == (torch.float32 if casts == "float32" else torch.bfloat16)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_below_bfloat16_gives_bfloat16_on_a_gpus_list(name):
    model = net(name).eval()
    seen: dict[str, torch.dtype] = {}
    for layer in (record.name for record in model.variant.layers):
        getattr(model, layer).register_forward_hook(lambda m, i, y, layer=layer: seen.update({layer: y.dtype}))
    cast = cuda_autocast if DEVICE.type == "cpu" else nullcontext
    with cast(), torch.autocast(DEVICE.type, torch.bfloat16), torch.no_grad():
        model(30 * torch.randn(2, 3, model.input, model.input, device=DEVICE))
    assert set(seen.values()) == {torch.bfloat16}, seen
