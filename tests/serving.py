"""A service in this process, one in another, and pictures to ask it about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alexnet.inference.similarity import build_index
from alexnet.serving.app import Settings, application
from alexnet.serving.models import Models, opened
from conftest import coloured, encoded, once


def pictures(count: int) -> list[bytes]:
    """Pictures of several sizes and kinds."""
    kinds = [("PNG", {}), ("JPEG", {"quality": 90}), ("WEBP", {}), ("GIF", {})]
    made = []
    for number in range(count):
        kind, options = kinds[number % 4]
        picture = coloured(("blue", "green", "red")[number % 3], number, (60 + 7 * number, 90 - 2 * number))
        made.append(encoded(picture, kind, **options))
    return made


def index_of(tmp_path_factory: pytest.TempPathFactory, run: Path, folders: Path) -> Path:
    """An index of the run over the coloured pictures."""
    return once(tmp_path_factory, "index", lambda out: build_index(run, [str(folders / "train")], out))


@contextmanager
def client(models: Models | Sequence[str], **settings: Any) -> Iterator[TestClient]:
    """Who asks an application that runs meanwhile; `client.service` is what answers."""
    served = models if isinstance(models, Models) else opened(list(models))
    made = application(served, Settings(**settings))
    with TestClient(made.asgi, base_url="http://localhost") as found:
        found.service, found.counts = made.service, made.counts
        yield found


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen, str, int]]:
    """`alexnet serve` in another process, its address and port; killed where it is still there at the end."""
    command = [sys.executable, "-m", "alexnet", "serve", *map(str, arguments), "--json", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(started.stderr), daemon=True)  # so that its pipe never fills
    reader.start()
    started.said = said
    try:
        line = started.stdout.readline()
        assert line, "".join(said)
        facts = json.loads(line)
        yield started, facts["url"], facts["port"]
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()
        reader.join()
        started.stdout.close()
        started.stderr.close()


STATIC = Path(__file__).parent.parent / "src" / "alexnet" / "serving" / "static"
