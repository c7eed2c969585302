"""Semantic segmentation: AlexNet's feature maps under torchvision's FCN head, on generated scenes.

    python examples/segmentation.py                 # a minute or two on two cores
    python examples/segmentation.py --model RUN     # begin with a trained network's weights

Prints the mean intersection over union of scenes that were not trained on, and draws some of them.
"""

from __future__ import annotations

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models.segmentation.fcn import FCN, FCNHead

import alexnet
from alexnet.backbone import Backbone
from scenes import CLASSES, scene

HELD_OUT = 1_000_000  # seeds from here are never trained on
COLOURS = np.array([(40, 40, 40), (230, 80, 60), (70, 170, 90), (80, 120, 230)], np.uint8)


def build(model: str | None) -> FCN:
    """An FCN over conv4's maps, a pixel of which is 8 of the picture's."""
    network = alexnet.load(model).model if model else alexnet.build("alexnet64")
    return FCN(Backbone(network, {"relu4": "out"}), FCNHead(384, len(CLASSES)))


def batch(seeds, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, S, S) with mean 0 or so, and the class of each pixel (n, S, S)."""
    scenes = [scene(seed, side) for seed in seeds]
    return 4 * torch.stack([s.picture for s in scenes]) - 2, torch.stack([s.pixels for s in scenes])


def train(net: FCN, steps: int, side: int, batch_size: int = 8, say=print) -> None:
    """`steps` updates on fresh scenes."""
    update = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(update, 1e-3, total_steps=steps)
    net.train()
    for step in range(steps):
        pictures, pixels = batch(range(step * batch_size, (step + 1) * batch_size), side)
        loss = F.cross_entropy(net(pictures)["out"], pixels)
        update.zero_grad()
        loss.backward()
        update.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            say(f"step {step}: loss {loss.item():.3f}")


@torch.no_grad()
def mean_iou(net: FCN, count: int, side: int) -> float:
    """Intersection over union, averaged over the classes, of scenes that were held out."""
    net.eval()
    both, either = torch.zeros(len(CLASSES)), torch.zeros(len(CLASSES))
    pictures, pixels = batch(range(HELD_OUT, HELD_OUT + count), side)
    found = net(pictures)["out"].argmax(1)
    for c in range(len(CLASSES)):
        both[c] = ((found == c) & (pixels == c)).sum()
        either[c] = ((found == c) | (pixels == c)).sum()
    return float((both / either.clamp(min=1)).mean())


@torch.no_grad()
def draw(net: FCN, path: str, side: int, count: int = 6) -> None:
    """Pictures, their classes, and what the network says, one under the other."""
    net.eval()
    pictures, pixels = batch(range(HELD_OUT, HELD_OUT + count), side)
    found = net(pictures)["out"].argmax(1)
    photos = ((pictures + 2) / 4 * 255).byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(list(row), 1) for row in (photos, COLOURS[pixels], COLOURS[found])]
    Image.fromarray(np.concatenate(rows)).resize((2 * count * side, 6 * side), Image.Resampling.NEAREST).save(path)


@click.command()
@click.option("--model", help="A run folder or weights to begin with: alexnet64, RGB.  [default: initial weights]")
@click.option("--steps", default=300, show_default=True)
@click.option("--side", default=96, show_default=True, help="Pixels of a scene.")
@click.option("--out", default="segmentation.png", show_default=True, help="The picture to draw.")
def main(model: str | None, steps: int, side: int, out: str) -> None:
    torch.manual_seed(0)
    net = build(model)
    train(net, steps, side)
    draw(net, out, side)
    print(f"mean intersection over union of 64 held-out scenes: {mean_iou(net, 64, side):.3f}; see {out}")


if __name__ == "__main__":
    main()
