"""How the network is divided among the processes that train it: what a run and the loop ask, and the usual answer.

A division says who reads which pictures and draws which masks, makes the gradients of the mean loss over everyone's
pictures, and gives the network and the optimiser's state whole where they are evaluated or saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from alexnet.base.distributed import World
from alexnet.data.loader import Batch
from alexnet.networks.layers import at_least_float32
from alexnet.networks.model import AlexNet

Masks = dict[str, Tensor]
Draw = Callable[[np.ndarray], Masks]  # the dropout masks of those rows of the batch, for whole layers
LossOf = Callable[[Tensor, slice], Tensor]  # logits of those of this process' pictures -> their losses' sum


class Division:
    """Every process has the whole network and its share of the pictures; gradients are summed (torch's DDP)."""

    def __init__(self, model: AlexNet, net: nn.Module, world: World, precision: torch.dtype) -> None:
        self.whole, self.part, self.net = model, model, net  # `part` is what this process updates
        self.world, self.readers, self.precision = world, world, precision
        self.weights: Mapping[str, Tensor] = {}  # leaves that stand for the parameters of those names in a step

    def sent(self) -> str:
        """What the processes have sent each other in steps, in words; "" where nothing is to be said. All call it."""
        return ""

    def agreed(self, batch: Batch) -> Batch:
        """The batch as it is trained on, once all processes know what each could read."""
        return batch

    def counted(self, batch: Batch) -> int:
        """How many of its pictures this process adds to loss and errors."""
        return len(batch.labels)

    def masks(self, draw: Draw, rows: np.ndarray) -> Masks:
        """What this process needs of the masks, with `rows` of the batch its own."""
        return draw(rows)

    def learn(
        self, images: Tensor, masks: Mapping[str, Tensor], loss_of: LossOf, everyone: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss of `everyone`'s pictures; the sum over this process' own, and their logits."""
        with self.autocast():
            given = (images, masks)
            logits = functional_call(self.net, dict(self.weights), given) if self.weights else self.net(*given)
        logits = at_least_float32(logits)
        loss = loss_of(logits, slice(None))
        # Processes' gradients are averaged: × size makes that their sum, ÷ everyone the mean over the whole batch.
        (loss * (self.world.size / everyone)).backward()
        return loss.detach(), logits.detach()

    def autocast(self) -> torch.autocast:
        low = self.precision not in (torch.float32, torch.float64)
        return torch.autocast(self.world.device.type, self.precision, enabled=low)

    def together(self) -> None:
        """Give `whole` what the processes' parts have learnt; all of them call it."""

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state as of one process alone; all of them call it."""
        return optimizer.state_dict()

    def load(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Give the optimiser this process' part of such a state."""
        optimizer.load_state_dict(dict(state))

    def total(self, names: list[str], squares: Tensor) -> Tensor:
        """Sums of squares of those weights' parts (weights, …) over all processes."""
        return squares
