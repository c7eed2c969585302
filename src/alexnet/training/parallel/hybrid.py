"""Convolutions by pictures, fully connected layers by units ("one weird trick", arXiv 1404.5997, facts 9.2).

Each process has the weights from its own units to all of the next layer. Its part of the next layer's sums goes to
those that have the units, to be added up there; the last layer's to those that have the pictures. The other way round,
weights to its own units, which the paper describes, needs all units below in every process: of the last maps of
alexnet2012 that is eight times as much for eight processes (`traffic.hybrid`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.base.distributed import World
from alexnet.data.loader import Batch
from alexnet.networks import traffic
from alexnet.networks.layers import at_least_float32
from alexnet.networks.model import AlexNet
from alexnet.training.parallel.division import Draw, LossOf, Masks
from alexnet.training.parallel.exchange import Exchange
from alexnet.training.parallel.parts import Cut, Cuts, Sharded, twin

ROOM = 2**30  # bytes of activations of the fully connected layers at once


class Hybrid(Sharded):
    """The whole convolutions, and this process' part of the fully connected layers."""

    def __init__(self, model: AlexNet, world: World, precision: torch.dtype, scheme: str = "") -> None:
        layers = traffic.split_layers(model.variant)
        exchange = Exchange(world)
        part, cuts = _cut(model, [layer.name for layer in layers], world, exchange)
        super().__init__(model, part, cuts, exchange, precision)
        self.scheme = scheme
        self.rows: list[Tensor] = []  # of the batch, by process
        self.net = world.wrap(Below(part))
        names = [name for name, _ in part.named_layers()]
        self.above = names[names.index("flatten") + 1 : names.index(part.logits) + 1]

    def agreed(self, batch: Batch) -> Batch:
        """Notes which process has which pictures of the batch."""
        owner = torch.zeros(batch.size, dtype=torch.int64)
        owner[torch.from_numpy(batch.rows)] = self.world.rank + 1
        owner = self.world.sum(owner)
        self.rows = [(owner == rank + 1).nonzero().flatten() for rank in range(self.world.size)]
        return batch

    def masks(self, draw: Draw, rows: np.ndarray) -> Masks:
        """Below, those of its own pictures; above, those of all pictures and its own units."""
        found = draw(rows) if set(self.whole.dropouts) - set(self.above) else {}
        if above := set(self.whole.dropouts) & set(self.above):
            everyones = draw(torch.cat(self.rows).numpy())
            for name in above:
                units = traffic.share(everyones[name].shape[1], self.world.rank, self.world.size)
                found[name] = everyones[name][:, units.start : units.stop]
        return found

    def learn(
        self, images: Tensor, masks: Mapping[str, Tensor], loss_of: LossOf, everyone: int
    ) -> tuple[Tensor, Tensor]:
        """The convolutions forward, the fully connected layers forward and backward turn by turn, and the way back."""
        counts = [len(rows) for rows in self.rows]
        with self.autocast():
            maps = self.net(images, {name: mask for name, mask in masks.items() if name not in self.above})
        leaf = maps.detach().requires_grad_()
        losses, logits = [], []
        for turn in turns(self.scheme or cheapest(self.part, sum(counts)), counts):
            mine = slice(turn[self.world.rank].start, turn[self.world.rank].stop)
            with self.autocast():
                answers = at_least_float32(self._answers(leaf[mine], turn, counts, masks))
            loss = loss_of(answers, mine)
            (loss / everyone).backward()
            losses.append(loss.detach())
            logits.append(answers.detach())
        gradient = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        maps.backward(gradient * self.world.size)  # as those of the convolutions are averaged over the processes
        return self.learnt(torch.stack(losses).sum(), torch.cat(logits), everyone)

    def sent(self) -> str:
        """Counted bytes a step for the fully connected layers, beside those of data-parallel training."""
        each = self.counted_bytes() / max(1, self.steps)
        data = traffic.data(*self.size, self.world.size)
        return (
            f"for the fully connected layers the {self.world.size} processes sent {each / 1e6:,.2f} MB a step, with "
            f"parallel=data {traffic.FLOAT * data.connected / 1e6:,.2f} MB; for the convolutions either way "
            f"{traffic.FLOAT * data.convolutions / 1e6:,.2f} MB"
        )

    def _answers(self, maps: Tensor, turn: list[range], counts: list[int], masks: Mapping[str, Tensor]) -> Tensor:
        """This process' maps (own pictures of the turn, all) -> logits of those pictures, with the others' help."""
        first = np.cumsum([0, *counts])
        at = torch.cat([torch.arange(first[r] + one.start, first[r] + one.stop) for r, one in enumerate(turn)])
        x = to_units(maps, [len(one) for one in turn], self.exchange)
        for name in self.above:
            layer: Any = getattr(self.part, name)
            if isinstance(layer, SplitLinear):
                x = layer(x, [len(one) for one in turn])
            else:
                x = layer(x, masks[name][at.to(x.device)]) if name in masks else layer(x)
        return x


