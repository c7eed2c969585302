"""A narrow classifier of seven classes, and pictures for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image

from alexnet.data.preprocess import Preprocess
from alexnet.networks.model import AlexNet
from alexnet.weights.classifier import Classifier
from narrow import narrow, redraw

CLASSES = 7


@cache
def made(name: str, square: str = "crop", channels: int = 3) -> Classifier:
    """A narrow net with a mean image, that sees all but four pixels at each side of what is stored."""
    plan = narrow(name)
    net = AlexNet(plan, CLASSES, channels, plan.input).eval()
    redraw(net)
    draw = torch.Generator().manual_seed(1)
    mean = 100 + 20 * torch.rand((channels, plan.input + 8, plan.input + 8), generator=draw)
    preprocess = Preprocess(plan.input + 8, plan.input, "RGB" if channels == 3 else "L", (64.0,), mean, square)
    return Classifier(net, preprocess, [f"class {n}" for n in range(CLASSES)], "made")


@cache
def picture(number: int = 0) -> Image.Image:
    """A smooth colourful picture, wider than high."""
    draw = np.random.default_rng(number)
    small = Image.fromarray(draw.integers(0, 256, (9, 12, 3), np.uint8))
    return small.resize((150, 120), Image.Resampling.BICUBIC)
