"""A training step on a GPU: augmentation, update and capture against the plain ones, and no wait for the device."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from alexnet.base.distributed import World
from alexnet.base.metrics import read
from alexnet.data import augment, augment_fast
from alexnet.data.preprocess import Preprocess
from alexnet.networks import fast
from alexnet.networks.fast import gpu
from alexnet.networks.variants import VARIANTS
from alexnet.training import bench, captured, optimizer
from alexnet.training.loop import train
from conftest import DEVICE, TINY
from interpreted import MARKS
from narrow import narrow

pytestmark = MARKS


@pytest.fixture(autouse=True)
def in_the_interpreter(monkeypatch):
    monkeypatch.setattr(gpu, "ON_CPU", DEVICE.type == "cpu")


def pictures_and_draws(count: int = 5, channels: int = 3, stored: int = 12, input: int = 9):
    source = augment.generator(3)
    pictures = torch.randint(0, 256, (count, stored, stored, channels), generator=source, dtype=torch.uint8)
    draws = augment.draw(count, stored - input, True, torch.tensor([20.0, 9.0, 4.0])[:channels], source)
    mean = torch.rand(channels, stored, stored, generator=source) * 255
    preprocess = Preprocess(stored, input, "RGB" if channels == 3 else "L", (58.0,), mean.to(DEVICE))
    return pictures.permute(0, 3, 1, 2).to(DEVICE), draws.take(np.arange(count), DEVICE), preprocess


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_augmentation_in_one_pass_is_the_plain_functions(dtype, channels, noise):
    pictures, draws, preprocess = pictures_and_draws(channels=channels)
    axes = torch.linalg.qr(torch.rand(channels, channels, generator=augment.generator(5)))[0].to(DEVICE)
    wanted = preprocess.subtract(augment.crop_and_mirror(pictures, draws, preprocess.input))
    if noise:
        wanted = augment.add_colour(wanted, draws, axes, noise)
    wanted = preprocess.divide(wanted)
    got = augment_fast.augmented(pictures, draws, preprocess, axes if noise else None, noise, dtype)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wanted, rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-6)


def test_the_update_in_one_pass_is_the_optimisers_at_rates_that_change_stop_and_go_on():
    rates = [0.1, 0.1, 0.05, 0.0, 0.0, 0.02, 0.01]
    outcomes = []
    for quick in (False, True):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in ((7, 3, 5, 5), (1030,), (4, 9))]
        parameters[0].data = parameters[0].data.contiguous(memory_format=torch.channels_last)
        groups = [
            {"params": parameters[:1], "name": "weight", "weight_decay": 0.1},
            {"params": parameters[1:], "name": "bias", "weight_decay": 0.0},
        ]
        sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        rule = captured.FusedUpdate(sgd, DEVICE) if quick else optimizer.Rule(sgd)
        for rate in rates:
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, device=DEVICE)
            rule.set_rates({"weight": rate, "bias": 2 * rate})
            rule()
            assert all(parameter.grad is None for parameter in parameters)
        outcomes.append([*parameters, *(sgd.state[p]["momentum_buffer"] for p in parameters)])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("other", [{}, {"nesterov": True}, {"maximize": True}, {"momentum": 0.0, "dampening": 0.5}])
def test_a_rule_other_than_that_of_2012_is_left_to_the_optimiser(other):
    sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], **{"lr": 0.1, "momentum": 0.9, **other})
    assert (captured.update_rule(sgd, DEVICE) is None) == bool(other)


class _NobodyWaits(TorchFunctionMode):
    """What would make a CPU wait for a GPU, with the device without memory in the GPU's place: an answer asked of a
    tensor there is torch's own error, a copy to it other than by `send` is one here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        there = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, str | torch.device)]
        moved = any(str(x) == "meta" for x in there)
        made = getattr(func, "__name__", "")
        if moved and (made == "tensor" or (made in ("to", "copy_", "cuda") and args[0].device.type == "cpu")):
            assert any(one.function == "send" for one in inspect.stack(0)), f"{made} waits for the GPU"
        return func(*args, **(kwargs or {}))


