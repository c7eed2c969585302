"""A service in this process, and one in another."""

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

from starlette.testclient import TestClient

from alexnet.serving.app import Settings, application
from alexnet.serving.models import Models, opened


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
