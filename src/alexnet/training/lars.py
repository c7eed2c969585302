"""Large batches: layer-wise adaptive rates, LARS (You, Gitman, Ginsburg, arXiv 1708.03888), in the 2012 rule.

For the weights w of a layer and their mean gradient g, with rate γ, momentum m, decay β and trust coefficient η:

    λ = η·|w| / (|g| + β·|w|);  v <- m·v + γ·λ·(g + β·w);  w <- w - v

so that a step moves no layer by more than a share of its own length, whatever the batch makes of its gradient. λ is 1
where w or g is zero. Biases, which begin at zero, and the factors of batch normalisation keep the plain rule.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexnet.training.optimizer import Rule

Total = Callable[[list[str], Tensor], Tensor]


class Lars(Rule):
    """An optimiser's steps with the gradient of each layer's weights, decay included, scaled by the layer's λ.

    `total` makes sums of squares (weights, 2) of a process' parts of the named weights those of the whole.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, trust: float, model: nn.Module, total: Total) -> None:
        super().__init__(optimizer)
        self.trust, self.total = trust, total
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        for group in optimizer.param_groups:  # torch would add the decay after the scaling
            group["decay"], group["weight_decay"] = group.get("decay", group["weight_decay"]), 0.0

    @torch.no_grad()
    def __call__(self) -> None:
        """Scale the gradients, update every parameter that has one and is not frozen, and forget them."""
        moved = [(p, group["decay"]) for group in self.optimizer.param_groups if group["lr"] for p in group["params"]]
        scaled = [(p, decay) for p, decay in moved if p.dim() > 1]
        ratios: dict[Tensor, Tensor] = {}
        if scaled:
            lengths = [torch.stack([_square(p), _square(p[:0] if p.grad is None else p.grad)]) for p, _ in scaled]
            squares = self.total([self.names[p] for p, _ in scaled], torch.stack(lengths))
            w, g = squares.sqrt().unbind(1)
            decays = w.new_tensor([decay for _, decay in scaled])
            found = torch.where((w > 0) & (g > 0), self.trust * w / (g + decays * w), 1.0)
            ratios = dict(zip([p for p, _ in scaled], found.unbind(), strict=True))
        for p, decay in moved:
            if p.grad is not None:
                p.grad.add_(p, alpha=decay)
                if p in ratios:
                    p.grad.mul_(ratios[p])
        super().__call__()


def _square(x: Tensor) -> Tensor:
    return x.square().sum()
