"""What `alexnet.load` gives: a classifier that answers by its methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from alexnet.data.pictures import Source
from alexnet.engines import loading
from alexnet.inference.features import Features, Pool, features
from alexnet.inference.prediction import Prediction, predict
from alexnet.weights.classifier import Classifier


class Loaded(Classifier):
    """A classifier that answers."""

    def predict(self, pictures: Source | Iterable[Source], topk: int = 5, batch_size: int = 64) -> list[Prediction]:
        """The `topk` most probable classes of each picture, in order; pictures and errors as of `alexnet.predict`."""
        return predict(self, pictures, topk=topk, batch_size=batch_size)

    def features(
        self, pictures: Source | Iterable[Source], layers: str | Sequence[str] = "fc7", pool: Pool | None = None,
        batch_size: int = 64,
    ) -> Iterator[Features]:  # fmt: skip
        """The outputs of layers by name for each picture, one by one in order; all as of `alexnet.features`."""
        return features(self, pictures, layers, pool, batch_size)


def load(
    path: str | Path, device: str | torch.device = "cpu", engine: str | None = None, batch_size: int = 64,
    say: Callable[[str], object] = lambda text: None, *, variant: str | None = None, classes: str | Path | None = None,
    mean: str | Path | None = None, key: str | None = None, order: str | None = None, square: str | None = None,
) -> Loaded:  # fmt: skip
    """The classifier in a run folder (its last weights), a file of weights of any format, or published ones by name.

    The last six say what a file may not: its network, names of classes (a file, or the order imagefolder or numeric),
    mean, which of several sets of weights it is, in a .npy the order of fc6's inputs (chw, hwc), and, where it is not
    to be as the file says, how a picture becomes a square (crop, squash, torchvision).

    `device` is auto, cpu, cuda or mps, with a number where there are several. On an Nvidia GPU TF32 is
    switched off, for the whole process: answers are computed in float32.

    Files of `alexnet export` (.onnx, .xml) are taken too. `engine` (auto, torch, onnx, openvino) computes the answers
    of `predict` and `evaluate`; `auto` tries which is the fastest with batches of `batch_size`, and says so.
    """
    said = {"variant": variant, "classes": classes, "mean": mean, "key": key, "order": order, "square": square}
    return answering(loading.load_classifier(path, device, engine, batch_size, say, **said))


def answering(classifier: Classifier) -> Loaded:
    """The same classifier, with methods that answer."""
    return Loaded(**vars(classifier))
