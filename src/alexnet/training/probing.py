"""A probe: the last layer alone, trained on the features below it, which are computed once and kept."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.base.device import send
from alexnet.base.files import reserve, writing
from alexnet.base.progress import Progress, Say
from alexnet.data.loader import Pictures, fits_in_memory
from alexnet.data.pictures import CROP
from alexnet.data.preprocess import Preprocess
from alexnet.inference.features import outputs, row_shape
from alexnet.networks.model import AlexNet
from alexnet.training import recipe as recipes
from alexnet.training.recipe import Recipe

BATCH = 64


class Tail(nn.Module):
    """The last layer with the dropout before it: features (N, units[, 1, 1]) -> logits (N, classes)."""

    def __init__(self, model: AlexNet) -> None:
        super().__init__()
        names = model.order[: model.order.index(model.logits) + 1]
        first = len(names) - 1
        while names[first - 1] in model.dropouts or names[first - 1] == "flatten":
            first -= 1
        self.below = names[first - 1]
        for name in names[first:]:
            self.add_module(name, getattr(model, name))

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        x = x.flatten(1)
        for name, layer in self.named_children():
            x = layer(x, masks[name]) if masks and name in masks else layer(x)
        return x


def tail_of(model: AlexNet, recipe: Recipe, say: Say) -> Tail:
    """What a probe trains; which of the recipe's keys its kept features do not feel is said."""
    if unused := recipes.of_pictures(recipe):
        say(f"the last layer alone is trained, on features of the central crop: {unused} changes nothing")
    return Tail(model)


class FeatureRows(Pictures):
    """A split as features of the central view, computed once: pictures of one pixel with a channel a unit, float32."""

    dtype = torch.float32

    def __init__(
        self, pictures: Pictures, model: AlexNet, layer: str, preprocess: Preprocess, folder: Path, quiet: bool
    ) -> None:
        self.pictures, self.split, self.failed, self.store = pictures, pictures.split, pictures.failed, None
        self.square = CROP  # of one pixel
        units = math.prod(row_shape(model, layer))
        self.size, self.channels = 1, units
        if fits_in_memory(4 * units * len(pictures)):
            self.rows = np.zeros((len(pictures), units), np.float32)
        else:
            with writing(folder / "features"):
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, lives as long as the rows
                reserve(self._file, 4 * units * len(pictures))
            self.rows = np.memmap(self._file, np.float32, "w+", shape=(len(pictures), units))
        device, training = next(model.parameters()).device, model.training
        model.eval()
        with Progress("features", len(pictures), "pictures", quiet=quiet) as progress:
            for first in range(0, len(pictures), BATCH):
                indices = np.arange(first, min(first + BATCH, len(pictures)))
                pixels, readable = pictures.get(indices)
                crops = preprocess.central(send(torch.from_numpy(pixels), device))
                values = outputs(model, preprocess.normalise(crops), [layer])[layer]
                self.rows[indices[readable]] = values.reshape(len(values), units)
                progress.update(len(indices))
        model.train(training)

    @property
    def as_they_are(self) -> Preprocess:
        """The preprocessing that changes nothing: one pixel, minus 0, divided by 1."""
        return Preprocess(1, 1, "", (1.0,), torch.zeros(self.channels, 1, 1))

    def fill(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Put those pictures' features into `out`, (n, 1, 1, units); a mask of which were readable."""
        out[:, 0, 0] = self.rows[indices]
        return np.array([int(i) not in self.failed for i in indices], bool)

    def close(self) -> None:
        self.pictures.close()
