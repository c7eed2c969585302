"""What is served: MODELs by name, each with what it computes for a batch of pictures, its index and its run folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base import hints
from alexnet.base.device import choose_device, send
from alexnet.base.errors import AlexNetError
from alexnet.base.run_files import METRICS
from alexnet.data.pictures import decode
from alexnet.engines import choosing
from alexnet.engines.loading import device_for, load_classifier
from alexnet.inference.features import check_layers, outputs, row_shape
from alexnet.inference.prediction import ClassProbability, classify
from alexnet.inference.similarity import Index, fingerprint, nearest_rows, open_index
from alexnet.serving.limits import Refused
from alexnet.weights.classifier import Classifier


@dataclass(frozen=True)
class Served:
    """A classifier under a name that tells nothing of where it lies."""

    name: str
    classifier: Classifier
    run: Path | None = None  # its folder, where alexnet train made one
    index: Index | None = None

    def square(self, picture: bytes) -> np.ndarray:
        """uint8 (stored, stored, C) of a file's bytes, as every command decodes them; raises Unreadable."""
        used = self.classifier.preprocess
        return used.squared(decode(picture, used.channels), used.stored)

    def predictions(self, topk: int, views: int) -> Callable[[Sequence[np.ndarray]], list[list[ClassProbability]]]:
        """The answers of `alexnet predict` to squares."""
        return lambda squares: classify(self.classifier, _pixels(squares), topk, views)

    def layers(
        self, names: Sequence[str], pool: Any = None
    ) -> Callable[[Sequence[np.ndarray]], list[dict[str, np.ndarray]]]:
        """The answers of `alexnet features` to squares."""
        preprocess, model = self.classifier.preprocess, self.classifier.model

        def compute(squares: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
            crops = preprocess.central(send(_pixels(squares), self.classifier.device))
            found = outputs(model, preprocess.normalise(crops), names, pool)
            return [{name: values[row] for name, values in found.items()} for row in range(len(squares))]

        return compute

    def values(self, names: Sequence[str], pool: Any = None) -> int:
        """How many values the layers give for a picture."""
        return sum(math.prod(row_shape(self.classifier.model, name, pool)) for name in names)

    def nearest(self, most: int, distance: Any) -> Callable[[Sequence[np.ndarray]], list[list[tuple[int, float]]]]:
        """Rows of the index and their distances, nearest first, as `alexnet similar` finds them."""
        index = self.index
        if index is None:
            raise Refused(
                422, f"{self.name} has no index; start the server with --index INDEX, which alexnet index makes."
            )
        features = self.layers([index.layer])

        def compute(squares: Sequence[np.ndarray]) -> list[list[tuple[int, float]]]:
            queries = torch.from_numpy(np.stack([one[index.layer] for one in features(squares)])).flatten(1)
            asked = min(most, len(index.filenames))
            distances, rows = nearest_rows(queries, index.parts(), asked, distance)
            return [list(zip(*one, strict=True)) for one in zip(rows.tolist(), distances.tolist(), strict=True)]

        return compute

    def check_layers(self, names: Sequence[str]) -> list[str]:
        """The layers, each once; what the network lacks is refused."""
        if self.classifier.exported:
            raise Refused(422, f"{self.name} is an export, which answers but has no layers to look into.")
        try:
            return check_layers(self.classifier.model, names)
        except AlexNetError as error:
            raise Refused(422, str(error)) from None


class Models:
    """All that are served, by name, else by number from 0."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.all = list(served)

    def pick(self, asked: str | None) -> Served:
        """The one of that name or number; without either the first."""
        if not asked:
            return self.all[0]
        numbered = {str(number): one for number, one in enumerate(self.all)}
        named = {one.name: one for one in self.all}  # before numbers: a run's folder may be called 1
        if asked in (known := numbered | named):
            return known[asked]
        raise Refused(404, f"no model is called '{asked:.80}'; there are {', '.join(one.name for one in self.all)}.")


def opened(
    paths: Sequence[str], indexes: Sequence[str] = (), device: str = "auto", engine: str | None = None,
    batch_size: int = 32, say: Callable[[str], object] = lambda text: None,
) -> Models:  # fmt: skip
    """Every MODEL loaded, with the index that was made by it."""
    where = choose_device(device_for(engine, device))
    classifiers = [load_classifier(path, where, engine, batch_size, say) for path in paths]
    found = {index.fingerprint: index for index in map(open_index, indexes)}
    served = []
    for name, path, classifier in zip(_names(paths), paths, classifiers, strict=True):
        file = Path(hints.split(path)[0])
        folder = file if file.is_dir() else file.parent
        index = None if classifier.exported or not found else found.pop(fingerprint(classifier), None)
        served.append(Served(name, classifier, folder if (folder / METRICS).exists() else None, index))
    for index in found.values():
        raise AlexNetError(
            f"--index {index.folder} was made by none of these MODELs; serve the one that made it ({index.model}), or "
            "make the index anew."
        )
    return Models(served)


def _names(paths: Sequence[str]) -> list[str]:
    """The last word of each MODEL, numbered from the second on that has the same."""
    names: list[str] = []
    for path in paths:
        word = Path(hints.split(path)[0]).name or "model"
        names.append(next(name for n in count(1) if (name := word if n == 1 else f"{word} ({n})") not in names))
    return names


def disagreement(one: Served, batch_size: int) -> float:
    """How far at most a probability differs between a picture alone and in a batch: 0 where every bit is the same."""
    used, size = one.classifier.preprocess, max(4, batch_size)
    squares = list(choosing.made_up_batch(used, size))
    compute = one.predictions(5, 1)
    together = compute(squares)
    alone = [answer for n in (1, 2, 5) for answer in compute(squares[:n])[-1:]]
    pairs = [
        pair for n, a in zip((0, 1, 4), alone, strict=True) if n < size for pair in zip(a, together[n], strict=True)
    ]
    return max(abs(a.probability - b.probability) for a, b in pairs)


def _pixels(squares: Sequence[np.ndarray]) -> Tensor:
    """uint8 (n, C, stored, stored), colours last in memory, as `alexnet predict` has them."""
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
