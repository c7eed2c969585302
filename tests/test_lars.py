"""Layer-wise adaptive rates against their formula in NumPy, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet.networks.model import AlexNet
from alexnet.training import optimizer
from alexnet.training.lars import Lars
from alexnet.training.recipe import Recipe
from narrow import narrow, redraw

RATES = (0.5, 0.5, 2.0, 0.0, 1.0)  # of the weights; the fourth step is frozen


TRUST, DECAY, MOMENTUM = 0.05, 0.01, 0.9


def plain(w, g, v, rate, scale=1.0):
    """The velocity and the weights after it."""
    v = MOMENTUM * v + rate * scale * (g + DECAY * w)
    return v, w - v


def lars(w, g, v, rate):
    """Algorithm 1 of arXiv 1708.03888."""
    length, slope = np.linalg.norm(w), np.linalg.norm(g)
    return plain(w, g, v, rate, TRUST * length / (slope + DECAY * length) if length and slope else 1.0)


@pytest.fixture
def model() -> AlexNet:
    plan = narrow("alexnet_bn")
    made = AlexNet(plan, 5, 3, plan.input)
    redraw(made)
    made.fc7.weight.data.zero_()
    return made.double().to(memory_format=torch.channels_last)


def test_each_layer_moves_by_the_formula_and_biases_by_the_plain_rule(model):
    recipe = Recipe(learning_rate=RATES[0], weight_decay=DECAY, bias_decay=True)
    update = optimizer.build_optimizer(model, recipe)
    rule = Lars(update, TRUST, model, lambda names, squares: squares)
    draw = torch.Generator().manual_seed(0)
    at = {name: (np.zeros(p.shape), p.detach().numpy().copy()) for name, p in model.named_parameters()}
    for rate in RATES:
        rule.set_rates({group["name"]: rate for group in update.param_groups})
        for name, p in model.named_parameters():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
            if name == "fc6.weight":
                p.grad.zero_()
            v, w = at[name]
            if rate:
                at[name] = (lars if p.dim() > 1 else plain)(w, p.grad.numpy(), v, rate)
        rule()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(p.detach().numpy(), at[name][1], rtol=1e-12, atol=1e-14, err_msg=name)


def test_a_state_that_is_loaded_goes_on_by_the_same_rule(model):
    """The decay lies in the state, which torch's own rule would add a second time."""
    recipe = Recipe(learning_rate=1.0, weight_decay=0.1)
    update = optimizer.build_optimizer(model, recipe)
    Lars(update, 0.1, model, lambda names, squares: squares)
    again = optimizer.build_optimizer(model, recipe)
    again.load_state_dict(update.state_dict())
    Lars(again, 0.1, model, lambda names, squares: squares)
    groups = [(group["decay"], group["weight_decay"]) for group in again.param_groups]
    assert sorted(set(groups)) == [(0.0, 0.0), (0.1, 0.0)]