@pytest.mark.cpu
@pytest.mark.parametrize("sets", [[], ["augment=gray,brightness,erase", "crop_area=0.3"]], ids=["crops", "boxes"])
def test_a_step_asks_a_gpu_for_nothing_and_copies_nothing_that_it_waits_for(sets, monkeypatch):
    meta, launched = torch.device("meta"), []
    monkeypatch.setattr(gpu, "ON_CPU", False)
    monkeypatch.setattr(gpu, "Kernel", lambda name: {(n,): lambda *more, **few: launched.append(1) for n in range(999)})
    drawn = augment.generator
    monkeypatch.setattr(augment, "generator", lambda *key, device="cpu": drawn(*key))
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda x, p, generator: x)
    monkeypatch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
    sets = [*TINY, "dropout=0.5", "batch_size=3", "colour_noise=0.1", *sets]
    with bench.prepared(sets, "cpu", pictures=3) as run:
        batch = bench.one_batch(run)
        run.world = run.division.world = World(0, 1, meta)
        run.division.autocast = nullcontext
        run.model.to_empty(device=meta)
        run.preprocess = replace(run.preprocess, mean=run.preprocess.mean.to(meta))
        run.optimizer = optimizer.build_optimizer(run.model, run.recipe)
        run.rule = captured.FusedUpdate(run.optimizer, meta)
        with _NobodyWaits():
            bench.train_step(run, batch)
    assert len(launched) == len(list(run.model.parameters()))


def six_steps(fails: bool) -> tuple[torch.Tensor, list[str]]:
    """What steps launched by `Captured` come to, and what it says; capturing fails in the midst of the fourth."""
    weight, said = nn.Parameter(torch.ones(3)), []
    update = torch.optim.SGD([weight], lr=0.1)
    launch = captured.Captured(DEVICE, update, said.append)
    launch.failed = not fails  # then each is launched by itself

    def backward(images):
        (weight * images).sum().backward()

    def work(images, labels, masks):
        backward(images)
        update.step()
        update.zero_grad()
        return weight.detach().clone()

    def capture(work, images, labels, masks):
        backward(torch.full((3,), torch.nan))
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    launch._capture = capture
    return torch.stack([launch(work, torch.full((3,), float(n)), None, {}) for n in range(6)]), said


@pytest.mark.cpu
def test_a_step_whose_capture_fails_half_way_is_made_as_if_it_had_not_been_tried():
    (plain, nothing), (steps, said) = six_steps(False), six_steps(True)
    assert torch.equal(steps, plain)
    assert (nothing, len(said)) == ([], 1)
    assert said[0].endswith("captured as a CUDA graph: operation not permitted when stream is capturing")


@pytest.mark.slow
def test_training_by_the_passes_is_plain_training_also_after_a_stop(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
    sets = [*TINY, "dropout=0.5", "batch_size=3", "schedule=linear", "colour_noise=0.1", "max_steps=5"]
    with fast.plain():
        train(folders, tmp_path / "plain", None, sets, device=DEVICE.type)
    train(folders, tmp_path / "whole", None, sets, device=DEVICE.type)
    train(folders, tmp_path / "parts", None, [*sets, "max_steps=2", "checkpoint_every=1"], device=DEVICE.type)
    train(folders, tmp_path / "parts", None, ["max_steps=5"], resume=True, device=DEVICE.type)
    losses = {
        name: [line["loss"] for line in read(tmp_path / name / "metrics.jsonl") if line["kind"] == "step"]
        for name in ("plain", "whole", "parts")
    }
    assert losses["whole"] == losses["parts"]
    np.testing.assert_allclose(losses["whole"], losses["plain"], rtol=2e-5)
