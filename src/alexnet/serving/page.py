"""What the page asks: the network drawn, what it makes of a picture, and a run's progress. All that the page shows is
computed here, by the same functions as `alexnet look`; nothing of it names a place on this machine."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from alexnet.base.errors import AlexNetError
from alexnet.data.pictures import decode
from alexnet.inference.contact_sheet import find_pictures
from alexnet.inference.inside import drawing, fields, heat, maps, views
from alexnet.inference.inside.compare import compare_inside
from alexnet.inference.inside.explained import explained
from alexnet.inference.inside.network_svg import network_svg
from alexnet.inference.inside.where import where
from alexnet.inference.prediction import ranked
from alexnet.serving import examples
from alexnet.serving.jobs import Jobs
from alexnet.serving.limits import Refused, check_pixels
from alexnet.serving.models import Models, Served
from alexnet.serving.runs import Evaluated, evaluated, metrics_after
from alexnet.serving.service import Service, answer, choice, number

SHOWN = 480  # pixels of the longer side of a picture that is only to be looked at
MOST_SHEET = 4096  # pixels across a sheet of maps


class Page:
    """The page's questions; `pictures` is where to look for what excites a map, `data` what a run is evaluated on."""

    def __init__(self, service: Service, pictures: str | None = None, data: str | None = None) -> None:
        self.service, self.pictures, self.models = service, pictures, service.models
        self.data, self.jobs = data, Jobs(service.limits.seconds)

    def addresses(self) -> dict[str, tuple[str, Callable[[Request], Any]]]:
        """Method and endpoint of each address."""
        told = {
            "models": self.about, "network.svg": self.network, "filters": self.filters, "patches": self.patches,
            "indexed": self.indexed, "examples": self.example, "run": self.run, "run/confusion": self.confusion,
            "run/mistake": self.mistake,
        }  # fmt: skip
        asked: dict[str, Callable[..., Any]] = {
            "steps": _steps, "views": _views, "maps": _maps, "heat": _heat, "where": _where, "compare": _compare
        }  # fmt: skip
        gets = {f"/page/{name}": ("GET", call) for name, call in told.items()}
        return gets | {f"/page/{name}": ("POST", self._of_picture(call)) for name, call in asked.items()}

    def _of_picture(self, call: Callable[..., dict[str, Any]]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            model = self.models.pick(request.query_params.get("model"))
            with self.service.room.entered() as entry:
                ((_, picture), *_) = await self.service.pictures(request, entry)
                check_pixels(picture, self.service.limits.pixels)
                return answer(await self.jobs.ask(call, self.models, model, picture, request))

        return endpoint

    # -- without a picture -------------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        """The models, their classes and layers, and what the server was started with."""
        limits = self.service.limits
        facts = {
            "models": [_model(one) for one in self.models.all],
            "examples": list(examples.NAMES),
            "limits": {"upload": limits.upload, "pixels": limits.pixels},
            "pictures": self.pictures is not None,
            "data": self.data is not None,
            "methods": {
                name: {"title": one.title, "says": one.says, "signed": one.signed} for name, one in heat.METHODS.items()
            },
        }
        return answer(facts)

    async def network(self, request: Request) -> Response:
        """The network drawn to scale."""
        model = _with_layers(self.models.pick(request.query_params.get("model"))).classifier.model
        text = network_svg(model.variant, model.classes, model.channels, model.input)
        return Response(text, media_type="image/svg+xml")

    async def filters(self, request: Request) -> Response:
        """The filters of a convolution as one picture."""
        model = _with_layers(self.models.pick(request.query_params.get("model")))
        weights = await self.jobs.ask(maps.filters, model.classifier, request.query_params.get("layer", "conv1"))
        sheet = await self.jobs.ask(drawing.filter_sheet, weights)
        return answer({"shape": list(weights.shape), "sheet": _data(sheet), "colour": sheet.ndim == 3})

    async def patches(self, request: Request) -> Response:
        """The nine pictures of the server's folder that excite a map most, each at its place."""
        model = _with_layers(self.models.pick(request.query_params.get("model")))
        if self.pictures is None:
            raise Refused(422, "there is no folder to look in; start the server with --pictures FOLDER.")
        layer = model.check_layers([request.query_params.get("layer", "conv1")])[0]
        which = number(request, "map", 0, 0, 1_000_000)
        key = ("patches", model.name, layer, which)
        return answer(await self.jobs.keep(key, _patches, model, layer, which, self.pictures, self.jobs.stopped))

    async def indexed(self, request: Request) -> Response:
        """A picture of the index by its row, small."""
        model = self.models.pick(request.query_params.get("model"))
        names = model.index.filenames if model.index else []
        row = number(request, "row", 0, 0, max(0, len(names) - 1))
        if model.index is None or not names:
            raise Refused(404, f"{model.name} has no index.")
        images = model.index.images

        def drawn() -> bytes:
            found = find_pictures(images, [names[row]])
            if names[row] not in found:
                raise AlexNetError("this picture of the index is no longer where it was.")
            return drawing.png(_small(decode(found[names[row]]), 200))

        return Response(await self.jobs.ask(drawn), media_type="image/png", headers={"cache-control": "no-cache"})

    async def example(self, request: Request) -> Response:
        """A picture that ships."""
        name = choice(request, "name", examples.NAMES[0], examples.NAMES)
        kind = "image/jpeg" if name.endswith(".jpg") else "image/png"
        return Response(await asyncio.to_thread(examples.example, name), media_type=kind)

    # -- a run -------------------------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        """The lines of a run's metrics from the `after`-th on."""
        model = self.models.pick(request.query_params.get("model"))
        return answer(await asyncio.to_thread(metrics_after, model, number(request, "after", 0, 0, 10**9 - 1)))

    async def confusion(self, request: Request) -> Response:
        """Who is taken for whom, and the worst mistakes."""
        return answer((await self._evaluated(request)).facts)

    async def mistake(self, request: Request) -> Response:
        """The picture of one of the worst mistakes, small."""
        pictures = (await self._evaluated(request)).pictures
        place = number(request, "place", 0, 0, 1000)
        if place >= len(pictures):
            raise Refused(404, f"there is no such mistake among {len(pictures):,}.")
        return Response(drawing.png(_small(pictures[place], 200)), media_type="image/png")

    async def _evaluated(self, request: Request) -> Evaluated:
        model = self.models.pick(request.query_params.get("model"))
        if self.data is None:
            raise Refused(422, "there is nothing to evaluate on; start the server with --data DATA.")
        return await self.jobs.keep(("evaluated", model.name), evaluated, model, self.data, self.jobs.stopped)


def _patches(model: Served, layer: str, map: int, pictures: str, stopped: Callable[[], bool]) -> dict[str, Any]:
    """The pictures of a folder that excite a map most."""
    found = maps.top_patches(model.classifier, layer, map, [pictures], stopped=stopped)
    patches = [
        {"file": os.path.basename(one.file), "value": one.value, "picture": _data(one.pixels)} for one in found.patches
    ]
    return {"patches": patches, "pictures": found.pictures, "failed": len(found.failed)}


# -- with a picture -----------------------------------------------------------------------------------------------


def _steps(models: Models, model: Served, picture: bytes, request: Request) -> dict[str, Any]:
    """How the picture becomes what the network sees."""
    found = views.preprocessing_steps(model.classifier.preprocess, picture)
    return {"steps": [{"name": one.name, "says": one.says, **_drawn(one.pixels)} for one in found]}


def _views(models: Models, model: Served, picture: bytes, request: Request) -> dict[str, Any]:
    """The ten views and how each votes."""
    found = views.ten(model.classifier, picture)
    votes = [_classes(model, row) for row in found.probabilities]
    shown = [
        {"name": name, "picture": _data(crop), "classes": classes}
        for name, crop, classes in zip(found.names, found.crops, votes, strict=True)
    ]
    return {"views": shown, "mean": _classes(model, found.mean)}


def _maps(models: Models, model: Served, picture: bytes, request: Request) -> dict[str, Any]:
    """A layer's maps on one sheet, gray by one scale, and which is brightest."""
    layer = _with_layers(model).check_layers([request.query_params.get("layer", "conv1")])[0]
    values = maps.maps(model.classifier, picture, layer)
    count, height, width = values.shape
    across = max(1, min(count, MOST_SHEET // width, round(np.sqrt(count * height / width)) or 1))
    sheet = np.zeros((-(-count // across) * height, across * width), np.uint8)
    for place, drawn in enumerate(drawing.in_gray(values)):
        y, x = place // across * height, place % across * width
        sheet[y : y + height, x : x + width] = drawn
    seen = model.classifier.preprocess
    crop = seen.central(seen.pixels(picture)).permute(1, 2, 0).numpy()
    means = values.reshape(count, -1).mean(1, dtype=np.float64)
    net = model.classifier.model
    field = fields.receptive_field(net.variant, layer, net.input)
    return {
        "shape": [count, height, width],
        "across": across,
        # Shares of the picture's side: where the first place's own square begins, and how far the next is from it.
        "field": {
            "start": (field.centre(0) + (1 - field.stride) / 2) / net.input,
            "stride": field.stride / net.input,
        },
        "order": maps.brightest_first(values).tolist(),
        "means": [float(f"{one:.4g}") for one in means],
        "least": float(values.min()),
        "greatest": float(values.max()),
        "sheet": _data(sheet),
        "picture": _data(crop),
    }


def _heat(models: Models, model: Served, picture: bytes, request: Request) -> dict[str, Any]:
    """Where the evidence for a class lies."""
    _with_layers(model)
    method = heat.METHODS[choice(request, "method", "cam", tuple(heat.METHODS))]
    index = number(request, "class", 0, 0, len(model.classifier.classes) - 1)
    values = method.draw(model.classifier, picture, index)
    seen = model.classifier.preprocess
    crop = seen.central(seen.pixels(picture)).permute(1, 2, 0).numpy()
    return {
        "title": method.title,
        "says": method.says,
        "class": model.classifier.classes[index],
        "least": float(values.min()),
        "greatest": float(values.max()),
        "picture": _data(drawing.overlay(crop, values, method.signed)),
        "alone": _data(drawing.heat(values, method.signed)),
    }


def _where(models: Models, model: Served, picture: bytes, request: Request) -> dict[str, Any]:
    """The class map of the whole picture: of a class, or of the one that is most probable anywhere."""
    found = where(_with_layers(model).classifier, picture)
    peaks = found.probabilities.max((1, 2))
    best = np.argsort(-peaks, kind="stable")[:8].tolist()
    index = number(request, "class", best[0], 0, len(peaks) - 1)
    classes = model.classifier.classes
    return {
        "class": classes[index],
        "index": index,
        "shape": list(found.probabilities.shape[1:]),
        "stride": found.stride,
        "input": found.input,
        "size": [found.picture.shape[1], found.picture.shape[0]],
        "peaks": [{"index": one, "label": classes[one], "probability": float(peaks[one])} for one in best],
        "share": float((found.best == index).mean()),
        "picture": _data(drawing.where_picture(found, index, SHOWN)),
    }


def _compare(models: Models, model: Served, picture: bytes, request: Request) -> dict[str, Any]:
    """Two models on the picture."""
    other = _with_layers(models.pick(request.query_params.get("other")))
    found = compare_inside(_with_layers(model).classifier, other.classifier, picture)
    layers = [
        {"layer": one.layer, "greatest": one.greatest, "difference": one.difference, "relative": one.relative,
         "map": _data(drawing.heat(one.map, False)) if one.map.size > 1 else None}
        for one in found.layers
    ]  # fmt: skip
    return {
        "first": {"model": model.name, "classes": [one.as_json() for one in found.first]},
        "second": {"model": other.name, "classes": [one.as_json() for one in found.second]},
        "layers": layers,
        "apart": found.apart,
    }


# -- what they share ------------------------------------------------------------------------------------------------


def _model(one: Served) -> dict[str, Any]:
    classifier = one.classifier
    facts: dict[str, Any] = {
        "name": one.name,
        "classes": classifier.classes,
        "input": classifier.preprocess.input,
        "stored": classifier.preprocess.stored,
        "engine": classifier.engine.words if classifier.engine else f"torch on {classifier.device}",
        "index": one.index.layer if one.index else None,
        "indexed": len(one.index.filenames) if one.index else 0,
        "run": one.run is not None,
        "layers": [],
    }
    if classifier.exported:
        return facts
    shapes, spatial = maps.map_shapes(classifier.model), maps.spatial(classifier.model)
    for row in explained(classifier.model):
        facts["layers"].append({
            "name": row.name, "kind": row.kind, "kernel": row.kernel, "output": row.output,
            "parameters": row.parameters, "macs": row.macs, "formula": row.formula, "paper": row.paper,
            "maps": shapes[row.name][0], "spatial": row.name in spatial, "filters": row.kind == "conv",
        })  # fmt: skip
    return {**facts, "variant": classifier.model.variant.name, "source": classifier.model.variant.source}


def _with_layers(one: Served) -> Served:
    if one.classifier.exported:
        raise Refused(422, f"{one.name} is an export, which answers but has no layers to look into.")
    return one


def _classes(model: Served, probabilities: np.ndarray, count: int = 5) -> list[dict[str, Any]]:
    import torch

    return [one.as_json() for one in ranked(model.classifier, torch.from_numpy(probabilities)[None], count)[0]]


def _small(picture: Image.Image, side: int = SHOWN) -> np.ndarray:
    """A picture for looking at, no longer than `side`."""
    shown = picture.convert("RGB")
    shown.thumbnail((side, side))
    return np.asarray(shown)


def _drawn(pixels: np.ndarray) -> dict[str, Any]:
    """A picture's size and a small copy."""
    height, width = pixels.shape[:2]
    shown = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    small = _small(Image.fromarray(shown)) if max(height, width) > SHOWN else shown
    return {"width": width, "height": height, "picture": _data(small)}


def _data(pixels: np.ndarray) -> str:
    """A PNG that stands in the answer itself."""
    return "data:image/png;base64," + base64.b64encode(drawing.png(pixels)).decode()
