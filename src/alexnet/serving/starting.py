"""`alexnet serve`: everything is checked and loaded, then it says where the page is, and answers until told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data.layouts.registry import find_data
from alexnet.data.sources import Sources
from alexnet.engines.base import package
from alexnet.serving.limits import Limits


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    models: Sequence[str]
    host: str
    port: int
    opens: bool
    indexes: Sequence[str]
    pictures: str | None
    data: str | None
    token: str | None
    urls: Sequence[str]
    batch_size: int
    delay: float  # seconds
    limits: Limits
    engine: str | None
    device: str


def serve_models(asked: Asked, say: Callable[[str], object], end: Callable[[dict[str, Any]], object]) -> None:
    """Serve; `say` gets lines for people, `end` the facts for programs, both before the first answer."""
    for name in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        package(name, "serve", "alexnet serve")
    from alexnet.serving import fetching, models, server
    from alexnet.serving.app import Settings, application

    fetching.check_allowed(asked.urls)
    _check_places(asked)
    listening = server.bound(asked.host, asked.port)  # before the models, which take longer
    try:
        served = models.opened(asked.models, asked.indexes, asked.device, asked.engine, asked.batch_size, say)
        for one in served.all:
            say(f"{one.name}: {summary_line(one)}")
            if far := models.disagreement(one, asked.batch_size):
                say(f"{one.name}: here a picture's probabilities differ by up to {far:.1e} with what is in its batch")
        local = asked.host in server.LOOPBACK
        if not local and asked.token is None:
            say("whoever reaches this machine may ask; --token WORD asks for a word")
        settings = Settings(
            asked.batch_size, asked.delay, asked.limits, asked.token, server.NAMES if local else (), tuple(asked.urls),
            asked.pictures, asked.data,
        )  # fmt: skip
        app = application(served, settings)
    except BaseException:
        listening.close()
        raise
    url = server.address(listening, asked.host)

    def started() -> None:
        say(f"batches of up to {asked.batch_size}, a picture waits {1000 * asked.delay:g} ms for others; Ctrl-C stops")
        say(f"the page is at {url}")
        end({"url": url, "models": [one.name for one in served.all], "port": listening.getsockname()[1]})
        if asked.opens:
            server.open_browser(url + (f"#token={asked.token}" if asked.token else ""))

    def stopping() -> None:
        app.stopping()
        say("stopping: what has been asked is answered still")

    server.answer_until_stopped(app.asgi, listening, asked.limits.seconds, started, stopping)


def _check_places(asked: Asked) -> None:
    """Refuse folders of pictures and data that are none."""
    if asked.pictures is not None:
        if not Path(asked.pictures).exists():
            raise AlexNetError(f"--pictures {asked.pictures} does not exist; give a folder of pictures.")
        next(iter(Sources(asked.pictures)))  # which refuses a folder without any
    if asked.data is not None:
        find_data(asked.data, quiet=False)


def summary_line(one: Any) -> str:
    """A model in a line."""
    classifier = one.classifier
    what = "an export" if classifier.exported else classifier.model.variant.name
    where = classifier.engine.words if classifier.engine else f"torch on {classifier.device}"
    index = f", an index of {counted(len(one.index.filenames), 'picture')}" if one.index else ""
    return f"{what}, {counted(len(classifier.classes), 'class')}, {where}{index}"
