"""What is done to training pictures, as a list of named steps in their order; a recipe switches them (docs/facts.md 5).

crops or boxes, then further ones in grey levels, mean, colour, scale, and further ones on what the network sees. A
further step is a function under `further`: a recipe's key `augment` names it, and nothing else needs to know it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from alexnet.base.device import send
from alexnet.base.errors import AlexNetError, did_you_mean
from alexnet.data import augment, augment_fast
from alexnet.data.preprocess import Preprocess


class Switches(Protocol):
    """The keys of a recipe that act here."""

    @property
    def crops(self) -> bool: ...
    @property
    def crop_area(self) -> float: ...
    @property
    def chunk(self) -> int: ...
    @property
    def flips(self) -> bool: ...
    @property
    def augment(self) -> str: ...


@dataclass(frozen=True)
class Part:
    """One process' rows of a batch of `count` pictures, and the key of the batch's draws: seed, epoch, step."""

    rows: np.ndarray
    count: int
    key: tuple[int, int, int]


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a part, and the colours' axes: None where there is no noise."""

    preprocess: Preprocess
    draws: augment.Draws
    boxes: Tensor | None
    axes: Tensor | None
    noise: float


class Dice:
    """Random numbers for a part's pictures, drawn for the whole batch: the number of processes changes none."""

    def __init__(self, part: Part, number: int, device: torch.device) -> None:
        self.part, self.device = part, device
        self.source = augment.generator(*part.key, augment.FURTHER, number)

    def uniform(self, *shape: int) -> Tensor:
        """From 0 to 1: (pictures, *shape), other numbers at each call."""
        whole = torch.rand(self.part.count, *shape, generator=self.source)
        return send(whole[torch.from_numpy(self.part.rows)], self.device)


@dataclass(frozen=True)
class Further:
    """A step that a recipe adds by name: what it does, by how much where nothing is said, and where it stands."""

    act: Callable[[Tensor, float, Dice], Tensor]
    meaning: str
    amount: float
    most: float
    last: bool  # after the scale, where 0 is the mean; else in grey levels, 0 to 255


NAMED: dict[str, Further] = {}


def further(meaning: str, amount: float, most: float = 1.0, last: bool = False) -> Callable[[Callable], Callable]:
    """List a function of (pictures float (n, C, h, w), amount, dice) that gives the same shape."""

    def add(act: Callable) -> Callable:
        NAMED[act.__name__] = Further(act, meaning, amount, most, last)
        return act

    return add


@further("share of the pictures that lose their colours", 0.1)
def gray(pictures: Tensor, amount: float, dice: Dice) -> Tensor:
    """Pillow's gray in every channel."""
    if pictures.shape[1] == 1:
        return pictures
    weights = send(torch.tensor([0.299, 0.587, 0.114]), pictures.device)
    plain = (pictures * weights[:, None, None]).sum(1, keepdim=True).expand_as(pictures)
    return torch.where(dice.uniform(1, 1, 1) < amount, plain, pictures)


@further("most that a picture gets brighter or darker by, as a share of its light", 0.2)
def brightness(pictures: Tensor, amount: float, dice: Dice) -> Tensor:
    """Each picture times a number from 1 - amount to 1 + amount, 255 at most."""
    return (pictures * (1 + amount * (2 * dice.uniform(1, 1, 1) - 1))).clamp(max=255)


@further("share of the pictures that lose a square, of a quarter to half their side, to the mean", 0.25, last=True)
def erase(pictures: Tensor, amount: float, dice: Dice) -> Tensor:
    """Zhong et al. 2017, with squares; they lie anywhere inside."""
    size = pictures.shape[-1]
    chosen, side, top, left = dice.uniform(4).unbind(1)
    side = ((0.25 + 0.25 * side) * size).round()
    at = torch.arange(size, device=pictures.device)
    first = (torch.stack([top, left], 1) * (size - side + 1)[:, None]).floor()[:, :, None]
    inside = (at >= first) & (at < first + side[:, None, None])  # (n, 2, size): of rows, of columns
    hole = inside[:, 0, :, None] & inside[:, 1, None, :] & (chosen < amount)[:, None, None]
    return pictures.masked_fill(hole[:, None], 0.0)


