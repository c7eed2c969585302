"""Two processes with a tower each, as the two GPUs of 2012 (paper §3.2, facts 9.1).

Both see the same pictures. Each has half of the kernels of every convolution, half of the units of every fully
connected layer, and the parameters of its own maps' normalisation; the last layer is the first process' alone.
Activations are exchanged where a layer sees both towers, and the gradients of what was sent come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.base.distributed import World
from alexnet.data.loader import Batch
from alexnet.networks import layers as own
from alexnet.networks import traffic
from alexnet.networks.model import AlexNet
from alexnet.training.parallel.division import Draw, LossOf, Masks
from alexnet.training.parallel.exchange import Exchange
from alexnet.training.parallel.parts import Cut, Cuts, Sharded, twin


class Towers(Sharded):
    """This process' tower, which the loop trains as if it were a network."""

    def __init__(self, model: AlexNet, world: World, precision: torch.dtype) -> None:
        self.talks = traffic.towers(model.variant, model.classes, model.channels, model.input)
        exchange = Exchange(world)
        part, cuts = _tower(model, world.rank, {talk.layer for talk in self.talks}, exchange)
        super().__init__(model, part, cuts, exchange, precision)
        self.net = part
        self.readers = World(0, 1, world.device)  # each reads all pictures

    def agreed(self, batch: Batch) -> Batch:
        """Without the pictures that either process could not read."""
        readable = torch.zeros(batch.size, dtype=torch.int64)
        readable[torch.from_numpy(batch.rows)] = 1
        both = (self.world.sum(readable)[torch.from_numpy(batch.rows)] == 2).numpy()
        if both.all():
            return batch
        at = torch.from_numpy(both)
        here = at.to(batch.labels.device)
        return replace(batch, pictures=batch.pictures[here], labels=batch.labels[here], rows=batch.rows[both])

    def counted(self, batch: Batch) -> int:
        """The first process, which alone has logits, counts for both."""
        return len(batch.labels) if self.world.first else 0

    def masks(self, draw: Draw, rows: np.ndarray) -> Masks:
        """Those of this tower's units."""
        halves = {}
        for name, mask in draw(rows).items():
            half = mask.shape[1] // 2
            halves[name] = mask[:, half * self.world.rank : half * (self.world.rank + 1)]
        return halves

    def learn(
        self, images: Tensor, masks: Mapping[str, Tensor], loss_of: LossOf, everyone: int
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward through both towers; losses are not averaged over the processes."""
        with self.autocast():
            logits = self.net(images, masks)
        logits = own.at_least_float32(logits)
        loss = loss_of(logits, slice(None))
        (loss / everyone).backward()
        return self.learnt(loss, logits, everyone)

    def sent(self) -> str:
        """Counted bytes a picture, beside those of data-parallel training."""
        each = self.counted_bytes() / max(1, self.pictures)
        data = traffic.FLOAT * traffic.data(*self.size, 2).all * self.steps / max(1, self.pictures)
        return (
            f"the two towers sent each other {each / 1000:,.0f} kB a picture; with parallel=data two processes send "
            f"{data / 1000:,.0f} kB"
        )


def _tower(whole: AlexNet, rank: int, seeing_both: set[str], exchange: Exchange) -> tuple[AlexNet, Cuts]:
    """One tower of the network, and how its weights are cut out of the whole ones'."""
    part = twin(whole)
    for name, layer in whole.named_layers():
        half = _half(layer)
        if name == whole.logits and isinstance(layer, nn.Linear):
            half = Silent(layer) if rank else nn.Linear(layer.in_features, layer.out_features, device="meta")
        if half is not None:
            part.add_module(name, half)
    cuts = {
        name: Cut(0, (len(x), 0) if name.startswith(f"{whole.logits}.") else (len(x) // 2, len(x) // 2))
        for name, x in [*whole.named_parameters(), *whole.named_buffers()]
        if x.dim() and name in dict(part.state_dict())
    }
    tensors = {name: cuts[name].part(x, rank) if name in cuts else x for name, x in whole.state_dict().items()}
    part.load_state_dict(tensors, assign=True)
    for name in seeing_both:
        layer, last = getattr(part, name), name == whole.logits
        if not (last and rank):
            layer.register_forward_pre_hook(lambda _, given, last=last: (both(given[0], exchange, last),))
        else:
            layer.exchange = exchange
    return part, cuts


def _half(layer: Any) -> nn.Module | None:
    """A layer of half the maps or units, without weights yet; None where it is none that halving changes."""
    if isinstance(layer, nn.Conv2d):
        groups = max(1, layer.groups // 2)
        inputs = layer.in_channels if layer.groups == 1 else layer.in_channels // 2
        numbers: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "groups": groups}
        return nn.Conv2d(inputs, layer.out_channels // 2, layer.kernel_size[0], **numbers, device="meta")
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features // 2, device="meta")
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(layer.num_features // 2, device=layer.weight.device, dtype=layer.weight.dtype)
    if isinstance(layer, own.LocalResponseNorm):
        channels = layer.band.shape[0] // 2
        made = own.LocalResponseNorm(channels, 1, layer.size, layer.alpha, layer.beta, layer.k)
        return made.to(layer.band.device, layer.band.dtype)
    return None


def both(x: Tensor, exchange: Exchange, to_first: bool = False) -> Tensor:
    """This tower's maps or units (N, own, …) with the other's beside them, in the towers' order."""
    rank = exchange.world.rank
    to, of = [0, 0], [0, 0]
    to[1 - rank] = 0 if to_first and not rank else x.numel()
    of[1 - rank] = 0 if to_first and rank else x.numel()
    flat = x.contiguous().flatten()
    other = exchange(flat if to[1 - rank] else flat[:0], to, of).view(x.shape)
    return own.laid_out_as(torch.cat([x, other] if not rank else [other, x], 1), x)


class Silent(nn.Module):
    """The second process' place of the last layer: it sends its units to the first and gives logits of zero."""

    exchange: Exchange

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.classes = whole.out_features
        self.weight = nn.Parameter(torch.empty(0, whole.in_features, device="meta"))
        self.bias = nn.Parameter(torch.empty(0, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        nothing = self.exchange(x.contiguous().flatten(), [x.numel(), 0], [0, 0])
        return F.pad(nothing.reshape(len(x), 0), (0, self.classes))
