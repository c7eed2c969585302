"""Two models side by side on one picture: what each answers, and how far apart they are, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alexnet.data import labels
from alexnet.data.pictures import Source
from alexnet.inference.inside.maps import activations, map_shapes
from alexnet.inference.prediction import ClassProbability, ranked
from alexnet.weights.classifier import Classifier


@dataclass(frozen=True)
class LayerDifference:
    """How far apart a layer's outputs are: the greatest value in the first model and the greatest difference, the
    length of the difference over that of the first's output, and the mean difference at each place, float32 (h, w)."""

    layer: str
    greatest: float
    difference: float
    relative: float
    map: np.ndarray


@dataclass(frozen=True)
class Compared:
    """The classes of each, most probable first, the layers of the same name and shape in both, in the first's order,
    and the others' names."""

    first: list[ClassProbability]
    second: list[ClassProbability]
    layers: list[LayerDifference]
    apart: list[str]


@torch.inference_mode()
def compare_inside(one: Classifier, other: Classifier, picture: Source, topk: int = 5) -> Compared:
    """Both models on one picture, each with its own preprocessing; classes of the same names are compared."""
    shapes = [map_shapes(one.model), map_shapes(other.model)]
    shared = [name for name, shape in shapes[0].items() if shapes[1].get(name) == shape]
    apart = [name for name in dict.fromkeys((*shapes[0], *shapes[1])) if name not in shared]
    values = [activations(model, picture, shared) if shared else {} for model in (one, other)]
    order = labels.reordered(one.classes, other.classes)
    if order is not None:
        names = list(values[1])
        of_classes = names[names.index(other.model.logits) :] if other.model.logits in names else []
        values[1] |= {name: values[1][name][order] for name in of_classes}
    found = [_difference(name, values[0][name], values[1][name]) for name in shared]
    answers = [_answer(model, picture, topk) for model in (one, other)]
    return Compared(answers[0], answers[1], found, apart)


def _difference(name: str, first: np.ndarray, second: np.ndarray) -> LayerDifference:
    apart = np.abs(first.astype(np.float64) - second)
    length = np.linalg.norm(first.astype(np.float64))
    relative = float(np.linalg.norm(apart) / length) if length else float(np.linalg.norm(apart) > 0)
    return LayerDifference(
        name, float(np.abs(first).max()), float(apart.max()), relative, apart.mean(0).astype(np.float32)
    )


def _answer(classifier: Classifier, picture: Source, topk: int) -> list[ClassProbability]:
    image = classifier.preprocess(picture)[None].to(classifier.device)
    return ranked(classifier, classifier.model(image).softmax(1), topk)[0]
