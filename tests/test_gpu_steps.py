"""A training step on a GPU: augmentation, update and capture against the plain ones, and no wait for the device."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from alexnet.base.distributed import World
from alexnet.base.metrics import read
from alexnet.data import augment, augment_fast
from alexnet.data.preprocess import Preprocess
from alexnet.networks import fast
from alexnet.networks.fast import gpu
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS
from alexnet.training import bench, captured, optimizer
from alexnet.training.loop import train
from alexnet.training.memory import needed
from alexnet.training.parallel import Division
from alexnet.training.recipe import Recipe
from conftest import DEVICE, TINY
from interpreted import MARKS
from narrow import narrow, redraw

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


def test_the_update_writes_a_copy_along_and_takes_its_gradient_and_sees_who_else_wrote_a_weight():
    rates = [0.1, 0.05, 0.0, 0.02]
    outcomes = []
    for copied in (False, True):
        torch.manual_seed(0)
        weight, bias = (nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in ((7, 3, 5, 5), (1030,)))
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        groups = [{"params": [weight, bias], "name": "all", "weight_decay": 0.1}]
        rule = captured.FusedUpdate(torch.optim.SGD(groups, lr=0.1, momentum=0.9), DEVICE)
        leaf = rule.copy_weights({"weight": weight})["weight"] if copied else weight
        for step, rate in enumerate(rates):
            if step == 2:
                with torch.no_grad():
                    weight.mul_(3)  # as loading does
            rule.set_rates({"all": rate})
            assert leaf.stride() == weight.stride()
            # Triton's interpreter cuts off where a GPU rounds.
            torch.testing.assert_close(leaf.float(), weight, rtol=8e-3 if copied else 0, atol=0)
            leaf.grad = torch.randn(weight.shape, device=DEVICE).bfloat16().to(leaf.dtype)
            bias.grad = torch.randn(bias.shape, device=DEVICE)
            rule()
            assert leaf.grad is weight.grad is bias.grad is None
        outcomes.append([weight.detach(), bias.detach()])
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)


def test_gradients_of_a_step_that_was_never_made_are_forgotten_of_copies_too():
    weight, bias = (nn.Parameter(torch.ones(2, 2, device=DEVICE)) for _ in range(2))
    rule = captured.FusedUpdate(torch.optim.SGD([{"params": [weight, bias], "name": "all"}], lr=0.1), DEVICE)
    copy = rule.copy_weights({"weight": weight})["weight"]
    for leaf in (copy, bias):
        leaf.grad = torch.ones_like(leaf)
    rule.forget()
    assert copy.grad is bias.grad is None


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_from_copies_of_the_weights_is_the_step_that_casts_them(name, monkeypatch):
    monkeypatch.setattr(gpu, "ON_CPU", False)  # the layers as they are: what is asked is who casts
    plan = narrow(name)
    model = AlexNet(plan, 5, 3, plan.input).to(DEVICE, memory_format=torch.channels_last).train()
    redraw(model)
    images = torch.randn(4, 3, plan.input, plan.input, generator=augment.generator(1)).to(DEVICE)
    labels = torch.arange(4, device=DEVICE)
    masks = augment.dropout_masks(model.dropouts, 4, np.arange(4), (0,), DEVICE)
    weights = {name: one for name, one in model.named_parameters() if one.dim() > 1}
    rule = captured.FusedUpdate(optimizer.build_optimizer(model, Recipe()), DEVICE)
    copies = rule.copy_weights(weights)
    rule.set_rates(optimizer.rates(Recipe(), 0, optimizer.Plateau()))
    outcomes = []
    for given in ({}, copies):
        division = Division(model, model, World(0, 1, DEVICE), torch.bfloat16)
        division.weights = given
        loss, logits = division.learn(images, masks, lambda x, at: F.cross_entropy(x, labels, reduction="sum"), 4)
        taken = {name: leaf.grad for name, leaf in (dict(model.named_parameters()) | given).items()}
        outcomes.append([loss, logits, *(gradient.float() for gradient in taken.values())])
        rule.forget()
    for cast, copied in zip(*outcomes, strict=True):
        torch.testing.assert_close(copied, cast, rtol=0, atol=0 if DEVICE.type == "cpu" else 1e-2)


@pytest.mark.parametrize("other", [{}, {"nesterov": True}, {"maximize": True}, {"momentum": 0.0, "dampening": 0.5}])
def test_a_rule_other_than_that_of_2012_is_left_to_the_optimiser(other):
    sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], **{"lr": 0.1, "momentum": 0.9, **other})
    assert (captured.update_rule(sgd, DEVICE) is None) == bool(other)


@pytest.mark.cpu
@pytest.mark.parametrize("other", [{}, {"nesterov": True}, {"maximize": True}, {"momentum": 0.0, "dampening": 0.5}])
def test_only_a_rule_that_finds_its_rates_on_the_device_is_captured(other, monkeypatch):
    """A graph replays the numbers that Python gave when it was captured."""
    monkeypatch.setattr(gpu, "here", lambda device: True)
    sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], **{"lr": 0.1, "momentum": 0.9, **other})
    rule = captured.update_rule(sgd, torch.device("cpu")) or optimizer.Rule(sgd)
    assert (captured.whole_step(torch.device("cuda"), rule, print) is None) == bool(other)


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
        assert run.pictures.beside == run.held_out.beside == needed(run.model, 3, torch.float32)
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
    launch = captured.Captured(DEVICE, update.zero_grad, said.append)
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
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_by_the_passes_is_plain_training_also_after_a_stop(precision, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "alexnet32", replace(narrow("alexnet32"), input=16, stored=18))
    copied = []
    copy_weights = captured.FusedUpdate.copy_weights
    monkeypatch.setattr(captured.FusedUpdate, "copy_weights", lambda *x: copied.append(1) or copy_weights(*x))
    sets = [*TINY, "dropout=0.5", "batch_size=2", "schedule=linear", "colour_noise=0.1", "max_steps=3"]
    sets.append(f"precision={precision}")
    with fast.plain():
        train(folders, tmp_path / "plain", None, sets, device=DEVICE.type)
    train(folders, tmp_path / "whole", None, sets, device=DEVICE.type)
    train(folders, tmp_path / "parts", None, [*sets, "max_steps=1", "checkpoint_every=1"], device=DEVICE.type)
    train(folders, tmp_path / "parts", None, ["max_steps=3"], resume=True, device=DEVICE.type)
    losses = {
        name: [line["loss"] for line in read(tmp_path / name / "metrics.jsonl") if line["kind"] == "step"]
        for name in ("plain", "whole", "parts")
    }
    low = precision == "bfloat16"
    assert bool(copied) == low
    if not low or DEVICE.type == "cuda":  # what Triton's interpreter writes in bfloat16 is cut off, not rounded
        assert losses["whole"] == losses["parts"]
    np.testing.assert_allclose(losses["whole"], losses["parts"], rtol=1e-2 if low else 0)
    np.testing.assert_allclose(losses["whole"], losses["plain"], rtol=1e-2 if low else 2e-5)
