"""How a network begins that starts from trained weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Say
from alexnet.data.preprocess import Preprocess
from alexnet.engines.loading import load_classifier
from alexnet.networks.model import AlexNet, seeded_build
from alexnet.networks.shapes import last_map
from alexnet.networks.variants import FC
from alexnet.training import recipe as recipes
from alexnet.training.recipe import Recipe


def begin(recipe: Recipe, classes: int, say: Say = lambda text: None) -> tuple[AlexNet, Preprocess]:
    """The network that `recipe.weights` becomes, on the CPU: all layers but the last, and the preprocessing.

    The last layer is drawn anew from the seed; conv1 is adapted where the recipe has other channels. What the weights
    were learnt with and the recipe changes is said.
    """
    start = load_classifier(recipe.weights)
    old, preprocess = start.model, start.preprocess
    if recipe.variant != old.variant.name:
        raise AlexNetError(
            f"the weights {recipe.weights} are of {old.variant.name}, the recipe's variant is {recipe.variant}; set "
            f"variant to {old.variant.name}."
        )
    sizes = recipe.channels, recipe.input or preprocess.input
    model = seeded_build(recipe.seed, recipe.variant, classes, *sizes, recipes.changes(recipe))
    here = learnt_with(model)
    for key, was in learnt_with(old).items():
        if here[key] != was:
            say(f"{key} is {here[key]}, and was {was} where {recipe.weights} was trained; --set {key}={was} keeps that")
    tensors = {name: x for name, x in old.state_dict().items() if name.rpartition(".")[0] != model.logits}
    adapted = _adapted(preprocess, recipe)
    if recipe.channels == 1 < old.channels:
        to_gray(tensors, preprocess, adapted)
    elif recipe.channels != old.channels:
        tensors["conv1.weight"] = adapt_channels(tensors["conv1.weight"], recipe.channels)
    if model.input != old.input:
        _adapt_first_flat(tensors, old, model)
    model.load_state_dict(tensors, strict=False)
    return model, adapted


def learnt_with(net: AlexNet) -> dict[str, Any]:
    """The keys of a recipe that say how a network's layers compute, which its weights were learnt for."""
    rates = [rate for _, rate in net.dropouts.values()]
    usual = {key: net.changes.get(key, getattr(Recipe(), key)) for key in ("activation", "ties")}
    return {"channels": net.channels, "dropout": rates[0] if rates else 0.0, **usual}


def _adapt_first_flat(tensors: dict[str, Tensor], old: AlexNet, new: AlexNet) -> None:
    """Give the first fully connected layer weights for maps of another size, where they are: the adapted net begins
    as the old one does behind an nn.AdaptiveAvgPool2d to the old size, as torchvision's."""
    wanted = new.state_dict()
    other = [name for name, x in tensors.items() if name in wanted and x.shape != wanted[name].shape]
    first = next(record.name for record in new.variant.layers if isinstance(record, FC))
    if any(name != f"{first}.weight" for name in other):
        raise AlexNetError(
            f"{new.variant.name} cannot be adapted from input {old.input} to {new.input}: {other[0]} belongs to places "
            "of the picture; leave input out, or train from scratch."
        )
    for name in other:
        weight = tensors[name]
        before, after = (last_map(net.variant, net.input) for net in (old, new))
        places = torch.eye(after * after).reshape(-1, 1, after, after)
        share = torch.nn.functional.adaptive_avg_pool2d(places, before).flatten(1)  # (new places, old places)
        tensors[name] = (weight.reshape(len(weight), -1, before * before) @ share.T.to(weight.dtype)).flatten(1)


def to_gray(tensors: dict[str, Tensor], old: Preprocess, new: Preprocess) -> None:
    """Give conv1 weights and biases for one channel: a gray picture gives what it gave as three equal channels, but
    where padding is seen, and where the colours of a mean image change from place to place."""
    apart = torch.tensor(old.scale)[:, None, None] / new.scale[0]
    weight = tensors["conv1.weight"] / apart
    shift = (new.mean.mean((1, 2)) - old.mean.mean((1, 2))) / new.scale[0]  # of a channel by the one mean, (C,)
    tensors["conv1.bias"] = tensors["conv1.bias"] + weight.sum((2, 3)) @ shift
    tensors["conv1.weight"] = weight.sum(1, keepdim=True)


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """conv1's weights (F, C, k, k) for other input channels (F, channels, k, k): the old ones in turn, each divided by
    how often it is used."""
    source = torch.arange(channels) % weight.shape[1]
    uses = torch.bincount(source, minlength=weight.shape[1])[source]
    return weight[:, source] / uses.to(weight.dtype)[None, :, None, None]


def _adapted(old: Preprocess, recipe: Recipe) -> Preprocess:
    """The preprocessing that the weights were trained with, for the recipe's channels and sizes."""
    mean, scale, order = old.mean, old.scale, old.order
    if recipe.channels != old.channels:
        source = torch.arange(recipe.channels) % old.channels
        mean = mean.mean(0, keepdim=True) if recipe.channels == 1 else mean[source]
        if len(scale) > 1:
            scale = (sum(scale) / len(scale),) if recipe.channels == 1 else tuple(scale[i] for i in source.tolist())
        order = "L" if recipe.channels == 1 else "RGB"
    stored = recipe.stored or old.stored
    if mean.shape[-1] not in (1, stored):  # a mean image of another size is of no use but for its colour
        mean = mean.mean((1, 2), keepdim=True)
    square = old.square if recipe.square == "auto" else recipe.square
    return Preprocess(stored, recipe.input or old.input, order, scale, mean, square)


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """For each class pictures / (classes · pictures of the class), float32: the mean over pictures is 1."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy((len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32))