@lru_cache
def named(text: str) -> tuple[tuple[str, float], ...]:
    """The further steps of a recipe's key `augment`, NAME or NAME=AMOUNT with commas, and their amounts."""
    steps: list[tuple[str, float]] = []
    for word in filter(None, (one.strip() for one in text.split(","))):
        name, _, given = word.partition("=")
        if name not in NAMED:
            raise AlexNetError(
                f"recipe key augment was given '{name:.60}', which is none of its steps{did_you_mean(name, NAMED)} "
                f"It takes {listed()}."
            )
        try:
            amount = float(given) if given else NAMED[name].amount
        except ValueError:
            amount = -1.0
        if not 0 < amount <= NAMED[name].most or name in dict(steps):
            raise AlexNetError(
                f"recipe key augment was given '{word}'; it takes {name}=AMOUNT once, the amount more than 0 and "
                f"{NAMED[name].most:g} at most."
            )
        steps.append((name, amount))
    return tuple(steps)


def listed() -> str:
    """The further steps in words, with the amounts that they have where none is given."""
    return "; ".join(f"{name}={one.amount:g} ({one.meaning})" for name, one in NAMED.items())


Step = tuple[str, Callable[[Tensor], Tensor]]


def steps(recipe: Switches, part: Part, drawn: Drawn, device: torch.device) -> list[Step]:
    """What a recipe does to this part's pictures: the steps by name, in their order."""
    own = drawn.preprocess
    first: Step = ("crops", lambda x: augment.crop_and_mirror(x, drawn.draws, own.input))
    if drawn.boxes is not None:
        boxes = drawn.boxes
        first = ("boxes", lambda x: augment.crop_boxes(x, boxes, drawn.draws.mirror, own.input))
    found = [first, *_further(recipe, part, device, last=False), ("mean", own.subtract)]
    if drawn.axes is not None:
        axes = drawn.axes
        found.append(("colour", lambda x: augment.add_colour(x, drawn.draws, axes, drawn.noise)))
    return [*found, ("scale", own.divide), *_further(recipe, part, device, last=True)]


def _further(recipe: Switches, part: Part, device: torch.device, last: bool) -> list[Step]:
    def made(name: str, amount: float, number: int) -> Step:
        return name, lambda x: NAMED[name].act(x.float(), amount, Dice(part, number, device))

    chosen = enumerate(named(recipe.augment))
    return [made(name, amount, number) for number, (name, amount) in chosen if NAMED[name].last == last]


def draw(
    recipe: Switches, part: Part, preprocess: Preprocess, deviations: Tensor, axes: Tensor, noise: float,
    device: torch.device,
) -> Drawn:  # fmt: skip
    """Crops or boxes, mirrors and colour shifts, drawn for the whole batch, of this part's rows."""
    source = augment.generator(*part.key, augment.CROPS)
    border = preprocess.border if recipe.crops else 0
    whole = augment.draw(part.count, border, recipe.flips, noise * deviations, source, recipe.chunk)
    draws, boxes = whole.take(part.rows, device), None
    if not recipe.crops:
        draws.offsets.fill_(preprocess.low)
    if recipe.crops and recipe.crop_area < 1:
        boxes = augment.draw_boxes(part.count, preprocess.stored, recipe.crop_area, source)[part.rows]
        boxes = send(boxes, device)
    return Drawn(preprocess, draws, boxes, send(axes, device) if noise else None, noise)


def augmented(
    pictures: Tensor, recipe: Switches, part: Part, drawn: Drawn, precision: torch.dtype = torch.float32
) -> Tensor:
    """Stored pictures uint8 (n, C, S, S) as the network takes them in training: the steps, some of them in one pass."""
    todo = steps(recipe, part, drawn, pictures.device)
    images, at_once = None, augment_fast.fused_steps([name for name, _ in todo])
    if at_once:
        images = augment_fast.augmented(pictures, drawn.draws, drawn.preprocess, drawn.axes, drawn.noise, precision)
    images, rest = (pictures, todo) if images is None else (images, todo[at_once:])
    for _, act in rest:
        images = act(images)
    return images
