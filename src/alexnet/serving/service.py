"""The service: POST /predict, /features and /similar, and what programs ask about it."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from alexnet.base import tables
from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted, encodable
from alexnet.base.version import __version__
from alexnet.data.pictures import Unreadable
from alexnet.serving import fetching
from alexnet.serving.batching import Batcher, Compute
from alexnet.serving.limits import Limits, Refused, Room, body, check_pixels
from alexnet.serving.models import Models, Served
from alexnet.serving.openapi import QUESTIONS

FETCHERS = 16  # addresses that are asked at once
MOST_PARTS = 64  # pictures of one request
MOST_VALUES = 1_000_000  # features in one answer, which are 20 MB of JSON


class InMemory(MultiPartParser):
    """Keeps what it parses in memory: the upload's size is limited already."""

    spool_max_size = 1 << 40


@dataclass
class Service:
    """What the endpoints share."""

    models: Models
    limits: Limits
    batcher: Batcher
    urls: Sequence[str] = ()  # addresses below which pictures may be fetched
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(self.limits)
        self.decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        self.fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")

    def close(self) -> None:
        """End its threads."""
        for threads in (self.decoders, self.fetchers):
            threads.shutdown(cancel_futures=True)

    # -- endpoints ---------------------------------------------------------------------------------------------

    async def predict(self, request: Request) -> Response:
        """The most probable classes of each picture."""
        model = self.models.pick(request.query_params.get("model"))
        topk = number(request, "topk", 5, 1, 1_000_000)
        views = number(request, "views", 1, 1, 10)
        if views not in (1, 10):
            raise Refused(422, f"views was given {views}; it takes 1 or 10.")

        def told(classes: Any) -> dict[str, Any]:
            return {"classes": [one.as_json() for one in classes]}

        return await self._answer(request, model, ("predict", topk, views), model.predictions(topk, views), told)

    async def features(self, request: Request) -> Response:
        """What layers make of each picture; `format=npy` is one layer of one picture as a NumPy file."""
        model = self.models.pick(request.query_params.get("model"))
        names = model.check_layers(request.query_params.getlist("layer") or ["fc7"])
        pool = choice(request, "pool", "", ("", "mean", "max")) or None
        form = choice(request, "format", "json", ("json", "npy"))
        if form == "npy" and len(names) > 1:
            raise Refused(422, "format=npy holds one layer; leave the others out.")

        def told(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
            return {"layers": {k: {"shape": list(x.shape), "values": x.ravel().tolist()} for k, x in values.items()}}

        def npy(values: Mapping[str, np.ndarray]) -> bytes:
            file = io.BytesIO()
            np.save(file, values[names[0]])
            return file.getvalue()

        key, most = ("features", *names, pool), 1 if form == "npy" else MOST_VALUES // model.values(names, pool)
        return await self._answer(request, model, key, model.layers(names, pool), npy if form == "npy" else told, most)

    async def similar(self, request: Request) -> Response:
        """The pictures of the index that are nearest to each picture."""
        model = self.models.pick(request.query_params.get("model"))
        count = number(request, "count", 5, 1, 1000)
        distance = choice(request, "distance", "euclidean", ("euclidean", "cosine"))
        compute = model.nearest(count, distance)
        names = model.index.filenames if model.index else []

        def told(rows: Any) -> dict[str, Any]:
            return {
                "neighbours": [
                    {"file": os.path.basename(names[row]), "row": row, "distance": tables.seven(far)}
                    for row, far in rows
                ]
            }

        return await self._answer(request, model, ("similar", count, distance), compute, told)

    async def health(self, request: Request) -> Response:
        """Whether it answers, what it serves, and how many pictures wait."""
        status = "stopping" if self.room.stopping else "ok"
        facts = {"status": status, "version": __version__, "models": [one.name for one in self.models.all]}
        return answer({**facts, "waiting": self.room.pictures}, 503 if self.room.stopping else 200)

    # -- what they share ---------------------------------------------------------------------------------------

    async def _answer(
        self, request: Request, model: Served, key: tuple, compute: Compute, told: Callable[[Any], Any],
        most: int = MOST_PARTS,
    ) -> Response:  # fmt: skip
        _check_asked(request, f"/{key[0]}")
        with self.room.entered() as entry:
            named = await self.pictures(request, entry)
            if len(named) > most:
                raise Refused(
                    413, f"the answer to {counted(len(named), 'picture')} would be too large; ask about "
                    f"{max(1, most)} at once, for fewer layers, or with pool."
                )  # fmt: skip
            entry.count(len(named))
            asked = [self.one(model, key, compute, picture) for _, picture in named]
            try:
                async with asyncio.timeout(self.limits.seconds):
                    found = await asyncio.gather(*asked)
            except TimeoutError:
                raise Refused(
                    503, f"there was no answer within {self.limits.seconds:g} s; try again when less is asked."
                ) from None
        return await asyncio.get_running_loop().run_in_executor(self.decoders, _told, model, named, found, told)

    async def one(self, model: Served, key: tuple, compute: Compute, picture: bytes) -> Any:
        """What a batch makes of one picture, or why it is refused."""
        loop = asyncio.get_running_loop()
        try:
            square = await loop.run_in_executor(self.decoders, self.decoded, model, picture)
            return await self.batcher.ask((model.name, *key), compute, square)
        except Refused as error:
            return error
        except Unreadable as error:
            return Refused(422, f"it cannot be read: {error}")
        except AlexNetError as error:  # such as ten views of an engine that does not take them
            return Refused(422, str(error))

    def decoded(self, model: Served, picture: bytes) -> np.ndarray:
        """The square that a model takes of a file's bytes, within the limit of pixels."""
        check_pixels(picture, self.limits.pixels)
        return model.square(picture)

    async def pictures(self, request: Request, entry: Any) -> list[tuple[str, bytes]]:
        """The pictures of a request by name: its body, the files of a form, or what an address gives."""
        sent = await body(request, self.limits, entry)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            found, url = await _of_form(request, sent)
        elif kind == "application/json":
            found, url = [], _of_json(sent)
        else:
            found, url = [("picture 0", sent)], None
        if url is not None:
            found.append((url, await fetching.fetch(url, self.urls, self.limits, self.fetchers)))
        if not found:
            raise Refused(422, "the request has no picture; send its bytes, or a form with files.")
        return found


def _told(
    model: Served, named: Sequence[tuple[str, bytes]], found: Sequence[Any], told: Callable[[Any], Any]
) -> Response:
    """The answer about every picture; where none could be read, what is wrong with the first."""
    results, failed, status = [], [], 200
    for (name, _), one in zip(named, found, strict=True):
        if isinstance(one, Refused):
            failed.append({"file": name, "error": one.sentence})
            status = one.status
        elif isinstance(said := told(one), bytes):
            return Response(said, media_type="application/x-npy")
        else:
            results.append({"file": name, **said})
    if not results:
        raise Refused(status, _sentence(failed[0]))
    return answer({"model": model.name, "results": results, "failed": failed})


async def _of_form(request: Request, sent: bytes) -> tuple[list[tuple[str, bytes]], str | None]:
    async def whole() -> Any:
        yield sent
        yield b""

    try:
        form = await InMemory(request.headers, whole(), max_files=MOST_PARTS, max_fields=8).parse()
    except (MultiPartException, KeyError) as error:
        raise Refused(
            422, f"the form cannot be read ({getattr(error, 'message', error)}); send files in its parts."
        ) from None
    found: list[tuple[str, bytes]] = []
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            found.append((value.filename or f"picture {len(found)}", await value.read()))
    await form.close()
    url = form.get("url")
    return found, url if isinstance(url, str) else None


def _of_json(sent: bytes) -> str:
    try:
        url = json.loads(sent)["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        url = None
    if not isinstance(url, str):
        raise Refused(422, 'a JSON request is {"url": "…"}; send a picture\'s bytes otherwise.')
    return url


def _sentence(failed: dict[str, str]) -> str:
    return f"{failed['file']}: {failed['error']}"


def _check_asked(request: Request, question: str) -> None:
    """Refuse what the address says beyond the parameters, or twice: it would be left out in silence."""
    known = {one.name: one.schema for one in QUESTIONS[question][3]}
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise Refused(422, f"there is no parameter {name:.80}; {question} takes {', '.join(known)}.")
        if len(request.query_params.getlist(name)) > 1 and known[name].get("type") != "array":
            raise Refused(422, f"{name} was given more than once; give it once.")


def number(request: Request, name: str, usual: int, least: int, most: int) -> int:
    """A whole number that the address says."""
    given = request.query_params.get(name, str(usual))
    if not (given.isdecimal() and len(given) < 10 and least <= int(given) <= most):
        raise Refused(422, f"{name} was given '{given:.80}'; it takes a whole number from {least} to {most:,}.")
    return int(given)


def choice(request: Request, name: str, usual: str, known: Sequence[str]) -> str:
    """One of a few words that the address says."""
    given = request.query_params.get(name, usual)
    if given not in known:
        raise Refused(422, f"{name} was given '{given:.80}'; it takes {', '.join(filter(None, known))}.")
    return given


def answer(facts: Any, status: int = 200) -> Response:
    """JSON that every reader takes."""
    return Response(json.dumps(_plain(facts)), status, media_type="application/json")


def _plain(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {_plain(key): _plain(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_plain(one) for one in facts]
    if isinstance(facts, float):
        return facts if math.isfinite(facts) else None  # JSON has no other numbers
    return encodable(facts) if isinstance(facts, str) else facts
