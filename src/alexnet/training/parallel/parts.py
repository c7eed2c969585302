"""Weights of which each process has a part: cut from whole ones, and put together again for files and evaluation."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.base.distributed import World
from alexnet.networks.layers import laid_out_as
from alexnet.networks.model import AlexNet
from alexnet.training.parallel.division import Division
from alexnet.training.parallel.exchange import Exchange


@dataclass(frozen=True)
class Cut:
    """Along which dimension a tensor is cut, and how much of it each process has, in order of rank."""

    dim: int
    lengths: tuple[int, ...]

    def part(self, whole: Tensor, rank: int) -> Tensor:
        """A copy of one process' part."""
        return whole.detach().narrow(self.dim, sum(self.lengths[:rank]), self.lengths[rank]).clone()

    def joined(self, part: Tensor, world: World) -> Tensor:
        """The whole, in every process, of each one's part."""
        shape = list(part.shape)
        row = math.prod(shape[: self.dim] + shape[self.dim + 1 :])
        numbers = [row * length for length in self.lengths]
        flat = part.detach().contiguous().flatten()
        everyones = world.exchange(flat.repeat(world.size), [len(flat)] * world.size, numbers)
        parts = []
        for piece, length in zip(everyones.split(numbers), self.lengths, strict=True):
            parts.append(piece.view([*shape[: self.dim], length, *shape[self.dim + 1 :]]))
        return laid_out_as(torch.cat(parts, self.dim), part) if part.dim() == 4 else torch.cat(parts, self.dim)


Cuts = Mapping[str, Cut]  # by the names of weights, biases and statistics; of others every process has all


def twin(whole: AlexNet) -> AlexNet:
    """A network of the same layers, any of which may then be replaced without touching the other."""
    other = copy.copy(whole)
    other._modules = dict(whole._modules)
    return other


def fill(whole: AlexNet, part: AlexNet, cuts: Cuts, world: World) -> None:
    """Give the whole network, in every process, what its parts have."""
    there = part.state_dict()
    for name, tensor in whole.named_buffers():
        if name in there:
            tensor.copy_(cuts[name].joined(there[name], world) if name in cuts else there[name])
    for name, parameter in whole.named_parameters():
        if name in cuts:
            parameter.data = cuts[name].joined(there[name], world)


def empty(whole: AlexNet, cuts: Cuts) -> None:
    """Free the memory of the whole's weights that are cut, until it is filled again."""
    for name, parameter in whole.named_parameters():
        if name in cuts:
            parameter.data = parameter.data.new_empty(0)


def names_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names of an optimiser's parameters in the order in which its state numbers them."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def joined_state(optimizer: torch.optim.Optimizer, part: AlexNet, cuts: Cuts, world: World) -> dict[str, Any]:
    """The state of the optimiser of the whole network, in every process, as one process alone would have it."""
    state = optimizer.state_dict()
    names, parameters = names_of(optimizer, part), dict(part.named_parameters())
    there = world.sum(torch.tensor([float(_velocity(state, i) is not None) for i in range(len(names))]))
    velocities = {}
    for number, name in enumerate(names):
        if not there[number]:
            continue
        velocity = _velocity(state, number)
        if velocity is None:  # a part of no units, which is never updated
            velocity = torch.zeros_like(parameters[name])
        whole = cuts[name].joined(velocity, world) if name in cuts else velocity
        velocities[number] = {"momentum_buffer": whole}
    return {**state, "state": velocities}


def cut_state(state: Mapping[str, Any], names: list[str], cuts: Cuts, rank: int) -> dict[str, Any]:
    """This process' part of the state of the whole network's optimiser."""
    parts: dict[int, dict[str, Any]] = {}
    for number, name in enumerate(names):
        velocity = _velocity(state, number)
        if velocity is not None:
            parts[number] = {"momentum_buffer": cuts[name].part(velocity, rank) if name in cuts else velocity}
    return {**state, "state": parts}


def _velocity(state: Mapping[str, Any], number: int) -> Tensor | None:
    return state["state"].get(number, {}).get("momentum_buffer")


class Sharded(Division):
    """Each process has a part of the weights, and the whole only while it is evaluated or saved."""

    def __init__(self, whole: AlexNet, part: AlexNet, cuts: Cuts, exchange: Exchange, precision: torch.dtype) -> None:
        super().__init__(whole, part, exchange.world, precision)
        self.part, self.cuts, self.filled, self.exchange = part, cuts, True, exchange
        self.steps = self.pictures = 0
        self.size = whole.variant, whole.classes, whole.channels, whole.input  # as `traffic` asks for it

    def learnt(self, loss: Tensor, logits: Tensor, everyone: int) -> tuple[Tensor, Tensor]:
        """What `learn` gives, after it: the whole is no longer what the parts are."""
        self.steps, self.pictures = self.steps + 1, self.pictures + everyone
        if self.filled:
            empty(self.whole, self.cuts)
            self.filled = False
        for parameter in self.part.parameters():
            if not parameter.numel():  # of no units
                parameter.grad = None
        return loss.detach(), logits.detach()

    def together(self) -> None:
        if not self.filled:
            fill(self.whole, self.part, self.cuts, self.world)
            self.filled = True

    def counted_bytes(self) -> int:
        """What all processes have sent of activations and their gradients."""
        return int(self.world.sum(torch.tensor(self.exchange.bytes)))

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return joined_state(optimizer, self.part, self.cuts, self.world)

    def load(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        optimizer.load_state_dict(cut_state(state, names_of(optimizer, self.part), self.cuts, self.world.rank))

    def total(self, names: list[str], squares: Tensor) -> Tensor:
        cut = torch.tensor([name in self.cuts for name in names], device=squares.device)[:, None]
        return torch.where(cut, self.world.sum(torch.where(cut, squares, 0.0)), squares)
