"""Augmentation as pure functions of batches and draws, on whatever device the pictures are (paper §4.1, facts.md 5).

Draws are made for the whole batch, on the CPU for crops, flips and colours, from a generator seeded by (seed, epoch,
step): every process draws the same and takes its rows, so the number of processes changes no picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.base.device import send

CROPS, DROPOUT, FURTHER = 1, 2, 3  # kinds of draw, parts of their keys; FURTHER are those of augmentations.py


@dataclass(frozen=True)
class Draws:
    """For n pictures: crop offsets (y, x) int64 (n, 2), whether to mirror bool (n,), colour shifts float (n, C)."""

    offsets: Tensor
    mirror: Tensor
    colour: Tensor

    def take(self, rows: np.ndarray, device: torch.device) -> Draws:
        """The draws of some rows, on a device."""
        index = torch.from_numpy(rows)
        return Draws(*(send(x[index], device) for x in (self.offsets, self.mirror, self.colour)))

    def shifts(self, axes: Tensor) -> Tensor:
        """What is added to each picture, float (n, C): its colour shifts along the axes (C, C).

        No matrix product: on some CPUs a row's last bits would depend on how many rows there are, so on the processes.
        """
        return (self.colour[:, :, None] * axes).sum(1)


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a key of whole numbers from 0."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed) >> 1)


def draw(count: int, border: int, mirror: bool, colour_std: Tensor, source: torch.Generator, chunk: int = 1) -> Draws:
    """Uniform offsets 0..border, mirror with probability 1/2, and per colour axis N(0, colour_std²).

    `chunk` pictures in a row share offset and mirror (32 in 2012, docs/facts.md 5.3); colours are each picture's own.
    """
    chunk = min(chunk, max(1, count))
    groups = -(-count // chunk)
    offsets = torch.randint(0, border + 1, (groups, 2), generator=source).repeat_interleave(chunk, 0)[:count]
    coin = (torch.rand(groups, generator=source) < 0.5).repeat_interleave(chunk)[:count]
    colour = torch.randn(count, len(colour_std), generator=source) * colour_std
    return Draws(offsets, coin & mirror, colour)


def crop_and_mirror(pictures: Tensor, draws: Draws, size: int) -> Tensor:
    """A size × size window of each picture at its offset, mirrored where drawn: (n, C, S, S) -> (n, C, size, size)."""
    span = torch.arange(size, device=pictures.device)
    y = draws.offsets[:, :1] + span  # (n, size)
    x = draws.offsets[:, 1:] + torch.where(draws.mirror[:, None], span.flip(0), span)
    picture = torch.arange(len(pictures), device=pictures.device)
    # Indices apart from each other put C last: the result is channels_last without a copy.
    return pictures[picture[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def draw_boxes(count: int, stored: int, least: float, source: torch.Generator) -> Tensor:
    """Boxes of a share of the picture's area, uniform from `least` to 1, of a width ÷ height from 3/4 to 4/3.

    float (count, 4): top, left, height and width in pixels, within `stored` x `stored`; one that does not fit is
    drawn again, at most ten times, then it is the whole picture, as torchvision does.
    """
    boxes = torch.tensor([0.0, 0.0, stored, stored]).repeat(count, 1)
    todo = torch.ones(count, dtype=torch.bool)
    for _ in range(10):
        area, shape, y, x = torch.rand(4, count, generator=source)
        area = (least + area * (1 - least)) * stored**2
        ratio = torch.exp((2 * shape - 1) * math.log(4 / 3))
        width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = todo & (width >= 1) & (height >= 1) & (width <= stored) & (height <= stored)
        top, left = (y * (stored - height + 1)).floor(), (x * (stored - width + 1)).floor()
        boxes[fits] = torch.stack([top, left, height, width], 1)[fits]
        todo &= ~fits
    return boxes


def crop_boxes(pictures: Tensor, boxes: Tensor, mirror: Tensor, size: int) -> Tensor:
    """Each picture's box, mirrored where drawn, at size × size by bilinear interpolation: (n, C, S, S) -> float."""
    side = pictures.shape[-1]
    top, left, height, width = boxes.unbind(1)
    at = (torch.arange(size, device=boxes.device) + 0.5) / size
    y = (top[:, None] + at * height[:, None]) * 2 / side - 1
    x = (left[:, None] + torch.where(mirror[:, None], at.flip(0), at) * width[:, None]) * 2 / side - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), 3)
    return F.grid_sample(pictures.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def add_colour(pictures: Tensor, draws: Draws, axes: Tensor, amount: float) -> Tensor:
    """x <- (x + δ) / (1 + amount), one δ a picture: the drawn shifts along the RGB axes (docs/facts.md 5.4).

    Float pictures with the mean subtracted, (n, C, h, w) -> same.
    """
    return (pictures + draws.shifts(axes)[:, :, None, None]) / (1 + amount)


def dropout_masks(
    layers: Mapping[str, tuple[int, float]],
    count: int,
    rows: np.ndarray,
    key: tuple[int, ...],
    device: torch.device,
) -> dict[str, Tensor]:
    """0/1 masks (len(rows), units) for each dropout layer: drawn on the device for all `count` rows, then sliced."""
    everyone = np.array_equal(rows, np.arange(count))
    masks = {}
    for number, (name, (units, rate)) in enumerate(layers.items()):
        source = generator(*key, number, device=device)
        keep = torch.empty(count, units, device=device).bernoulli_(1 - rate, generator=source)
        masks[name] = keep if everyone else keep[send(torch.from_numpy(rows), device)]
    return masks
