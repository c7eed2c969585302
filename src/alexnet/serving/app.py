"""The application: addresses and what answers them, behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from alexnet.serving.batching import Batcher
from alexnet.serving.gate import Counts, Gate
from alexnet.serving.limits import Limits, Refused
from alexnet.serving.models import Models
from alexnet.serving.openapi import FACTS, QUESTIONS, description
from alexnet.serving.page import Page
from alexnet.serving.service import Service, answer

STATIC = Path(__file__).parent / "static"
PAGES = {"/": "index.html", "/docs": "docs.html"}
OPEN = (*PAGES, "/health", "/openapi.json")


@dataclass(frozen=True)
class Settings:
    """How it serves: pictures of a batch, seconds that one waits for others, limits, who may ask, and what for."""

    batch_size: int = 32
    delay: float = 0.005
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    hosts: tuple[str, ...] = ()  # by which the server may be called; none: any
    urls: tuple[str, ...] = ()
    pictures: str | None = None  # a folder in which to look for what excites a map
    data: str | None = None  # on which a run is evaluated for the page


@dataclass
class Application:
    """What is served, as an ASGI application."""

    asgi: ASGIApp
    service: Service
    counts: Counts

    def stopping(self) -> None:
        """Say so in /health."""
        self.service.room.stopping = True


def application(models: Models, settings: Settings) -> Application:
    """Everything put together."""
    counts = Counts()
    batcher = Batcher(settings.batch_size, settings.delay, counts.batch)
    service = Service(models, settings.limits, batcher, settings.urls)
    counts.waiting.set_function(lambda: service.room.pictures)
    page = Page(service, settings.pictures, settings.data)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with batcher:
            yield
        page.jobs.close()
        service.close()

    async def metrics(request: Request) -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)

    async def openapi(request: Request) -> Response:
        """What can be asked."""
        names = [one.name for one in models.all]
        return answer(description(names, settings.token is not None, settings.limits.upload))

    asked = {"/predict": service.predict, "/features": service.features, "/similar": service.similar}
    told = {"/health": service.health, "/metrics": metrics, "/openapi.json": openapi}
    assert set(asked) == set(QUESTIONS)
    assert set(FACTS) <= set(told)
    routes: list[Any] = [_route(path, call, "POST") for path, call in asked.items()]
    routes += [_route(path, call, "GET") for path, call in told.items()]
    routes += [_route(path, _shown((STATIC / name).read_bytes()), "GET") for path, name in PAGES.items()]
    routes += [_route(path, call, method) for path, (method, call) in page.addresses().items()]
    routes.append(Mount("/static", StaticFiles(directory=STATIC)))
    paths = [route.path for route in routes]
    router = Router(routes, redirect_slashes=False, default=_nothing, lifespan=lifespan)
    return Application(Gate(router, counts, paths, settings.token, settings.hosts, OPEN, tuple(PAGES)), service, counts)


def _route(path: str, call: Callable[..., Any], method: str) -> Route:
    """Asked in another way than `method`, it is refused in a sentence."""

    async def endpoint(request: Request) -> Response:
        if request.method not in (method, "HEAD" if method == "GET" else method):
            raise Refused(405, f"{path} takes {method} alone.")
        return await call(request)

    return Route(path, endpoint, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])


def _shown(content: bytes) -> Callable[..., Any]:
    async def endpoint(request: Request) -> Response:
        return Response(content, media_type="text/html", headers={"cache-control": "no-cache"})

    return endpoint


async def _nothing(*_: Any) -> None:
    raise Refused(404, "nothing is at this address; / is the page and /docs says what can be asked.")
