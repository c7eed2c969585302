"""`alexnet convert` and `alexnet compare`: weights from one format into another, and whether two answer alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base import hints
from alexnet.base.device import choose_device
from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.pictures import Unreadable
from alexnet.data.preprocess import check_sizes
from alexnet.data.sources import Sources
from alexnet.engines.loading import all_hints, find_weights, load_classifier
from alexnet.networks.model import for_pictures
from alexnet.networks.shapes import check_size
from alexnet.weights import formats
from alexnet.weights.classifier import Classifier, built

RANDOM_PICTURES = 4


def convert(
    source: str | Path,
    target: str | Path,
    variant: str | None = None,
    mean: str | Path | None = None,
    input: int | None = None,
    preprocessing: bool = False,
    eight_bits: bool = False,
    classes: str | Path | None = None,
    key: str | None = None,
    order: str | None = None,
) -> list[Path]:
    """Read MODEL `source`, write `target` in the format of its ending; the files made.

    `variant`, `mean`, `classes`, `key` and `order` say what a file may not, as `alexnet.load` has them; `input` makes
    it a net for crops of another side, of the same pictures; `preprocessing` puts crop, mean and scale inside
    an .onnx; `eight_bits` rounds a .safetensors' weights to int8, the one thing that is not exact.
    """
    source = hints.with_hints(
        source, {"variant": variant, "mean": mean, "classes": classes, "key": key, "order": order}
    )
    found = formats.read(find_weights(source), all_hints(source))
    if input:
        check_size(found.built(), len(found.classes), found.preprocess.channels, input, found.preprocess.input)
        check_sizes(found.preprocess.stored, input)
        found = replace(found, preprocess=replace(found.preprocess, input=input))
    built(found, file=source)  # it must be a whole network, whatever it is written as
    return formats.write(found, Path(target), preprocessing, eight_bits)


@dataclass(frozen=True)
class Difference:
    """The greatest absolute value of a layer in A, and the greatest absolute difference to B's."""

    layer: str
    greatest: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """`layers` are those of the same name and shape in both, in A's order, then `logits`; `same_top1` is a share."""

    pictures: int
    layers: list[Difference]
    same_top1: float | None
    failed: list[dict[str, str]]


def compare(
    a: str | Path | Classifier,
    b: str | Path | Classifier,
    pictures: Sequence[Any] = (),
    device: str | torch.device = "auto",
) -> Comparison:
    """Run two models on the same pictures, each with its own preprocessing; on made-up ones where none are given.

    Classes of the same names in another order are compared by their names.
    """
    place = choose_device(device)
    one, other = (x if isinstance(x, Classifier) else load_classifier(x, place) for x in (a, b))
    order = labels.reordered(one.classes, other.classes)
    greatest: dict[str, list[float]] = {}
    failed: list[dict[str, str]] = []
    seen = agree = 0
    for name, picture in Sources(pictures or _made_up(one)):
        try:
            if isinstance(picture, Unreadable):
                raise picture
            outputs = [_outputs(one, picture), _outputs(other, picture, order)]
        except Unreadable as error:
            failed.append({"file": name, "error": str(error)})
            continue
        seen += 1
        for layer, x in outputs[0].items():
            y = outputs[1].get(layer)
            if y is None or x.shape != y.shape:
                continue
            row = greatest.setdefault(layer, [0.0, 0.0])
            here = [float(x.abs().max()), float((x - y).abs().max())]
            row[:] = np.maximum(row, here).tolist()  # keeps what is no number, which max() may pass over
        if "logits" in greatest:
            agree += int(outputs[0]["logits"].argmax() == outputs[1]["logits"].argmax())
    if not seen:
        bad = failed[0]
        raise AlexNetError(
            f"none of {counted(len(failed), 'picture')} can be read ({bad['file']}: {bad['error']}); give others."
        )
    if not greatest:
        raise AlexNetError("the two models have no layer of the same name and shape; there is nothing to compare.")
    layers = [Difference(name, *row) for name, row in greatest.items()]
    return Comparison(seen, layers, agree / seen if "logits" in greatest else None, failed)


def _made_up(model: Classifier) -> list[np.ndarray]:
    """Noise of the size that the model stores, always the same."""
    draw, size = np.random.default_rng(0), model.preprocess.stored
    shape = (size, size, 3) if model.preprocess.channels == 3 else (size, size)
    return [draw.integers(0, 256, shape, np.uint8) for _ in range(RANDOM_PICTURES)]


@torch.no_grad()
def _outputs(classifier: Classifier, picture: Any, order: list[int] | None = None) -> dict[str, Tensor]:
    """What every layer makes of a picture: float32 on the CPU, by name, and `logits` for the last before softmax.

    Classes come in `order`.
    """
    if classifier.engine is not None:
        pixels = classifier.preprocess.pixels(picture)[None]
        logits = classifier.engine.logits(classifier.preprocess.central(pixels))[0]
        return {"logits": logits if order is None else logits[order]}
    model = classifier.model
    names = [record.name for record in model.variant.layers]
    names = names[: names.index(model.logits) + 1]
    picture = classifier.preprocess.seen(picture)[None].to(classifier.device)
    with for_pictures(model):
        found = model.activations(picture, names, keep=lambda output: output[0].float().cpu().clone())
    if order is not None:
        found[model.logits] = found[model.logits][order]
    return {**found, "logits": found[model.logits]}


def comparison_table(result: Comparison) -> str:
    """The comparison as aligned text."""
    lines = [f"{'layer':<10}{'greatest value':>16}{'greatest difference':>22}"]
    lines += [f"{x.layer:<10}{x.greatest:>16.6g}{x.difference:>22.3g}" for x in result.layers]
    if result.same_top1 is not None:
        lines.append(f"the same class first on {100 * result.same_top1:.1f} % of {counted(result.pictures, 'picture')}")
    return "\n".join(lines)
