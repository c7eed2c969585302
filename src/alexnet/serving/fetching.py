"""Pictures by address, from below the addresses that the server was told alone; off where it was told none."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from alexnet.base.errors import AlexNetError
from alexnet.serving.limits import Limits, Refused

MOST_WRAPPINGS = 4  # times that a path may be quoted


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address is another question."""

    def redirect_request(self, *given: Any) -> None:
        return None


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
        place = (asked.scheme, asked.hostname, asked.port)
        if _leads_up(asked.path) or asked.username is not None or "\\" in url:
            return False
        return any(
            place == (one.scheme, one.hostname, one.port)
            and (asked.path == one.path or (asked.path or "/").startswith(one.path.rstrip("/") + "/"))
            for one in map(urlsplit, urls)
        )
    except ValueError:
        return False


def _leads_up(path: str) -> bool:
    """Whether any server may read `..` between the path's parts, however it is written."""
    for _ in range(MOST_WRAPPINGS):
        if ".." in re.split(r"[/\\;]", path):
            return True
        path, wrapped = unquote(path), path
        if path == wrapped:
            return False
    return True


async def fetch(url: str, urls: Sequence[str], limits: Limits) -> bytes:
    """The bytes at an address, within the limits of size and time."""
    if not urls:
        raise Refused(403, "pictures by address are off here; send the picture, or start the server with --urls.")
    if not allowed(url, urls):
        raise Refused(403, "this address is none that the server may fetch from; send the picture itself.")
    try:
        async with asyncio.timeout(limits.seconds):
            return await asyncio.to_thread(_read, url, limits)
    except TimeoutError:
        raise Refused(504, f"the address gave no picture within {limits.seconds:g} s; send it itself.") from None


def _read(url: str, limits: Limits) -> bytes:
    opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=limits.seconds) as response:
            found = response.read(limits.upload + 1)
    except urllib.error.HTTPError as error:
        raise Refused(502, f"the address answered {error.code}; send the picture itself.") from None
    except TimeoutError:
        raise
    except (OSError, ValueError):
        raise Refused(502, "the address cannot be read; send the picture itself.") from None
    if len(found) > limits.upload:
        raise Refused(413, f"what is at the address is over {limits.upload:,} bytes, the most that is taken.")
    return found
