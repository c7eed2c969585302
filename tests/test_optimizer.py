"""The update rule against the rule as written in the 2012 source, and the schedules against the published tables."""

from __future__ import annotations

import pytest
import torch

from alexnet import optimizer
from alexnet.model import seeded_build
from alexnet.optimizer import Plateau, colour_noise_on, rates
from alexnet.recipe import Recipe, override, resolve

AUTHOR = resolve("author_2012")


def test_updates_are_those_of_the_written_out_rule_through_drops_and_freezing():
    recipe = override(AUTHOR, {"variant": "alexnet32"})
    model = seeded_build(0, "alexnet32", 3, 3, 28).double()
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in expected.items()}
    sgd = optimizer.build(model, recipe)
    source = torch.Generator().manual_seed(0)
    for epoch in (0.0, 1.0, 21.9, 22.0, 30.0, 49.0, 50.0, 66.0, 67.0, 73.0, 74.0, 81.0, 90.0):
        now = rates(recipe, epoch, Plateau())
        optimizer.set_rates(sgd, now)
        for name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter.grad = gradient.clone()
            kind = name.split(".")[1]
            rate = now[f"conv1.{kind}" if name.startswith("conv1.") else kind]
            if rate == 0:  # spec 4.1: skipped altogether
                continue
            decay = 0.0005 * expected[name] if kind == "weight" else 0
            velocity[name] = 0.9 * velocity[name] - rate * gradient - rate * decay
            expected[name] = expected[name] + velocity[name]
        optimizer.step(sgd)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-13, msg=name)


def test_a_layers_decay_is_the_recipes_times_its_own_factor():
    model = seeded_build(0, "cifar10_13", 10, 3, 24)
    sgd = optimizer.build(model, override(AUTHOR, {"variant": "cifar10_13", "weight_decay": 0.004}))
    decay = {id(p): group["weight_decay"] for group in sgd.param_groups for p in group["params"]}
    got = {name: decay[id(p)] for name, p in model.named_parameters()}
    author = {"conv1": 0.0, "conv2": 0.0, "local3": 0.004, "local4": 0.004, "fc10": 0.004}  # spec §8
    assert got == {
        f"{layer}.{kind}": d if kind == "weight" else 0.0 for layer, d in author.items() for kind in ("weight", "bias")
    }


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
