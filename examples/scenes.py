"""Scenes for the examples: discs, squares and triangles of any colour before a noisy background, with their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

CLASSES = ["background", "disc", "square", "triangle"]


@dataclass(frozen=True)
class Scene:
    """A picture float32 (3, S, S) in 0 … 1, boxes (n, 4) as x0 y0 x1 y1, labels (n,), and the class of each pixel."""

    picture: Tensor
    boxes: Tensor
    labels: Tensor
    pixels: Tensor


def scene(seed: int, side: int) -> Scene:
    """One to three shapes that hardly overlap; the same for the same seed."""
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 190, 3)
    background = base + np.linspace(-30, 30, side)[:, None, None] * rng.choice([-1, 1])
    picture = Image.fromarray(np.broadcast_to(background, (side, side, 3)).astype(np.uint8))
    classes = Image.new("L", (side, side))
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    for _ in range(rng.integers(1, 4)):
        size = int(rng.integers(side // 5, side // 2.5))
        x, y = (int(rng.integers(2, side - size - 2)) for _ in "xy")
        box = (x, y, x + size, y + size)
        if any(x < b[2] and b[0] < box[2] and y < b[3] and b[1] < box[3] for b in boxes):
            continue
        label = int(rng.integers(1, 4))
        colour = tuple(int(v) for v in (base + rng.choice([-60, 60], 3) + rng.integers(-30, 30, 3)).clip(0, 255))
        for image, fill in ((picture, colour), (classes, label)):
            draw = ImageDraw.Draw(image)
            if label == 1:
                draw.ellipse(box, fill)
            elif label == 2:
                draw.rectangle(box, fill)
            else:
                draw.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill)
        boxes.append(box)
        labels.append(label)
    noisy = np.asarray(picture) + rng.normal(0, 12, (side, side, 3))
    return Scene(
        torch.from_numpy((noisy.clip(0, 255) / 255).astype(np.float32)).permute(2, 0, 1),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(labels),
        torch.from_numpy(np.asarray(classes).astype(np.int64)),
    )
