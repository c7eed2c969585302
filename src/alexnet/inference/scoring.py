"""The probabilities of a network or an ensemble, over views, and how many of them are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data.pictures import Square
from alexnet.data.preprocess import Preprocess
from alexnet.weights.classifier import Engine, check_names

VIEWS, TIES = (1, 9, 10), ("first", "fraction")
PLACES = 5  # of top-5 error
PreprocessKey = tuple[torch.Size, Square]  # Preprocess.key


@dataclass(frozen=True)
class Member:
    """A network of an ensemble: its preprocessing, its outputs' columns in the order of the labels, its engine.

    `classes` is how many names its outputs have; 0 leaves that alone."""

    model: nn.Module
    preprocess: Preprocess
    columns: Tensor | None = None
    engine: Engine | None = None
    classes: int = 0

    def logits(self, crops: Tensor, autocast: torch.dtype = torch.float32) -> Tensor:
        """Logits float32 (n, classes) of crops (n, C, input, input) of any type, as they were cut."""
        found = self._logits(crops, autocast)
        if self.classes:
            check_names(found.shape[1], self.classes)
        return found

    def _logits(self, crops: Tensor, autocast: torch.dtype) -> Tensor:
        if self.engine is not None:
            return self.engine.logits(crops.cpu()).to(crops.device)
        # A classifier that was loaded before stays where it is, whichever device the pictures are on.
        where = next(self.model.parameters(), crops).device
        images = self.preprocess.normalise(crops.to(where)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(where.type, autocast, enabled=autocast != torch.float32):
            return self.model(images).float().to(crops.device)


@dataclass(frozen=True)
class Scoring:
    """How answers are counted: views a picture, each model's weight in an ensemble (None: equal), and ties."""

    views: int = 1
    weights: Sequence[float] | None = None
    ties: str = "first"

    def checked(self, models: int) -> Scoring:
        """The same, or an error that names what does not fit."""
        if self.views not in VIEWS:
            raise AlexNetError(f"views was given {self.views}; it takes {', '.join(map(str, VIEWS))}.")
        if self.ties not in TIES:
            raise AlexNetError(f"ties was given '{self.ties}'; it takes {' or '.join(TIES)}.")
        if self.weights is not None and len(self.weights) != models:
            raise AlexNetError(
                f"{counted(len(self.weights), 'weight')} for {counted(models, 'model')}; give one for each."
            )
        if self.weights is not None and not (min(self.weights) >= 0 < sum(self.weights) < math.inf):
            raise AlexNetError(
                f"weights were given {', '.join(map(str, self.weights))}; give numbers from 0 up, one of them above 0."
            )
        return self

    def shares(self, models: int) -> Sequence[float]:
        """Each model's weight."""
        return [1 / models] * models if self.weights is None else self.weights


ONE_VIEW = Scoring()


def log_probabilities(
    members: Sequence[Member],
    shares: Sequence[float],
    by_key: Mapping[PreprocessKey, Tensor],
    views: int,
    autocast: torch.dtype = torch.float32,
) -> Tensor:
    """Logarithms of the ensemble's probabilities, averaged over views: float32 (n, classes).

    `shares` count as parts of their sum; a network whose share is 0 is not asked.
    """
    total: Tensor | None = None
    for member, share in zip(members, shares, strict=True):
        if not share:
            continue
        part = math.log(share) - math.log(sum(shares)) - math.log(views)  # quotients may be too small for a float
        preprocess = member.preprocess
        whole = by_key[preprocess.key]
        for crop in preprocess.views(whole, views):
            logits = member.logits(crop, autocast)
            if member.columns is not None:
                logits = logits[:, member.columns.to(logits.device)]
            # Probabilities would be 0 where their logarithm is below -104, and the loss infinite.
            found = logits.log_softmax(1) + part
            total = found if total is None else torch.logaddexp(total, found)
    return cast(Tensor, total)


def count(log_probabilities: Tensor, labels: Tensor, ties: str = "first") -> Tensor:
    """Pictures, wrong in the first place, not among the first five, summed loss: float64 (4,) on the same device.

    Takes (n, classes) and (n,). Tied scores go to the class that torch.topk puts first, or with `fraction` share the
    places that are left for them: with two best scores the label counts half (docs/facts.md 2.9).
    """
    # float64 only where the device has it: Apple's GPUs do not.
    wide = torch.float32 if labels.device.type == "mps" else torch.float64
    if ties == "fraction":
        own = log_probabilities.gather(1, labels[:, None])
        # What is no number is above all, as torch.topk has it.
        above, tied = (~(log_probabilities <= own)).sum(1), (log_probabilities == own).sum(1).to(wide)
        right = torch.stack([((k - above) / tied.clamp(min=1)).clamp(0, 1).sum() for k in (1, PLACES)])
    else:
        top = log_probabilities.topk(min(PLACES, log_probabilities.shape[1]), dim=1).indices
        hit = top == labels[:, None]
        right = torch.stack([hit[:, 0].sum(), hit.any(1).sum()]).to(wide)
    loss = F.nll_loss(log_probabilities, labels, reduction="none").to(wide).sum()
    n = torch.full((1,), len(labels), dtype=wide, device=labels.device)
    return torch.cat([n, n - right[:1], n - right[1:], loss[None]])
