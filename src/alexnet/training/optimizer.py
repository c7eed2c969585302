"""The 2012 update rule (docs/facts.md 4.1) and its schedules: each parameter group's rate as a function of the step."""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from dataclasses import dataclass

import torch

from alexnet.networks.model import AlexNet
from alexnet.networks.variants import Weighted
from alexnet.training.recipe import Recipe


@dataclass
class Plateau:
    """What the plateau schedule remembers: the best validation error, epochs since, and drops so far (paper §5)."""

    best: float = float("inf")
    since: int = 0
    drops: int = 0

    def update(self, error: float, patience: int) -> None:
        """Take in an epoch's validation error, a fraction; a stall counts one more drop."""
        self.since = 0 if error < self.best else self.since + 1
        self.best = min(self.best, error)
        if self.since >= patience:
            self.since, self.drops = 0, self.drops + 1

    @property
    def over(self) -> bool:
        """Three drops, then one more stall: the paper's end of training."""
        return self.drops > 3


class SGD(torch.optim.SGD):
    """torch's, without the wrappers that import its compiler: that takes seconds, and no step here is compiled."""

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def build_optimizer(model: AlexNet, recipe: Recipe) -> torch.optim.SGD:
    """SGD over groups named `weight`, `bias`, `conv1.weight` and `conv1.bias`; weights' are split by decay_mult.

    Where the layers below the last have rates of their own, the last layer's groups are `last.weight` and `last.bias`.

    torch keeps the rate outside the momentum buffer, the author inside (v <- mu v - rate (g + decay w)); `set_rates`
    rescales the buffers when a rate changes, which makes the two equal (docs/facts.md 4.6).
    """
    mults = {x.name: x.decay_mult for x in model.variant.layers if isinstance(x, Weighted)}
    groups: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        last = layer == model.logits and recipe.rate_below != 1
        group = f"conv1.{kind}" if layer == "conv1" else f"last.{kind}" if last else kind
        decays = kind == "weight" or recipe.bias_decay
        decay = recipe.weight_decay * mults.get(layer, 1.0) if decays else 0.0
        groups.setdefault((group, decay), []).append(parameter)
    return SGD(
        [{"params": parameters, "name": name, "weight_decay": decay} for (name, decay), parameters in groups.items()],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        fused=True,
    )


def rates(recipe: Recipe, epoch: float, plateau: Plateau) -> dict[str, float]:
    """The learning rate of each group at a moment, in epochs from the start; 0 means frozen."""
    stretched = epoch * recipe.schedule_epochs / recipe.epochs
    warm = min(1.0, (epoch + 1e-9) / recipe.warmup) if recipe.warmup else 1.0
    weight = bias = recipe.learning_rate * warm
    if recipe.schedule == "plateau":
        weight *= recipe.drop_factor ** min(plateau.drops, 3)
        bias = weight
    elif recipe.schedule in ("linear", "cosine"):
        left = max(0.0, 1 - epoch / recipe.epochs)
        weight *= left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
        bias = weight
    else:
        weight *= recipe.drop_factor ** bisect_right(sorted(recipe.drops), stretched)
        bias *= 0.1 ** bisect_right(sorted(recipe.bias_drops), stretched)
    bias *= recipe.bias_rate
    conv1 = 1.0
    if recipe.schedule == "steps" and recipe.conv1_frozen and stretched >= recipe.conv1_frozen:
        conv1 = 0.0
    elif recipe.schedule == "steps" and recipe.conv1_slow and stretched >= recipe.conv1_slow:
        conv1 = 0.1
    below = recipe.rate_below
    last = {"last.weight": weight, "last.bias": bias} if below != 1 else {}
    return last | {
        "weight": weight * below,
        "bias": bias * below,
        "conv1.weight": weight * conv1 * below,
        "conv1.bias": bias * below if conv1 else 0.0,
    }


def colour_noise_on(recipe: Recipe, epoch: float) -> bool:
    """Whether there is colour noise at a moment, in epochs from the start."""
    off = recipe.colour_noise_off * recipe.epochs / recipe.schedule_epochs
    return recipe.colour_noise > 0 and (not off or epoch < off)


def set_rates(optimizer: torch.optim.Optimizer, new: dict[str, float]) -> None:
    """Give each group its rate, rescaling momentum so that the velocity stays what it was (docs/facts.md 4.6)."""
    for group in optimizer.param_groups:
        old, rate = group["lr"], new[group["name"]]
        if rate == old:
            continue
        group["lr"] = rate
        if not rate:
            group["held"] = old  # a frozen matrix keeps its velocity, should it ever go on
            continue
        old = old or group.pop("held", 0.0)
        buffers = [
            state["momentum_buffer"]
            for parameter in group["params"]
            if (state := optimizer.state.get(parameter)) and state.get("momentum_buffer") is not None
        ]
        if buffers:
            torch._foreach_mul_(buffers, old / rate)


def step(optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters of every group that is not frozen, and forget the gradients."""
    for group in optimizer.param_groups:
        if group["lr"] == 0.0:  # neither decay nor momentum, as in the code
            for parameter in group["params"]:
                parameter.grad = None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Rule:
    """An optimiser's rates and steps, as the loop asks for them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def set_rates(self, new: dict[str, float]) -> None:
        """Give each group its rate for the next step."""
        set_rates(self.optimizer, new)

    def __call__(self) -> None:
        """Update every parameter that has a gradient and is not frozen, and forget the gradients."""
        step(self.optimizer)

    def forget(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
