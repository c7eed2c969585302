"""What each layer makes of a picture, as maps; its filters; and the patches of pictures that excite a map most."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from alexnet.base.device import send
from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.base.text import counted
from alexnet.data.pictures import Source
from alexnet.data.sources import Sources
from alexnet.data.stream import named_batches
from alexnet.inference.features import check_layers, outputs
from alexnet.inference.inside.fields import Box, receptive_field
from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import output_shape
from alexnet.weights.classifier import Classifier

BEYOND = 128  # grey level of a patch where its receptive field leaves the picture


def map_shapes(model: AlexNet) -> dict[str, tuple[int, int, int]]:
    """What every layer gives, by name in order: maps, height, width; units are maps of one pixel."""
    shape: tuple[int, ...] = (model.channels, model.input, model.input)
    found = {}
    for record in model.variant.layers:
        shape = output_shape(record, shape, model.classes)
        found[record.name] = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, 1)
    return found


def spatial(model: AlexNet) -> list[str]:
    """The layers that give maps of more than one pixel, in order."""
    return [name for name, shape in map_shapes(model).items() if shape[1] > 1]


def activations(classifier: Classifier, picture: Source, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What the layers of those names make of a picture in the central view, in one pass.

    float32 (C, h, w) by name; of fully connected layers (units, 1, 1).
    """
    wanted = check_layers(classifier.model, names)
    image = classifier.preprocess(picture)[None].to(classifier.device)
    found = outputs(classifier.model, image, wanted)
    return {name: _as_maps(found[name])[0] for name in wanted}


def maps(classifier: Classifier, picture: Source, layer: str) -> np.ndarray:
    """What one layer makes of a picture: float32 (C, h, w)."""
    return activations(classifier, picture, [layer])[layer]


def brightest_first(values: np.ndarray) -> np.ndarray:
    """The maps of (C, h, w), brightest first, that of the greatest mean; equal ones as they stand. int64 (C,)."""
    return np.argsort(-values.reshape(len(values), -1).mean(1, dtype=np.float64), kind="stable")


def filters(classifier: Classifier, layer: str) -> np.ndarray:
    """The filters of a convolution: float32 (F, C / groups, k, k), conv1's channels as in pictures, red first."""
    (layer,) = check_layers(classifier.model, [layer])
    found = {record.name: record for record in classifier.model.variant.layers}
    if not isinstance(found[layer], v.Conv):
        those = ", ".join(name for name, record in found.items() if isinstance(record, v.Conv))
        raise AlexNetError(f"{layer} has no filters that every place shares; those of {those} can be shown.")
    return getattr(classifier.model, layer).weight.detach().float().cpu().numpy()


# -- what excites a map -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patch:
    """Where a map is greatest in a picture: its value and place (row, column) there, and what that place sees.

    `box` is in pixels of the stored picture, of which the central crop alone is seen; `pixels` are in it, uint8
    (size, size, C), grey where it leaves what is seen.
    """

    file: str
    value: float
    place: tuple[int, int]
    box: Box
    pixels: np.ndarray


@dataclass(frozen=True)
class Patches:
    """The patches, greatest value first, of how many pictures, and which could not be read."""

    patches: list[Patch]
    pictures: int
    failed: list[dict[str, str]]


def top_patches(
    classifier: Classifier, layer: str, map: int, pictures: Source | Iterable[Source] | Sources, count: int = 9,
    batch_size: int = 64, quiet: bool = True, stopped: Callable[[], bool] = lambda: False,
) -> Patches:  # fmt: skip
    """The `count` pictures that excite one map of a layer most, each at its greatest place, as patches.

    `stopped` is asked before each batch, and ends the search with an error.
    """
    return top_of_all(classifier, {layer: [map]}, pictures, count, batch_size, quiet, stopped)[layer][map]


