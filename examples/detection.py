"""Object detection: AlexNet as the backbone of torchvision's Faster R-CNN, on generated scenes.

    python examples/detection.py                 # some minutes on two cores
    python examples/detection.py --model RUN     # begin with a trained network's weights

Prints the average precision at an overlap of one half on scenes that were not trained on, and draws some of them.
"""

from __future__ import annotations

import click
import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_iou

import alexnet
from alexnet.backbone import Backbone
from scenes import CLASSES, Scene, scene

HELD_OUT = 1_000_000  # seeds from here are never trained on


def build(model: str | None, side: int) -> FasterRCNN:
    """Faster R-CNN over conv4's maps, a pixel of which is 8 of the picture's."""
    network = alexnet.load(model).model if model else alexnet.build("alexnet64")
    return FasterRCNN(
        Backbone(network, "relu4"),
        len(CLASSES),
        side,
        side,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(((side // 5, side // 4, side // 3),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["relu4"], 4, 2),
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=30,
        box_batch_size_per_image=64,
    )


def train(net: FasterRCNN, steps: int, side: int, batch_size: int = 4, say=print) -> None:
    """`steps` updates on fresh scenes."""
    update = torch.optim.AdamW(net.parameters(), 5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(update, 5e-4, total_steps=steps)
    net.train()
    for step in range(steps):
        scenes = [scene(seed, side) for seed in range(step * batch_size, (step + 1) * batch_size)]
        losses = net([s.picture for s in scenes], [{"boxes": s.boxes, "labels": s.labels} for s in scenes])
        loss = sum(losses.values())
        update.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        update.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            say(f"step {step}: " + ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items()))


@torch.no_grad()
def found_in(net: FasterRCNN, scenes: list[Scene]) -> list[dict[str, torch.Tensor]]:
    net.eval()
    return [net([s.picture])[0] for s in scenes]


def average_precision(answers: list[dict[str, torch.Tensor]], scenes: list[Scene], overlap: float = 0.5) -> float:
    """The area under precision by recall, over all classes: surest boxes first, each shape found once at most."""
    order, right = [], []
    for found, there in zip(answers, scenes, strict=True):
        left = set(range(len(there.labels)))
        overlaps = box_iou(found["boxes"], there.boxes)
        for n in found["scores"].argsort(descending=True).tolist():
            able = [k for k in left if there.labels[k] == found["labels"][n] and overlaps[n, k] >= overlap]
            best = max(able, key=lambda k: overlaps[n, k].item(), default=None)
            left.discard(best)
            order.append(found["scores"][n].item())
            right.append(best is not None)
    hits = np.array(right, bool)[np.argsort(-np.array(order), kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    # The best precision at that recall or a higher one, as is usual.
    best_after = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_after[hits].sum() / sum(len(s.labels) for s in scenes))


def draw(answers: list[dict[str, torch.Tensor]], scenes: list[Scene], path: str) -> None:
    """The scenes side by side with every box whose score is one half or more."""
    tiles = []
    for found, there in zip(answers, scenes, strict=True):
        tile = Image.fromarray((there.picture * 255).byte().permute(1, 2, 0).numpy()).resize((288, 288))
        scale, pen = 288 / there.picture.shape[-1], ImageDraw.Draw(tile)
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            if score >= 0.5:
                x0, y0, x1, y1 = (box * scale).tolist()
                pen.rectangle((x0, y0, x1, y1), outline="yellow", width=2)
                pen.text((x0 + 4, y0 + 2), f"{CLASSES[label]} {score:.2f}", fill="yellow")
        tiles.append(np.asarray(tile))
    Image.fromarray(np.concatenate(tiles, 1)).save(path)


@click.command()
@click.option("--model", help="A run folder or weights to begin with: alexnet64, RGB.  [default: initial weights]")
@click.option("--steps", default=400, show_default=True)
@click.option("--side", default=96, show_default=True, help="Pixels of a scene.")
@click.option("--out", default="detection.png", show_default=True, help="The picture to draw.")
def main(model: str | None, steps: int, side: int, out: str) -> None:
    torch.manual_seed(0)
    net = build(model, side)
    train(net, steps, side)
    scenes = [scene(HELD_OUT + n, side) for n in range(64)]
    answers = found_in(net, scenes)
    draw(answers[:5], scenes[:5], out)
    print(f"average precision of 64 held-out scenes: {average_precision(answers, scenes):.3f}; see {out}")


if __name__ == "__main__":
    main()