def turns(scheme: str, counts: list[int]) -> list[list[range]]:
    """Which of its pictures each process gives in each turn: in scheme a all at once, in b one process after the
    other, in c an equal share of everyone's."""
    size = len(counts)
    if scheme == "a":
        return [[range(count) for count in counts]]
    if scheme == "b":
        return [[range(count if rank == turn else 0) for rank, count in enumerate(counts)] for turn in range(size)]
    return [[traffic.share(count, turn, size) for count in counts] for turn in range(size)]


def cheapest(part: AlexNet, pictures: int) -> str:
    """The cheapest of the paper's three schemes that fits. All send as much, in one round (a), or in as many as there
    are processes with a share of the memory (b, c), of which c keeps every process sending and b one at a time."""
    widths = [layer.out_features for layer in part.children() if isinstance(layer, SplitLinear)]
    needed = 4 * pictures * 3 * sum(widths)  # sums as they are made, as they are sent, and their gradients
    return "a" if needed <= ROOM else "c"


class Below(nn.Module):
    """The layers before the first fully connected one, as a module whose gradients are summed over the processes."""

    part: AlexNet

    def __init__(self, part: AlexNet) -> None:
        super().__init__()
        for name, layer in part.named_children():
            if name == "flatten":
                break
            self.add_module(name, layer)
        object.__setattr__(self, "part", part)  # which is no child: its other layers' weights are none of this one's

    def forward(self, x: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        return self.part(x, masks, until="flatten")


def to_units(x: Tensor, counts: list[int], exchange: Exchange) -> Tensor:
    """Of own pictures all units -> of all pictures own units, in order of the processes."""
    world, units = exchange.world, x.shape[1]
    widths = [len(traffic.share(units, rank, world.size)) for rank in range(world.size)]
    pieces = torch.cat([piece.reshape(-1) for piece in x.split(widths, 1)])
    to = [len(x) * width for width in widths]
    mine = widths[world.rank]
    return exchange(pieces, to, [count * mine for count in counts]).view(-1, mine)


class SplitLinear(nn.Module):
    """A fully connected layer whose weights (units, own inputs) and biases (own units) are this process' part.

    Takes its own units of all pictures (N, own inputs), gives its own units of all (N, own units), or, as the
    `last` layer, all units of its own pictures.
    """

    def __init__(self, whole: nn.Linear, rank: int, size: int, last: bool, exchange: Exchange) -> None:
        super().__init__()
        self.in_features, self.out_features, self.last, self.exchange = (
            whole.in_features, whole.out_features, last, exchange,
        )  # fmt: skip
        self.own = traffic.share(whole.out_features, rank, size)
        self.widths = [len(traffic.share(whole.out_features, r, size)) for r in range(size)]
        inputs = len(traffic.share(whole.in_features, rank, size))
        self.weight = nn.Parameter(torch.empty(whole.out_features, inputs, device="meta"))
        self.bias = nn.Parameter(torch.empty(len(self.own), device="meta"))

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        bias = F.pad(self.bias, (self.own.start, self.out_features - self.own.stop))  # added once, by its owner
        sums, world = F.linear(x, self.weight, bias), self.exchange.world
        if self.last:
            pieces, to = sums.reshape(-1), [count * self.out_features for count in counts]
        else:
            pieces = torch.cat([piece.reshape(-1) for piece in sums.split(self.widths, 1)])
            to = [len(x) * width for width in self.widths]
        each = to[world.rank]
        found = self.exchange(pieces, to, [each] * world.size).view(world.size, each)
        whole = at_least_float32(found).sum(0).to(sums.dtype)
        return whole.view(-1, self.out_features) if self.last else whole.view(-1, len(self.own))


def _cut(whole: AlexNet, names: list[str], world: World, exchange: Exchange) -> tuple[AlexNet, Cuts]:
    """The network with this process' parts in the place of its fully connected layers."""
    part, cuts = twin(whole), {}
    for name in names:
        layer: Any = getattr(whole, name)
        split = SplitLinear(layer, world.rank, world.size, name == whole.logits, exchange)
        for kind, dim in (("weight", 1), ("bias", 0)):
            tensor = getattr(layer, kind)
            lengths = tuple(len(traffic.share(tensor.shape[dim], r, world.size)) for r in range(world.size))
            cuts[f"{name}.{kind}"] = Cut(dim, lengths)
            setattr(split, kind, nn.Parameter(cuts[f"{name}.{kind}"].part(tensor, world.rank)))
        part.add_module(name, split)
    return part, cuts
