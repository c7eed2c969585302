"""What happens to a picture before the network sees it; stored with the weights, so no command has to ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.base.device import send
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import SQUARES
from alexnet.base.text import printable
from alexnet.data.pictures import Source, Square, Unreadable, decode, stored


@dataclass(frozen=True)
class Preprocess:
    """A square of `stored` pixels, central `input` crop, minus the mean's crop, divided by `scale`.

    Pixels are 0-255 in the order `order` (RGB, or L for gray). The mean image is float32 (C, stored, stored), its
    central crop being subtracted from every crop wherever that lies (facts.md 5.2), or (C, 1, 1) for a mean colour.
    `scale` holds one divisor, or one for each channel. `square` is how a picture becomes a square: crop, squash or
    torchvision (data/pictures.py).
    """

    stored: int
    input: int
    order: str
    scale: tuple[float, ...]
    mean: Tensor
    square: str = "crop"

    @property
    def channels(self) -> int:
        return self.mean.shape[0]

    @property
    def shape(self) -> torch.Size:
        """Of a stored picture."""
        return torch.Size((self.channels, self.stored, self.stored))

    @property
    def border(self) -> int:
        """The largest crop offset."""
        return self.stored - self.input

    @property
    def low(self) -> int:
        """The central crop's offset."""
        return round(self.border / 2) if self.square == "torchvision" else self.border // 2

    @property
    def squared(self) -> Square:
        """What makes squares of pictures."""
        return Square.of(self.square, self.input)

    @property
    def key(self) -> tuple[torch.Size, Square]:
        """What stored pictures must have in common to be the same: their shape, and how they became squares."""
        return self.shape, self.squared

    def pixels(self, picture: Source) -> Tensor:
        """uint8 (C, stored, stored) of a file, bytes, PIL image, array (H, W[, C]) or tensor (C, H, W)."""
        return torch.from_numpy(stored(decode(picture, self.channels), self.stored, self.squared))

    def central(self, pictures: Tensor) -> Tensor:
        """The central crop: (…, stored, stored) -> (…, input, input)."""
        low = self.low
        return pictures[..., low : low + self.input, low : low + self.input]

    def ten(self, pictures: Tensor) -> Iterator[Tensor]:
        """The paper's ten views (§4.1, docs/facts.md 6): four corners and the centre, then their mirror images.

        (n, C, stored, stored) -> ten of (n, C, input, input). Where stored and input are equal, the corners are those
        of the picture enlarged by 8/7.
        """
        border = self.border
        if not border:
            side = round(self.input * 8 / 7)
            border = side - self.input
            pictures = F.interpolate(pictures.float(), size=(side, side), mode="bilinear", antialias=True)
        low = self.low if border == self.border else border // 2
        places = [(0, 0), (0, border), (low, low), (border, 0), (border, border)]
        for mirrored in (False, True):
            for y, x in places:
                crop = pictures[..., y : y + self.input, x : x + self.input]
                yield crop.flip(-1) if mirrored else crop

    def views(self, pictures: Tensor, count: int) -> Iterable[Tensor]:
        """1: the central crop; 10: the paper's; 9: the crops at offsets 0, half and all of the border, either way, not
        mirrored, with which the author tested his CIFAR-10 nets (docs/facts.md 8)."""
        if count == 10:
            return self.ten(pictures)
        if count == 1:
            return [self.central(pictures)]
        places = (0, self.low, self.border)
        return (pictures[..., y : y + self.input, x : x + self.input] for y in places for x in places)

    def subtract(self, crops: Tensor) -> Tensor:
        """Crops (n, C, input, input) of any type minus the mean image's central crop: float32 grey levels."""
        mean = self.mean if self.mean.shape[-1] == 1 else self.central(self.mean)
        return crops.float() - mean.to(crops.device)

    def divide(self, crops: Tensor) -> Tensor:
        """Float crops (n, C, input, input) divided by the scale."""
        if len(self.scale) == 1:
            return crops / self.scale[0]
        return crops / send(torch.tensor(self.scale), crops.device).reshape(-1, 1, 1)

    def normalise(self, crops: Tensor) -> Tensor:
        """Crops (n, C, input, input) of any type as the network takes them: minus the mean, divided by the scale."""
        return self.divide(self.subtract(crops))

    def __call__(self, picture: Source) -> Tensor:
        """One picture, ready for the network but for the batch dimension: float32 (C, input, input).

        It may be what `pixels` takes. Raises AlexNetError for what is no picture that can be read.
        """
        try:
            return self.seen(picture)
        except Unreadable as error:
            if isinstance(picture, str | Path):
                said = f"{printable(str(picture))} cannot be read ({error}); give another picture."
                raise Unreadable(said) from None
            raise

    def seen(self, picture: Source) -> Tensor:
        """The same, but that an error does not name the file."""
        return self.normalise(self.central(self.pixels(picture))[None])[0]

    def facts(self) -> dict[str, Any]:
        """Everything but the mean, as plain data; `square` only where it is not crop, as before there was a choice."""
        facts = {"stored": self.stored, "input": self.input, "order": self.order, "scale": list(self.scale)}
        return facts if self.square == "crop" else {**facts, "square": self.square}

    @classmethod
    def from_facts(cls, facts: dict[str, Any], mean: Tensor) -> Preprocess:
        """Raises KeyError, TypeError and ValueError."""
        scale, square = tuple(float(s) for s in facts["scale"]), facts.get("square", "crop")
        if square not in SQUARES:
            raise ValueError(f"square is {square!r}, not {' or '.join(SQUARES)}")
        return cls(int(facts["stored"]), int(facts["input"]), str(facts["order"]), scale, mean, square)


def check_sizes(stored: int, input: int) -> None:
    """Refuse a crop that is larger than the stored picture."""
    if input > stored:
        raise AlexNetError(
            f"input {input} is larger than the stored size {stored}; set stored to {input} or more, for example "
            f"--set stored={-(-input * 8 // 7)}."
        )