def top_of_all(
    classifier: Classifier, chosen: Mapping[str, Sequence[int]], pictures: Source | Iterable[Source] | Sources,
    count: int = 9, batch_size: int = 64, quiet: bool = True, stopped: Callable[[], bool] = lambda: False,
) -> dict[str, dict[int, Patches]]:  # fmt: skip
    """`top_patches` of several maps of several layers, by layer and map, in one pass over the pictures."""
    names, preprocess = check_layers(classifier.model, list(chosen)), classifier.preprocess
    best = {name: {one: _Best(count) for one in _check_maps(classifier, name, chosen[name])} for name in names}
    sources = pictures if isinstance(pictures, Sources) else Sources(pictures)
    where, stored = classifier.device, preprocess.stored
    batches = named_batches(sources, stored, preprocess.channels, batch_size, 0, preprocess.squared, where)
    failed, seen = [], 0
    with Progress("looking", sources.total, "pictures", quiet=quiet) as progress:
        for batch in batches:
            if stopped():
                raise AlexNetError(f"the search was stopped after {counted(seen, 'picture')}; begin it anew.")
            told = list(zip(batch.names, batch.errors, strict=True))
            failed += [{"file": name, "error": error} for name, error in told if error is not None]
            readable = [name for name, error in told if error is None]
            images = preprocess.normalise(preprocess.central(send(batch.pixels, where)))
            for layer, values in outputs(classifier.model, images, names).items():
                for one, kept in best[layer].items():
                    kept.add(readable, _as_maps(values)[:, one], batch.pixels, seen)
            seen += len(readable)
            progress.update(len(batch))
    if not seen:
        said = f" ({failed[0]['file']}: {failed[0]['error']})" if failed else ""
        raise AlexNetError(
            f"none of {counted(len(failed), 'picture')} to find patches in can be read{said}; give a folder of some."
        )
    return {
        layer: {one: Patches(kept.patches(classifier, layer), seen, failed) for one, kept in those.items()}
        for layer, those in best.items()
    }


def _check_maps(classifier: Classifier, layer: str, chosen: Sequence[int]) -> Sequence[int]:
    channels = map_shapes(classifier.model)[layer][0]
    for one in chosen:
        if not 0 <= one < channels:
            raise AlexNetError(f"{layer} has no map {one}; it has {channels:,}, from 0 to {channels - 1:,}.")
    return chosen


def _as_maps(values: np.ndarray) -> np.ndarray:
    """(n, C, h, w) as it is, units (n, C) as maps of one pixel."""
    return values.reshape(*values.shape, *[1] * (4 - values.ndim))


class _Best:
    """The pictures whose greatest value is greatest, the earlier of equal ones."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.heap: list[tuple[float, int, str, tuple[int, int], Tensor]] = []  # numbers differ: no more is compared

    def add(self, names: Sequence[str], values: np.ndarray, pixels: Tensor, seen: int) -> None:
        """A batch: (n, h, w) values of uint8 (n, C, stored, stored) pictures."""
        for number, (name, one) in enumerate(zip(names, values, strict=True)):
            y, x = np.unravel_index(int(one.argmax()), one.shape)
            value, rank = float(one[y, x]), -(seen + number)
            if len(self.heap) < self.count:
                heapq.heappush(self.heap, (value, rank, name, (int(y), int(x)), pixels[number].clone()))
            elif (value, rank) > self.heap[0][:2]:
                heapq.heapreplace(self.heap, (value, rank, name, (int(y), int(x)), pixels[number].clone()))

    def patches(self, classifier: Classifier, layer: str) -> list[Patch]:
        preprocess = classifier.preprocess
        field, low = receptive_field(classifier.model.variant, layer, preprocess.input), preprocess.low
        made = []
        for value, _, name, place, pixels in sorted(self.heap, key=lambda one: one[:2], reverse=True):
            box = field.box(*place)
            patch = _cut(preprocess.central(pixels), box, field.seen(*place))
            made.append(Patch(name, value, place, (box[0] + low, box[1] + low, box[2] + low, box[3] + low), patch))
        return made


def _cut(crop: Tensor, box: Box, seen: Box) -> np.ndarray:
    """uint8 (bottom - top, right - left, C) of a crop (C, h, w), grey in what is not seen of the box."""
    left, top, right, bottom = box
    patch = np.full((bottom - top, right - left, crop.shape[0]), BEYOND, np.uint8)
    x, y, x2, y2 = seen
    patch[y - top : y2 - top, x - left : x2 - left] = crop[:, y:y2, x:x2].permute(1, 2, 0).numpy()
    return patch
