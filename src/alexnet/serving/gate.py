"""What every request passes: who may ask, what is answered to those who may not, what is counted."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alexnet.serving.limits import Refused

LINGER = 5.0  # seconds in which the rest of a refused upload is thrown away, so that its sender reads the answer
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
log = logging.getLogger("alexnet.serving")


class Counts:
    """What /metrics tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("alexnet_requests", "Requests by address and status.", ["path", "status"], **given)
        self.seconds = Histogram("alexnet_request_seconds", "Seconds of a request.", ["path"], buckets=SECONDS, **given)
        self.pictures = Histogram(
            "alexnet_batch_pictures", "Pictures of a batch.", buckets=[2**n for n in range(9)], **given
        )
        self.network = Histogram("alexnet_batch_seconds", "Seconds of a batch.", buckets=SECONDS, **given)
        self.waiting = Gauge("alexnet_waiting_pictures", "Pictures of requests that are not answered yet.", **given)

    def batch(self, size: int, seconds: float) -> None:
        """A batch was computed."""
        self.pictures.observe(size)
        self.network.observe(seconds)


class Gate:
    """The application behind its checks; `hosts` are the names that it may be asked by (none: any), `open` the
    addresses that need no token, `pages` those to which other sites may have links."""

    def __init__(
        self, app: ASGIApp, counts: Counts, paths: Sequence[str], token: str | None = None, hosts: Sequence[str] = (),
        open: Sequence[str] = (), pages: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.app, self.counts, self.paths, self.token, self.hosts, self.open = app, counts, paths, token, hosts, open
        self.pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # nobody was there any more
        whole = False  # whether all that the client sends has come

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, received, sent)
        except Refused as error:
            await refuse(error, scope, None if whole else receive, sent)
        except HTTPException as error:  # of static files
            await refuse(Refused(error.status_code, "no file is at this address."), scope, None, sent)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a request could not be answered")
            if status == 499:
                await refuse(Refused(500, "the server failed at this; what it printed says why."), scope, None, sent)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.counts.requests.labels(path, str(status)).inc()
            self.counts.seconds.labels(path).observe(time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        if self.hosts and name.lower() not in self.hosts:
            raise Refused(421, "this server answers to localhost alone; ask it by that name, or start it with --host.")
        origin = headers.get(b"origin", b"").decode("latin-1").rpartition("//")[2]
        # Browsers leave Sec-Fetch-Site out where a page has come by plain http from another machine.
        site = headers.get(b"sec-fetch-site", b"cross-site" if origin not in ("", host) else b"")
        goes = scope["path"] in self.pages and headers.get(b"sec-fetch-mode", b"navigate") == b"navigate"
        if site not in (b"", b"same-origin", b"none") and not goes:  # another port is same-site
            raise Refused(403, "other sites' pages may not ask this server, nor those of another port.")
        if self.token is None or scope["path"] in self.open or scope["path"].startswith("/static/"):
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            raise Refused(401, "this server asks for its token; send it as the header Authorization: Bearer TOKEN.")


async def refuse(error: Refused, scope: Scope, receive: Receive | None, send: Send) -> None:
    """Answer with a sentence; where `receive` has more to give, throw that away for a while."""
    content = json.dumps({"error" if error.status >= 400 else "wait": error.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (202, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    asked = {name for name, _ in scope["headers"]}
    if error.status == 413 and receive is not None and b"expect" not in asked:
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await _throw_away(receive)
        content = b""
    await send({"type": "http.response.body", "body": content, "more_body": False})


async def _throw_away(receive: Receive) -> None:
    try:
        async with asyncio.timeout(LINGER):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        pass
