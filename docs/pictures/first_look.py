"""The README's picture: what the shipped network makes of a photograph, from filters to answers.

Run: python docs/pictures/first_look.py coffee.png docs/pictures/first_look.png
The photograph is scikit-image's `coffee`, by Rachel Michetti, CC0.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

import alexnet

LAYERS = ("relu1", "relu2", "relu3", "relu5")
SHOWN = 16  # maps of each layer, the strongest


def tiles(axes: Axes, pictures: np.ndarray, columns: int, title: str) -> None:
    """Pictures (n, h, w) or (n, h, w, 3) in rows, with a pixel of white between them."""
    gap = max(1, pictures.shape[1] // 8)
    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[1] + gap, pictures.shape[2] + gap
    sheet = np.ones((rows * height - gap, columns * width - gap, 3))
    for number, one in enumerate(pictures):
        y, x = divmod(number, columns)
        colour = one if one.ndim == 3 else plt.get_cmap("magma")(one)[..., :3]
        sheet[y * height : y * height + one.shape[0], x * width : x * width + one.shape[1]] = colour
    axes.imshow(sheet, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def main() -> None:
    picture, target = sys.argv[1:]
    one = alexnet.load("tiny")
    photograph = Image.open(picture)
    maps = one.model.activations(one.preprocess(photograph)[None], LAYERS)
    answers = one.predict(photograph)[0].classes

    figure = plt.figure(figsize=(10, 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    first, second, bars = above.subplots(1, 3, width_ratios=(1.5, 1, 1.4))
    first.imshow(photograph)
    first.set_title("a photograph", fontsize=10)
    first.axis("off")
    filters = one.model.conv1.weight.detach().permute(0, 2, 3, 1).numpy()
    low, high = filters.min(), filters.max()
    tiles(second, (filters - low) / (high - low), 8, f"the {len(filters)} filters of conv1")
    bars.barh(range(len(answers)), [100 * one.probability for one in answers], color="#e9a03b")
    for place, one_class in enumerate(answers):
        bars.text(1, place, f"{one_class.label}, {100 * one_class.probability:.1f} %", va="center", fontsize=10)
    bars.set_title("what tiny takes it for", fontsize=10)
    bars.set_xlim(0, 100)
    bars.invert_yaxis()
    bars.axis("off")
    for place, layer in zip(below.subplots(1, len(LAYERS)), LAYERS, strict=True):
        found = maps[layer][0].detach().numpy()
        chosen = found[np.argsort(-found.mean((1, 2)))[:SHOWN]]
        tiles(place, chosen / chosen.max((1, 2), keepdims=True), 4, f"{layer}: {SHOWN} of {len(found)} maps")
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    main()
