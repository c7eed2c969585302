"""The network divided among the processes that train it: by pictures, by towers, or fully connected layers by units.

`divide` makes what the loop asks (division.py); a recipe's `parallel` says which. What each sends is in
`networks/traffic.py`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError
from alexnet.networks import traffic
from alexnet.networks.model import AlexNet
from alexnet.training.parallel.division import Division
from alexnet.training.recipe import Recipe

__all__ = ["Division", "check", "divide"]


def check_division(recipe: Recipe, model: AlexNet, world: World) -> str:
    """Refuse a division that this network or number of processes cannot have; a line to say, or ""."""
    way = recipe.parallel
    if way == "data":
        return ""
    if recipe.compile or (recipe.weights and not recipe.rate_below):
        what = "compile=true" if recipe.compile else "rate_below=0, which trains the last layer alone"
        raise AlexNetError(f"parallel={way} cannot be had together with {what}; leave one of them out.")
    if way == "towers":
        traffic.towers(model.variant, model.classes, model.channels, model.input)
        if world.size > 2:
            raise AlexNetError(
                f"parallel=towers is for two processes, one a tower, or one for both, and there are {world.size}; "
                "start two, or say --set parallel=hybrid."
            )
    else:
        traffic.split_layers(model.variant)
    return f"parallel={way}: one process alone has the whole network" if world.size == 1 else ""


def divide(recipe: Recipe, model: AlexNet, trained: nn.Module, world: World, precision: torch.dtype) -> Division:
    """The division that the recipe asks for; `trained` is the model, or the part of it that is trained."""
    if recipe.parallel == "data" or world.size == 1:
        net = world.normalised(trained)
        if recipe.compile:
            net = cast(nn.Module, torch.compile(net))
        return Division(model, world.wrap(net), world, precision)
    if recipe.parallel == "towers":
        from alexnet.training.parallel.towers import Towers

        return Towers(model, world, precision)
    from alexnet.training.parallel.hybrid import Hybrid

    return Hybrid(model, world, precision)
