"""Where in a picture the evidence for a class lies, by three methods, each as a map of the input's own pixels.

Occlusion (Zeiler and Fergus 2014), gradient times input (Shrikumar and others 2016), Grad-CAM (Selvaraju and others
2017). None needs hooks, so that threads may share the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.data.pictures import Source
from alexnet.inference.features import check_layers
from alexnet.inference.inside.fields import Field, receptive_field
from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.weights.classifier import Classifier

OCCLUSION = (
    "Occlusion shows by how much the probability of the class falls when a square around a pixel is covered with the "
    "mean of the training pictures; it does not show what several places do together, nor what the network would make "
    "of another cover."
)
GRADIENT_INPUT = (
    "Gradient times input shows how the score of the class would change, to first order, if a pixel were moved to the "
    "mean of the training pictures; it does not show what larger changes would do, and where the score is not close to "
    "linear it says little."
)
GRAD_CAM = (
    "Grad-CAM shows where the last convolution's maps, weighted by how much each of them raises the score of the "
    "class, are bright; it is as coarse as those maps, and does not show pixels, nor what speaks against the class."
)


def check_class(classifier: Classifier, index: int) -> int:
    """Refuse an index that is no class."""
    if not 0 <= index < len(classifier.classes):
        raise AlexNetError(
            f"class {index} was asked for; {classifier.model.variant.name} knows classes 0 to "
            f"{len(classifier.classes) - 1:,}."
        )
    return index


# -- occlusion --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def occlusion(
    classifier: Classifier, picture: Source, class_index: int, side: int = 0, stride: int = 0, batch_size: int = 32
) -> np.ndarray:
    """By how much the probability of a class falls under cover: float32 (input, input), positive where it falls.

    A square of `side` pixels (0: a seventh of the input) in steps of `stride` (0: half of that); a pixel's value is
    the mean over the squares that cover it. The cover is what the mean is subtracted from, so zeros to the network.
    """
    check_class(classifier, class_index)
    input = classifier.preprocess.input
    side = side or max(1, round(input / 7))
    stride = stride or max(1, side // 2)
    if not 1 <= stride <= side <= input:
        raise AlexNetError(
            f"occlusion was given squares of {side} pixels in steps of {stride}; the square is at most {input}, the "
            "input's side, and no step is longer than the square."
        )
    image = classifier.preprocess(picture)[None].to(classifier.device)
    whole = _probability(classifier.model, image, class_index)
    # The last square may overhang, so that every pixel is covered.
    starts = range(0, input - side + stride, stride)
    places = [(y, x) for y in starts for x in starts]
    fall, covers = np.zeros((input, input)), np.zeros((input, input))
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        covered = image.repeat(len(part), 1, 1, 1)
        for one, (y, x) in zip(covered, part, strict=True):
            one[:, y : y + side, x : x + side] = 0
        falls = (whole - _probability(classifier.model, covered, class_index)).tolist()
        for (y, x), one_fall in zip(part, falls, strict=True):
            fall[y : y + side, x : x + side] += one_fall
            covers[y : y + side, x : x + side] += 1
    return (fall / covers).astype(np.float32)


def _probability(model: AlexNet, images: Tensor, class_index: int) -> Tensor:
    return model(images).cpu().double().softmax(1)[:, class_index]  # Apple's GPUs have no float64


# -- gradient times input ---------------------------------------------------------------------------------------------


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_input(classifier: Classifier, picture: Source, class_index: int) -> np.ndarray:
    """The gradient of a class's score with respect to the input, times the input, summed over colours.

    float32 (input, input), signed. The score is the logit; the input is what the network sees, minus the mean.
    """
    check_class(classifier, class_index)
    image = classifier.preprocess(picture)[None].to(classifier.device).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.model(image)[0, class_index], image)
    return (gradient * image).detach()[0].sum(0).float().cpu().numpy()


# -- Grad-CAM ---------------------------------------------------------------------------------------------------------


def grad_cam(classifier: Classifier, picture: Source, class_index: int, layer: str | None = None) -> np.ndarray:
    """Grad-CAM of a class: float32 (input, input), from 0 up; `cam` spread over the input.

    A map's places lie where the middles of their receptive fields are, not evenly over the picture.
    """
    chosen = layer or last_maps(classifier.model)
    values = cam(classifier, picture, class_index, layer)
    field = receptive_field(classifier.model.variant, chosen, classifier.preprocess.input)
    return spread(values, field, classifier.preprocess.input)


@torch.inference_mode(False)
@torch.enable_grad()
def cam(classifier: Classifier, picture: Source, class_index: int, layer: str | None = None) -> np.ndarray:
    """Grad-CAM as maps are: float32 (h, w), the positive part of the sum of maps, each by its mean gradient.

    Without `layer`, the maps are the last convolution's after its ReLU. Where the ReLU stands behind pooling, as in the
    network of 2012, both are exchanged for this: that changes no answer, and the maps keep their places and lose what
    no later layer sees, the negative values. With `layer`, they are that layer's, as they are.
    """
    check_class(classifier, class_index)
    model = classifier.model
    image = classifier.preprocess(picture)[None].to(classifier.device)
    chosen = check_layers(model, [layer])[0] if layer else last_maps(model)
    with torch.no_grad():
        maps = model(image, until=chosen).float().clone()
    if maps.dim() != 4:
        raise AlexNetError(f"{chosen} has no maps for Grad-CAM to lie on; give a layer before {_first_fc(model)}.")
    rest = model.order[model.order.index(chosen) + 1 : model.order.index(model.logits) + 1]
    if layer is None and (late := _late_activation(model, chosen)):
        maps = getattr(model, late)(maps)
        rest.remove(late)
    x = maps = maps.detach().requires_grad_()
    for name in rest:
        x = getattr(model, name)(x)
    (gradient,) = torch.autograd.grad(x[0, class_index], maps)
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * maps).sum(1).relu().detach()[0].cpu().numpy()


def last_maps(model: AlexNet) -> str:
    """The last convolution, or its activation where that follows at once."""
    records = list(model.variant.layers)
    last = max(place for place, record in enumerate(records) if isinstance(record, v.Conv | v.Local))
    following = last + 1
    while isinstance(records[following], v.BatchNorm):
        following += 1
    return records[following if isinstance(records[following], v.ReLU | v.Tanh) else last].name


def _late_activation(model: AlexNet, layer: str) -> str | None:
    """The activation that stands behind the max pooling of the last convolution, with which it can be exchanged."""
    names = [record.name for record in model.variant.layers]
    after = model.variant.layers[names.index(layer) + 1 :]
    if len(after) > 1 and isinstance(after[0], v.MaxPool) and isinstance(after[1], v.ReLU | v.Tanh):
        return after[1].name
    return None


def _first_fc(model: AlexNet) -> str:
    return next(record.name for record in model.variant.layers if isinstance(record, v.FC))


def spread(values: np.ndarray, field: Field, side: int) -> np.ndarray:
    """A map (h, w) over the pixels that it is of, float32 (side, side): linear between the middles of receptive fields,
    and constant beyond the outermost."""
    pixels = np.arange(side)
    centres = [field.centre(place) for place in range(max(values.shape))]
    rows = np.stack([np.interp(pixels, centres[: values.shape[1]], row) for row in values])
    return np.stack([np.interp(pixels, centres[: values.shape[0]], column) for column in rows.T], 1).astype(np.float32)


# -- a table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to draw such a map: its title, whether values below zero mean something, and what it shows and does not."""

    draw: Callable[..., np.ndarray]  # classifier, picture, class index
    title: str
    signed: bool
    says: str


METHODS = {
    "cam": Method(grad_cam, "Grad-CAM", False, GRAD_CAM),
    "occlusion": Method(occlusion, "occlusion", True, OCCLUSION),
    "gradient": Method(gradient_input, "gradient x input", True, GRADIENT_INPUT),
}
