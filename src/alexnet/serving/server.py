"""The server: one socket, connections that cannot stay for ever, and an end that answers what has come before."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alexnet.base.errors import AlexNetError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NAMES = ("localhost", "127.0.0.1", "[::1]")  # by which browsers call these
MOST_CONNECTIONS = 900  # below the 1,024 open files that many systems give a process
LAST = 5  # seconds after those in which all is answered
MOST_HEAD = 320 << 10  # bytes before a head is whole; asyncio reads 256 KiB at once, of which a body may be part
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 58\r\n\r\n{"error": "too many connections are open; try again soon"}'
)


class Patient(HttpToolsProtocol):
    """HTTP whose heads must be whole within some seconds, and whose answers must be taken within thrice as many."""

    seconds: float
    timer: asyncio.TimerHandle | None = None  # until a head is whole
    last: asyncio.TimerHandle | None = None  # until an answer is taken
    head = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(FULL)
            transport.close()
        else:
            self.timer = self.loop.call_later(self.seconds, self.late)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.head += len(data)
            if self.head > MOST_HEAD:
                self.transport.abort()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self.head = 0
        super().on_headers_complete()

    def late(self) -> None:
        """End a connection whose head is not whole; a request has its own limits for upload and answer."""
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting or self.timer is None:
            self.transport.abort()
        else:
            self.timer, rest = None, 3 * self.seconds
            self.last = self.loop.call_later(rest, self.transport.abort)

    def on_response_complete(self) -> None:
        self.end_timers()
        super().on_response_complete()
        if not self.transport.is_closing():
            self.timer = self.loop.call_later(self.seconds, self.late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end_timers()
        super().connection_lost(exc)

    def end_timers(self) -> None:
        for timer in (self.timer, self.last):
            if timer is not None:
                timer.cancel()
        self.timer = self.last = None


def protocol(seconds: float) -> type[HttpToolsProtocol]:
    """`Patient` for so many seconds: a class, of which uvicorn makes one for each connection."""
    return type("Patient", (Patient,), {"seconds": seconds})


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; a port that is taken, or a host that is none of this machine's, is an error."""
    found = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
        found.setblocking(False)
        return found
    except OSError as error:
        if found is not None:
            found.close()
        raise AlexNetError(_unserved(error, host, port)) from None


def _unserved(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another alexnet serve; give another with --port, or 0 for "
            "any that is free."
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not for this user; give one above 1023 with --port."
    return f"--host {host} --port {port} cannot be served ({error.strerror or error}); give another."


class Server(uvicorn.Server):
    """uvicorn's, which says where it is, and tells its application first that it will stop."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], object], stopping: Callable[[], object]) -> None:
        super().__init__(config)
        self.at_start, self.at_stop = started, stopping
        self.status = 128
        self.last = threading.Timer(0, lambda: None)  # to the end of a process that does not end by itself

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.at_start()

    async def shutdown(self, sockets: Any = None) -> None:
        self.at_stop()
        self.last = threading.Timer((self.config.timeout_graceful_shutdown or 0) + LAST, self.end)
        self.last.daemon = True
        self.last.start()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; told so twice, at once."""
        self.status = 128 + sig
        if self.should_exit and sig == signal.SIGINT:
            self.end()
        super().handle_exit(sig, frame)

    def end(self) -> None:
        """End the process, whatever its threads compute, which cannot be stopped."""
        os._exit(self.status)


def answer_until_stopped(
    app: ASGIApp, listening: socket.socket, seconds: float, started: Callable[[], object],
    stopping: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Answer until a signal says to stop; then what has been asked is answered still, and the signal goes on."""
    config = uvicorn.Config(
        app, http=protocol(seconds), ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        timeout_keep_alive=5, timeout_graceful_shutdown=int(3 * seconds) + 5, backlog=2048,
    )  # fmt: skip
    server = Server(config, started, stopping)
    try:
        server.run(sockets=[listening])
    finally:
        server.last.cancel()
    if server.status == 128 + signal.SIGINT:  # uvicorn's own is lost where a script's & has it ignored
        raise KeyboardInterrupt


def address(listening: socket.socket, host: str) -> str:
    """Where a browser finds it."""
    port = listening.getsockname()[1]
    shown = "localhost" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def open_browser(url: str) -> None:
    """Show the page, from a thread: some browsers answer only when they are closed."""
    threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
