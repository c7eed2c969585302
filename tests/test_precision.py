"""Every variant in every precision: types, and a training step, also where autocast has a GPU's list.

On a GPU the list is its own (TEST_DEVICE=cuda); on a CPU it is imitated."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.base import device
from alexnet.base.errors import AlexNetError
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


@pytest.mark.cpu
@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_float32_is_float32_whatever_the_process_says_of_tf32_before(before, monkeypatch):
    products = device._PRODUCTS
    monkeypatch.setattr(torch.backends, "fp32_precision", before)
    was = [one.fp32_precision for one in products]
    for allowed, wanted in ((False, "ieee"), (True, "tf32")):
        with device.tf32(allowed):
            assert {one.fp32_precision for one in products} == {wanted}
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allowed
        assert [one.fp32_precision for one in products] == was


@pytest.mark.cpu
def test_whether_a_gpu_has_bfloat16_is_asked_of_that_gpu(monkeypatch):
    here = []

    @contextmanager
    def current(chosen):
        here.append(chosen.index)
        yield
        here.pop()

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: here == [1])
    assert device.choose_precision(torch.device("cuda", 0))[0] == torch.float32
    assert device.choose_precision(torch.device("cuda", 1))[0] == torch.bfloat16


@pytest.mark.cpu
def test_what_is_sent_to_a_gpu_goes_from_pinned_memory_and_nobody_waits():
    x = mock.Mock(device=torch.device("cpu"))
    assert device.send(x, torch.device("cuda", 1)) is x.pin_memory.return_value.to.return_value
    x.pin_memory.return_value.to.assert_called_once_with(torch.device("cuda", 1), non_blocking=True)
    there = torch.zeros(2)
    assert device.send(there, torch.device("cpu")) is there


@pytest.mark.cpu
@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cuda:", "cuda:-1", "cpu:1"])
def test_a_gpu_that_is_not_there_is_named_with_those_that_are(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(AlexNetError, match=r"there is (cuda:0 to cuda:1|cpu)\."):
        device.choose_device(name)
    assert device.choose_device("cuda:1") == torch.device("cuda", 1)


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
