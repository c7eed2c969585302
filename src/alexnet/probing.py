"""A probe: the last layer alone, trained on the features below it, which are computed once and kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alexnet import layers as own
from alexnet.data.loader import Pictures, fits_in_memory
from alexnet.distributed import World
from alexnet.extraction import outputs, row_shape
from alexnet.model import AlexNet
from alexnet.preprocess import Preprocess
from alexnet.progress import Progress

BATCH = 64


class Tail(nn.Module):
    """The last layer with the dropout before it: features (N, units) -> logits (N, classes)."""

    def __init__(self, model: AlexNet) -> None:
        super().__init__()
        names = [name for name, _ in model.named_children()]
        names = names[: names.index(model.logits) + 1]
        first = len(names) - 1
        while isinstance(getattr(model, names[first - 1]), own.Dropout):
            first -= 1
        self.below = names[first - 1]
        for name in names[first:]:
            self.add_module(name, getattr(model, name))

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        for name, layer in self.named_children():
            x = layer(x, masks.get(name) if masks else None) if isinstance(layer, own.Dropout) else layer(x)
        return x


class FeatureRows(Pictures):
    """A split as features, float32 (n, units), of the central view: what stands where its pictures would."""

    def __init__(
        self, pictures: Pictures, model: AlexNet, layer: str, preprocess: Preprocess, folder: Path, quiet: bool
    ) -> None:
        self.split, self.failed, self.pictures = pictures.split, pictures.failed, pictures
        shape = (len(pictures), *row_shape(model, layer))
        if fits_in_memory(4 * int(np.prod(shape))):
            self.rows = np.zeros(shape, np.float32)
        else:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, lives as long as the rows
            self.rows = np.memmap(self._file, np.float32, "w+", shape=shape)
        device, training = next(model.parameters()).device, model.training
        model.eval()
        with Progress("features", len(pictures), "pictures", quiet=quiet) as progress:
            for first in range(0, len(pictures), BATCH):
                indices = np.arange(first, min(first + BATCH, len(pictures)))
                pixels, readable = pictures.get(indices)
                crops = preprocess.central(torch.from_numpy(pixels).to(device))
                self.rows[indices[readable]] = outputs(model, preprocess.normalise(crops), [layer])[layer]
                progress.update(len(indices))
        model.train(training)

    def get(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features of those pictures, less the unreadable, and a mask of which were readable."""
        readable = np.array([int(i) not in self.failed for i in indices], bool)
        return self.rows[indices[readable]], readable

    def close(self) -> None:
        self.pictures.close()

    def failures(self, world: World) -> list[dict[str, str]]:
        return self.pictures.failures(world)


class AsTheyAre(Preprocess):
    """No preprocessing: features go into the last layer as they are."""

    def __init__(self, units: int) -> None:
        super().__init__(1, 1, "", (1.0,), torch.zeros(units, 1, 1))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.channels,))

    def central(self, pictures: Tensor) -> Tensor:
        return pictures

    def normalise(self, crops: Tensor) -> Tensor:
        return crops
