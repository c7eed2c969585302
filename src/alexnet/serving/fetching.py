"""Pictures by address, from below the addresses that the server was told alone; off where it was told none."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from alexnet.base.errors import AlexNetError
from alexnet.serving.limits import Limits, Refused

MOST_WRAPPINGS = 4  # times that a path may be quoted
PORTS = {"http": 80, "https": 443}


class Timed(io.RawIOBase):
    """What a socket gives until a moment of the monotonic clock; then TimeoutError, however little comes at a time."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock, self.until, self.file = sock, until, sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.sock.settimeout(max(1e-3, self.until - time.monotonic()))
        return self.file.readinto(buffer)

    def close(self) -> None:
        self.file.close()
        super().close()


class TimedResponse(HTTPResponse):
    """An answer whose first and last byte come before a moment."""

    def __init__(self, sock: socket.socket, *given: Any, until: float, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(Timed(sock, until))


def check_allowed(urls: Sequence[str]) -> None:
    """Refuse what is no address of http or https with a host."""
    for one in urls:
        parts = urlsplit(one)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AlexNetError(
                f"--urls was given '{one}'; give what addresses begin with, such as https://example.org/photos/."
            )


def allowed(url: str, urls: Sequence[str]) -> bool:
    """Whether an address lies below one of these: the same scheme, host and port, and the same path or one below it."""
    try:
        asked = urlsplit(url)
        if _is_read_otherwise(asked.path) or asked.username is not None or "\\" in url:
            return False
        return any(
            _place(asked) == _place(one)
            and (asked.path == one.path or (asked.path or "/").startswith(one.path.rstrip("/") + "/"))
            for one in map(urlsplit, urls)
        )
    except ValueError:
        return False


def _place(address: SplitResult) -> tuple[str, str | None, int | None]:
    port = PORTS.get(address.scheme) if address.port is None else address.port
    return address.scheme, address.hostname, port


def _is_read_otherwise(path: str) -> bool:
    """Whether any server may read `..` between the path's parts, however it is written, or drop characters of it."""
    for _ in range(MOST_WRAPPINGS):
        if ".." in re.split(r"[/\\;]", path) or re.search(r"[\0-\x1f\x7f]", path):
            return True
        path, wrapped = unquote(path), path
        if path == wrapped:
            return False
    return True


async def fetch(url: str, urls: Sequence[str], limits: Limits, threads: Executor) -> bytes:
    """The bytes at an address, within the limits of size and time; none of the threads is held for longer."""
    if not urls:
        raise Refused(403, "pictures by address are off here; send the picture, or start the server with --urls.")
    if not allowed(url, urls):
        raise Refused(403, "this address is none that the server may fetch from; send the picture itself.")
    until = time.monotonic() + limits.seconds
    try:
        async with asyncio.timeout(limits.seconds):
            return await asyncio.get_running_loop().run_in_executor(threads, _read, url, until, limits.upload)
    except TimeoutError:
        raise Refused(504, f"the address gave no picture within {limits.seconds:g} s; send it itself.") from None


def _read(url: str, until: float, most: int) -> bytes:
    """Ask what was checked, by no proxy; another address, to which it may point, is another question."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    try:
        host = parts.hostname or ""
        with closing(kind(host, parts.port, timeout=max(1e-3, until - time.monotonic()))) as connection:
            connection.response_class = partial(TimedResponse, until=until)  # type: ignore[assignment]
            path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request("GET", path, headers={"User-Agent": "alexnet", "Connection": "close"})
            with connection.getresponse() as response:
                if not 200 <= response.status < 300:
                    raise Refused(502, f"the address answered {response.status}; send the picture itself.")
                found = response.read(most + 1)
    except TimeoutError:
        raise
    except (OSError, ValueError, HTTPException):
        raise Refused(502, "the address cannot be read; send the picture itself.") from None
    if len(found) > most:
        raise Refused(413, f"what is at the address is over {most:,} bytes, the most that is taken.")
    return found
