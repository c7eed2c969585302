"""`alexnet.look`: all that can be seen of a network at work on one picture, as arrays."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch

from alexnet.base.device import choose_device
from alexnet.base.errors import AlexNetError, did_you_mean
from alexnet.base.text import counted, printable
from alexnet.data import labels
from alexnet.data.pictures import Source, Unreadable
from alexnet.data.sources import Sources
from alexnet.engines.loading import load_classifier
from alexnet.inference.features import check_layers
from alexnet.inference.inside import heat, maps
from alexnet.inference.inside.maps import Patches
from alexnet.inference.inside.views import PreprocessingStep, Views, preprocessing_steps, ten
from alexnet.inference.inside.where import Where, where
from alexnet.inference.prediction import ClassProbability, predict
from alexnet.networks import variants as v
from alexnet.networks.model import in_eval_mode
from alexnet.weights.classifier import Classifier

WHAT = ("filters", "maps", "cam", "occlusion", "gradient", "views", "where", "top")
USUAL = ("filters", "maps", "cam", "occlusion", "views")
BRIGHTEST = 9  # maps of a layer whose patches are shown


@dataclass(frozen=True)
class Look:
    """What was asked for; the rest is empty or None.

    `classes` are the most probable, `class_index` is the one that heat maps are of; `picture` is what the network sees,
    uint8 (input, input, C), and `steps` how it came to be. By layer: `filters` float32 (F, C, k, k), `maps` (C, h, w),
    `top` patches by map. `heat` is float32 (input, input) by method: cam, occlusion, gradient.
    """

    classifier: Classifier
    classes: list[ClassProbability]
    class_index: int
    picture: np.ndarray
    steps: list[PreprocessingStep]
    filters: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    heat: dict[str, np.ndarray] = field(default_factory=dict)
    views: Views | None = None
    where: Where | None = None
    top: dict[str, dict[int, Patches]] = field(default_factory=dict)

    @property
    def failed(self) -> list[dict[str, str]]:
        """Which pictures could not be read in looking for patches."""
        return next((found.failed for those in self.top.values() for found in those.values()), [])

    @property
    def says(self) -> str:
        """In a line: the answer, and the class that heat maps are of where it is another."""
        first = self.classes[0]
        other = self.classifier.classes[self.class_index]
        of = f"; heat maps of {other}" if self.heat and other != first.label else ""
        return f"{first.label}, {100 * first.probability:.2f} %{of}"


def _single(given: Source) -> tuple[str, Source]:
    """The one picture that is meant, read once where it can be read but once, and its name."""
    said = printable(str(given)) if isinstance(given, str | Path) else "what was given"
    if isinstance(given, str | Path) and Path(given).is_dir():
        raise AlexNetError(f"{said} is a folder, and one picture is looked at; give one in it.")
    found = list(islice(Sources(given), 2))
    if len(found) != 1:
        many = "several pictures, and one is looked at; give one of them" if found else "no picture; give one"
        raise AlexNetError(f"{said} holds {many}.")
    ((name, picture),) = found
    if isinstance(picture, Unreadable):
        raise AlexNetError(f"{printable(name)} cannot be read ({picture}); give another picture.")
    return printable(name), picture


def look(
    model: str | Path | Classifier,
    picture: Source,
    what: str | Sequence[str] = USUAL,
    layers: str | Sequence[str] | None = None,
    of: str | int | None = None,
    pictures: Source | Iterable[Source] | Sources | None = None,
    device: str | torch.device = "auto",
    quiet: bool = True,
) -> Look:
    """Look inside a network at work on a picture.

    `model` is a run folder, a file of weights, the name of published ones, or what `load` gives; `picture` a path,
    encoded bytes, an open file, a PIL image, a uint8 array (H, W[, C]) or a tensor (C, H, W). `what` names any of
    filters, maps, cam, occlusion, gradient, views, where and top; `layers` are those whose maps and patches are given
    (None: all with maps), `of` is the class of the heat maps (None: the most probable), `pictures` are those in which
    top finds patches, `device` is for a model that is loaded here: what `load` gave stays where it is. Raises
    AlexNetError for a model or picture that cannot be read and names that are not there.
    """
    what = [what] if isinstance(what, str) else what
    check_what(what)
    classifier = model if isinstance(model, Classifier) else load_classifier(model, choose_device(device))
    names = maps.spatial(classifier.model) if layers is None else check_layers(classifier.model, layers)
    name, picture = _single(picture)
    one = predict(classifier, picture)[0]
    if one.error is not None:
        raise AlexNetError(f"{name} cannot be read ({one.error}); give another picture.")
    index = one.classes[0].index if of is None else class_of(classifier, of)
    with in_eval_mode(classifier.model):
        preprocess = classifier.preprocess
        crop = preprocess.central(preprocess.pixels(picture)).permute(1, 2, 0).numpy()
        values = maps.activations(classifier, picture, names) if {"maps", "top"} & set(what) else {}
        drawn = {name: way.draw(classifier, picture, index) for name, way in heat.METHODS.items() if name in what}
        return Look(
            classifier, one.classes, index, np.ascontiguousarray(crop), preprocessing_steps(preprocess, picture),
            filters=filters_by_layer(classifier) if "filters" in what else {},
            maps=values if "maps" in what else {},
            heat=drawn,
            views=ten(classifier, picture) if "views" in what else None,
            where=where(classifier, picture) if "where" in what else None,
            top=_top(classifier, values, layers, pictures, quiet) if "top" in what else {},
        )  # fmt: skip


def check_what(what: Sequence[str], known: Sequence[str] = WHAT) -> None:
    """Refuse what cannot be looked at."""
    for name in what:
        if name not in known:
            raise AlexNetError(
                f"there is no '{name}' to look at{did_you_mean(name, known)} It takes {', '.join(known)}."
            )
    if not what:
        raise AlexNetError(f"nothing was named to look at; give any of {', '.join(known)}.")


def class_of(classifier: Classifier, given: str | SupportsIndex) -> int:
    """The index of a class by its name, WordNet id or index."""
    if isinstance(given, bool) or not isinstance(given, str | SupportsIndex):
        raise AlexNetError(f"a class was given as {type(given).__name__}; give a name, WordNet id or number.")
    if not isinstance(given, str):
        return heat.check_class(classifier, operator.index(given))
    known = labels.position(classifier.classes)
    if given in known:
        return known[given]
    if given.isdecimal():
        return heat.check_class(classifier, int(given))
    raise AlexNetError(
        f"MODEL knows no class '{given:.60}'{did_you_mean(given, known)} Give a name, WordNet id or number of one of "
        f"its {counted(len(classifier.classes), 'class')}."
    )


def filters_by_layer(classifier: Classifier) -> dict[str, np.ndarray]:
    """The filters of every convolution, by layer."""
    records = classifier.model.variant.layers
    return {one.name: maps.filters(classifier, one.name) for one in records if isinstance(one, v.Conv)}


def _top(
    classifier: Classifier, values: dict[str, np.ndarray], layers: str | Sequence[str] | None, pictures, quiet: bool
) -> dict[str, dict[int, Patches]]:
    """Of the maps that are brightest in the picture; unless layers were named, of the convolutions' alone."""
    if pictures is None:
        raise AlexNetError("top shows patches of other pictures; name them: a folder, files or archives.")
    weighted = [one.name for one in classifier.model.variant.layers if isinstance(one, v.Conv | v.Local)]
    chosen = {
        name: maps.brightest_first(found)[:BRIGHTEST].tolist()
        for name, found in values.items()
        if layers is not None or name in weighted
    }
    return maps.top_of_all(classifier, chosen, pictures, quiet=quiet)
