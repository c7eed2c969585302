"""Similar pictures: the nearest neighbours of a picture by a layer's features (paper §6.1), exact, from an index.

An index is a folder: the features as .npy, the names, and which model, layer and pictures it is of.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alexnet.base import hints
from alexnet.base.device import choose_device
from alexnet.base.distributed import World, alone
from alexnet.base.errors import AlexNetError, check_least
from alexnet.base.files import check_new, writing
from alexnet.data.pictures import Source
from alexnet.data.sources import Sources
from alexnet.engines.loading import load_classifier
from alexnet.inference.feature_folder import ABOUT, COPY, Gathered, fingerprint, gather, some_at_a_time
from alexnet.inference.features import check_layers, feature_batches
from alexnet.networks.model import check_float32
from alexnet.weights.classifier import Classifier

Distance = Literal["euclidean", "cosine"]
DISTANCES = ("euclidean", "cosine")


@dataclass(frozen=True)
class Neighbour:
    """A picture of the index and its distance: Euclidean, or 1 - cosine (0 to 2)."""

    file: str
    distance: float


@dataclass(frozen=True)
class Similar:
    """The nearest pictures of the index, nearest first; or, with `error`, why there are none."""

    file: str
    neighbours: list[Neighbour]
    error: str | None = None


@dataclass(frozen=True)
class Index:
    """Features (pictures, …) of one layer, read from the disk where they are touched, and their names."""

    folder: Path
    model: str
    fingerprint: str
    layer: str
    images: list[str]
    found: Gathered

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> np.ndarray:
        """Opened once, as the names are read once: an index made anew in the same folder has other rows."""
        return self.found.array(self.layer)

    @cached_property
    def filenames(self) -> list[str]:
        return list(self.found.filenames())

    def parts(self) -> Iterator[np.ndarray]:
        """The rows, some at a time."""
        return some_at_a_time(self.rows)


def build_index(
    model: str | Path, images: Sequence[str] | Sources, out: str | Path, layer: str = "fc7", batch_size: int = 64,
    device: str | torch.device = "auto", workers: int = 0, resume: bool = False, quiet: bool = True,
    world: World | None = None,
) -> tuple[Index, list[dict[str, str]]]:  # fmt: skip
    """Write the index of pictures into the new folder `out`; also gives the pictures that could not be read.

    Of several processes in a `world` the first writes, and the others' index cannot be read.
    """
    folder, world = Path(out), world or alone(choose_device(device))
    with world.together():
        if world.first:
            check_new("INDEX", folder)
        classifier = load_classifier(model, world.device)
        (layer,) = check_layers(classifier.model, [layer])
        named = hints.absolute(model)
        sources = images if isinstance(images, Sources) else Sources(images, absolute=True)
    places = sources.places()
    facts = {"index": 1, "layer": layer, "path": named, "images": places}
    part = folder.with_name(folder.name + ".part")
    found = gather(classifier, sources, [layer], part, None, batch_size, workers, resume, quiet, facts, world)
    if not world.first:
        return Index(folder, named, "", layer, places, found), []
    failed = found.failed()
    with writing(folder):
        os.replace(part, folder)
    return open_index(folder), failed


def open_index(path: str | Path) -> Index:
    """The index in a folder that `build_index` made."""
    folder = Path(path)
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        layer = about["layer"]
        found = Gathered(folder, {layer: tuple(about["layers"][layer])})
        index = Index(folder, about["path"], about["model"], layer, about["images"], found)
        if len(index.rows) != len(index.filenames):
            raise ValueError("features and names differ in number")
        return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not os.path.lexists(path):
            raise AlexNetError(f"INDEX {path} does not exist; give a folder that alexnet index has made.") from None
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise AlexNetError(
            f"INDEX {path} is not an index ({said}); give a folder that alexnet index has made."
        ) from None


def similar(
    index: str | Path | Index,
    pictures: Source | Iterable[Source] | Sources,
    count: int = 5,
    distance: Distance = "euclidean",
    model: str | Path | Classifier | None = None,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    quiet: bool = True,
    not_itself: bool = False,
) -> Iterator[Similar]:
    """The `count` pictures of the index nearest to each picture, in float64, so exact but for rounding; ties by order.

    `model` is where the index's model is now, if it was moved; another model than the index's is an error. `device` is
    for a model that is loaded here; what `load` gave stays where it is.
    `not_itself` leaves the picture of the same file out, where the index has it.
    """
    opened = index if isinstance(index, Index) else open_index(index)
    if isinstance(model, Classifier):
        classifier = model
    else:
        where = choose_device(device)
        try:
            classifier = load_classifier(opened.model if model is None else model, where)
        except AlexNetError as error:
            if model is not None:
                raise
            raise AlexNetError(
                f"the model of INDEX {opened.folder} cannot be loaded ({str(error).rstrip('.')}); give where it is now "
                "with --model."
            ) from None
    if classifier.exported:
        check_layers(classifier.model, opened.layer)  # which it says that it has none of
    check_float32(classifier.model)
    if fingerprint(classifier) != opened.fingerprint:
        raise AlexNetError(
            f"INDEX {opened.folder} was made by another model than {model or opened.model} is now; make the index "
            "anew, or give its model with --model."
        )
    check_least("count", count, 1)
    if distance not in DISTANCES:
        raise AlexNetError(f"distance was given '{distance}'; it takes {' or '.join(DISTANCES)}.")
    sources = pictures if isinstance(pictures, Sources) else Sources(pictures)
    return _similar(opened, classifier, sources, count, distance, batch_size, quiet, not_itself)


def _similar(
    index: Index, classifier: Classifier, sources: Sources, count: int, distance: Distance, batch_size: int,
    quiet: bool, not_itself: bool,
) -> Iterator[Similar]:  # fmt: skip
    layer, own = index.layer, Counter(map(_real, index.filenames)) if not_itself else {}
    for batch in feature_batches(classifier, sources, [layer], None, batch_size, total=sources.total, quiet=quiet):
        queries = torch.from_numpy(batch.values[layer]).flatten(1)
        # A file may stand in the index several times.
        more = max((own.get(_real(name), 0) for name in batch.names), default=0)
        asked = min(count + more, len(index.filenames))
        distances, rows = nearest_rows(queries, index.parts(), asked, distance)
        answers = zip(distances.tolist(), rows.tolist(), strict=True)
        for name, error in zip(batch.names, batch.errors, strict=True):
            if error is None:
                found = [Neighbour(index.filenames[int(row)], d) for d, row in zip(*next(answers), strict=True)]
                others = [one for one in found if not (not_itself and _real(one.file) == _real(name))]
                yield Similar(name, others[:count])
            else:
                yield Similar(name, [], error)


def _real(name: str) -> str:
    """Where a picture is, all links followed."""
    folder, file = os.path.split(os.path.abspath(name))
    place = os.path.join(_real_folder(folder), file)
    return os.path.realpath(place) if os.path.islink(place) else place


# Of a large index, looking up every part of every name would take minutes.
_real_folder = lru_cache(1 << 12)(os.path.realpath)


def nearest_rows(queries: Tensor, parts: Iterable[np.ndarray], count: int, distance: Distance) -> tuple[Tensor, Tensor]:
    """Distances float64 and rows int64, both (n, count), nearest first, of queries (n, d) to all rows of the parts."""
    wide = _unit(queries.double()) if distance == "cosine" else queries.double()
    squares = wide.square().sum(1, keepdim=True)
    best = torch.empty(len(wide), 0, dtype=torch.float64)
    rows = torch.empty(len(wide), 0, dtype=torch.int64)
    seen = 0
    for part in parts:
        for some in np.array_split(part, max(1, part.nbytes // (COPY // 4))):
            others = torch.from_numpy(some.reshape(len(some), -1).astype(np.float64))
            if distance == "cosine":
                rough = (1 - wide @ _unit(others).T).clamp(min=0)
            else:
                rough = squares + others.square().sum(1) - 2 * (wide @ others.T)
            near = rough.sort(stable=True, dim=1).indices[:, :count].sort(1).values
            found = rough.gather(1, near)
            if distance == "euclidean":  # of near rows a small difference of large numbers, so these are taken anew
                found = torch.stack([(others[few] - one).norm(dim=1) for one, few in zip(wide, near, strict=True)])
            best = torch.cat([best, found], 1)
            rows = torch.cat([rows, near + seen], 1)
            order = best.sort(stable=True, dim=1).indices[:, :count]  # earlier rows stand first, so they win ties
            best, rows = best.gather(1, order), rows.gather(1, order)
            seen += len(some)
    return best, rows


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1; a vector of zeros stays, at a cosine of 0 to all."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)
