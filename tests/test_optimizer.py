"""The update rule against the rule as written in the 2012 source, and the schedules against the published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.training import optimizer
from alexnet.training.optimizer import Plateau, colour_noise_on, rates
from alexnet.training.recipe import Recipe, override, resolve

AUTHOR = resolve("author_2012")


def test_all_95_epochs_are_those_of_the_written_out_rule():
    layers = (v.Conv("conv1", 2, 3), v.Conv("conv2", 2, 3), v.FC("fc8", None))
    model = AlexNet(v.Variant("tiny", "", 5, 5, layers), 3, 1, 5).double()
    sgd, steps = optimizer.build_optimizer(model, AUTHOR), 3
    w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    velocity = {name: np.zeros_like(value) for name, value in w.items()}
    draw, frozen = np.random.default_rng(0), {}
    for epoch in range(95):
        for step in range(steps):
            optimizer.set_rates(sgd, rates(AUTHOR, epoch + step / steps, Plateau()))
            for name, parameter in model.named_parameters():
                g = draw.normal(size=w[name].shape)
                parameter.grad = torch.from_numpy(g.copy())
                rate, decay = 0.01 if epoch < 22 else 0.001 if epoch < 49 else 0.0001 if epoch < 81 else 0.00001, 0.0005
                if name.endswith("bias"):
                    rate, decay = 0.02 if epoch < 22 else 0.002, 0.0
                if name == "conv1.weight" and epoch >= 66:
                    rate = 0.00001
                if name.startswith("conv1") and epoch >= 73:
                    continue
                velocity[name] = 0.9 * velocity[name] - rate * g - rate * decay * w[name]
                w[name] = w[name] + velocity[name]
            optimizer.step(sgd)
        assert colour_noise_on(AUTHOR, epoch) == (epoch < 66)
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.detach(), w[name], rtol=1e-12, atol=1e-12, err_msg=f"{name}, {epoch}")
        if epoch == 72:
            frozen = {name: p.detach().clone() for name, p in model.conv1.named_parameters()}
    for name, parameter in model.conv1.named_parameters():
        assert torch.equal(parameter, frozen[name])


@pytest.mark.parametrize("key", ["drops", "bias_drops"])
def test_drops_count_in_any_order(key):
    forward, back = (override(AUTHOR, {key: drops}) for drops in ([22.0, 49.0, 81.0], [81.0, 22.0, 49.0]))
    for epoch in (0, 21.9, 22, 23, 48.9, 49, 80, 81, 94):
        assert rates(back, epoch, Plateau()) == rates(forward, epoch, Plateau())


def test_a_matrix_that_was_frozen_goes_on_with_the_velocity_that_it_had():
    """The rule skips a matrix whose rate is 0 altogether, so its velocity waits; a run made longer can thaw conv1."""
    model = AlexNet(v.Variant("tiny", "", 3, 3, (v.Conv("conv1", 2, 3), v.FC("fc8", None))), 3, 1, 3).double()
    sgd = optimizer.build_optimizer(model, AUTHOR)
    w = model.conv1.weight.detach().numpy().copy()
    velocity, draw = np.zeros_like(w), np.random.default_rng(0)
    for epoch in (0.0, 1.0, 73.0, 74.0, 2.0, 3.0):
        optimizer.set_rates(sgd, rates(AUTHOR, epoch, Plateau()))
        for parameter in model.parameters():
            g = draw.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(g.copy())
            if parameter is model.conv1.weight and epoch < 73:
                velocity = 0.9 * velocity - 0.01 * g - 0.01 * 0.0005 * w
                w = w + velocity
        optimizer.step(sgd)
        np.testing.assert_allclose(model.conv1.weight.detach(), w, rtol=1e-12, atol=1e-12, err_msg=str(epoch))


@pytest.mark.parametrize(
    ("epoch", "weight", "bias", "conv1_weight", "conv1_bias", "noise"),
    [
        (0, 1e-2, 0.02, 1e-2, 0.02, True),
        (21.99, 1e-2, 0.02, 1e-2, 0.02, True),
        (22, 1e-3, 0.002, 1e-3, 0.002, True),
        (49, 1e-4, 0.002, 1e-4, 0.002, True),
        (66, 1e-4, 0.002, 1e-5, 0.002, False),
        (73, 1e-4, 0.002, 0, 0, False),
        (81, 1e-5, 0.002, 0, 0, False),
        (94.9, 1e-5, 0.002, 0, 0, False),
    ],
)
def test_the_authors_schedule_is_that_of_his_script(epoch, weight, bias, conv1_weight, conv1_bias, noise):
    got = rates(AUTHOR, epoch, Plateau())
    expected = {"weight": weight, "bias": bias, "conv1.weight": conv1_weight, "conv1.bias": conv1_bias}
    assert got == pytest.approx(expected)
    assert colour_noise_on(AUTHOR, epoch) == noise


def test_a_schedule_stretches_with_the_epochs():
    short = override(AUTHOR, {"epochs": 19})  # a fifth of 95
    for epoch in (0.0, 10.0, 22.0, 49.5, 66.5, 73.5, 82.0):
        assert rates(short, epoch / 5, Plateau()) == rates(AUTHOR, epoch, Plateau())
        assert colour_noise_on(short, epoch / 5) == colour_noise_on(AUTHOR, epoch)


def test_the_papers_schedule_divides_by_ten_after_each_stall_three_times():
    paper = resolve("paper_2012")
    plateau, seen = Plateau(), []
    for error in [0.5, 0.4, *[0.4] * 5, 0.3, *[0.3] * 5, *[0.3] * 5]:
        plateau.update(error, paper.patience)
        seen.append(rates(paper, 1.0, plateau)["weight"])
    assert seen[5] == 0.01  # four epochs without a better error
    assert seen[6] == pytest.approx(1e-3)
    assert seen[7] == pytest.approx(1e-3)
    assert seen[12] == pytest.approx(1e-4)
    assert seen[17] == pytest.approx(1e-5)
    assert not plateau.over
    for _ in range(5):
        plateau.update(0.3, paper.patience)
    assert plateau.over
    assert rates(paper, 1.0, plateau)["weight"] == pytest.approx(1e-5)
    assert rates(paper, 1.0, Plateau())["bias"] == 0.01


def test_linear_schedule_warms_up_and_ends_at_zero():
    recipe = override(Recipe(), {"schedule": "linear", "warmup": 2.0, "epochs": 10, "learning_rate": 0.1})
    assert rates(recipe, 1.0, Plateau())["weight"] == pytest.approx(0.1 * 0.5 * 0.9)
    assert rates(recipe, 5.0, Plateau())["weight"] == pytest.approx(0.05)
    assert rates(recipe, 10.0, Plateau())["weight"] == 0.0


def test_a_cosine_goes_from_the_full_rate_to_nothing():
    recipe = override(AUTHOR, {"schedule": "cosine", "epochs": 80, "conv1_slow": 0.0})
    for epoch in (0.0, 10.0, 40.0, 55.5, 79.9):
        expected = 0.01 * 0.5 * (1 + math.cos(math.pi * epoch / 80))
        got = rates(recipe, epoch, Plateau())
        assert got["weight"] == pytest.approx(expected)
        assert got["bias"] == pytest.approx(2 * expected)


def test_owts_rates_fall_by_250_in_three_equal_steps():
    recipe = resolve("owt_2014")
    got = [rates(recipe, epoch, Plateau())["weight"] for epoch in (0, 22.4, 22.5, 45, 67.5, 89.9)]
    assert got == pytest.approx([0.01, 0.01, 1.587e-3, 2.520e-4, 4e-5, 4e-5], rel=1e-3)  # docs/facts.md 4.5
    assert [rates(recipe, epoch, Plateau())["bias"] for epoch in (44.9, 45)] == pytest.approx([0.02, 0.002])


def test_caffes_rates_fall_every_100_000_steps_of_256_pictures():
    recipe, images = resolve("caffe"), 1_281_167
    for step in (0, 99_000, 101_000, 201_000, 449_000):
        got = rates(recipe, step * 256 / images, Plateau())
        assert got["weight"] == pytest.approx(0.01 * 0.1 ** (step // 100_000))
        assert got["bias"] == pytest.approx(2 * got["weight"])


def test_torchvisions_biases_decay_like_its_weights():
    recipe = resolve("torchvision")
    sgd = optimizer.build_optimizer(AlexNet(v.variant("alexnet32"), 3, 3, 28), recipe)
    assert {group["weight_decay"] for group in sgd.param_groups} == {1e-4}
    assert len(set(rates(recipe, 10, Plateau()).values())) == 1
