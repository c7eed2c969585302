"""Pictures by address: from where the server was told alone, within its limits, and at nobody else's cost."""

from __future__ import annotations

import http.server
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from alexnet.serving.fetching import allowed
from alexnet.serving.limits import Limits
from alexnet.serving.models import Models, opened
from serving import client, pictures


@pytest.fixture(scope="module")
def models() -> Models:
    return opened(["tiny"])


def test_addresses_are_fetched_from_below_the_allowed_ones_alone_and_redirects_are_not_followed(models):
    (picture,) = pictures(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = "moved" in self.path
            self.send_response(302 if moved else 200)
            self.send_header("Location", "http://localhost/")
            self.end_headers()
            self.wfile.write(b"" if moved else b"0" * 300_000 if "large" in self.path else picture)

        def log_message(self, *given) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{there.server_port}/photos/"
        with client(models, urls=(root,), limits=Limits(200_000)) as service:
            asked = {path: service.post("/predict", json={"url": root + path}) for path in ("a.png", "moved", "large")}
            direct = service.post("/predict", content=picture).json()["results"][0]["classes"]
            other = service.post("/predict", json={"url": root.replace("photos", "private")})
        there.shutdown()
    assert asked["a.png"].json()["results"][0] == {"file": root + "a.png", "classes": direct}
    assert [asked["moved"].status_code, asked["large"].status_code, other.status_code] == [502, 413, 403]


BELOW = {
    # what --urls was given: what is below it, and what is not
    "https://example.org/photos/": (
        ["", "a.jpg", "b/c.jpg", "a.jpg?size=2#top", "a%20b.jpg", "a..b.jpg", "100%25.jpg"],
        [
            "http://example.org/photos/a.jpg", "https://example.org.evil.net/photos/a", "file:///photos/a",
            "https://example.org:444/photos/a", "https://example.org@evil.net/photos/", "https://[/photos/",
            "https://user@example.org/photos/a", "https://example.org/photo", "https://example.org\\@evil.net/photos/",
            "https://example.org/photos%2fa.jpg",
            *("https://example.org/photos/" + up for up in (
                "../private", "%2e%2e/private", "..%2fprivate", "%2e.%2Fprivate", "..%5cprivate", "..;/private",
                "..;a=1/private", ".%5c..%5cprivate", "%252e%252e%252fprivate", "..%25252fprivate", "a/..", "a/%2e%2e",
                "%" + "25" * 50 + "2e./private",
                "..%00/private", ".%09./private", "a%0d%0ab", "a%2500b", "a%7fb", "%00",
            )),
        ],
    ),
    "http://h/photos": (["", "/", "/a.jpg"], [
        "http://h:443/photos/a.jpg", "https://h:80/photos/a.jpg", "http://h:0/photos/a.jpg",
    "http://h/photos-private/a.jpg", "http://h/photosa.jpg", "http://h/"]),
    "http://h": (["", "/", "/a/b.jpg"], ["http://h/../a", "http://h2/", "https://h/"]),
    "http://h:81/a.jpg": ([""], ["http://h/a.jpg", "http://h:81/a.jpg2", "http://h:81/b.jpg"]),
}  # fmt: skip


def test_a_scheme_s_usual_port_may_be_said_or_not():
    for scheme, port in (("http", 80), ("https", 443)):
        plain, said = f"{scheme}://h/photos/", f"{scheme}://h:{port}/photos/"
        assert [allowed(f"{one}a.jpg", [other]) for one in (plain, said) for other in (plain, said)] == [True] * 4


@pytest.mark.parametrize("given", BELOW)
def test_addresses_that_only_look_like_allowed_ones_are_none(given):
    below, others = BELOW[given]
    assert [one for one in below if not allowed(given + one, [given])] == []
    assert [one for one in others if allowed(one, [given])] == []


@contextmanager
def answering(answer: Callable[..., None]) -> Iterator[str]:
    """The address of a server, each of whose connections `answer` gets, and an event that is set at the end."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = self.request.recv(65536).split(b" ")[1].decode()
            with suppress(OSError):  # who asked went away
                answer(self.request, asked, ended)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as there:
        there.daemon_threads = True
        threading.Thread(target=there.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{there.server_address[1]}/"
        finally:
            ended.set()
            there.shutdown()


HEAD = b"HTTP/1.1 200 OK\r\n"
ODD = {
    # what is there: what is asked for, what comes back, words of the sentence
    "a name with a space": ("a b.png", HEAD + b"\r\n", "cannot be read"),
    "a name that is not plain": ("é.png", HEAD + b"\r\n", "cannot be read"),
    "no HTTP": ("a.png", b"SSH-2.0-OpenSSH_9.6\r\n", "cannot be read"),
    "nothing": ("a.png", b"", "cannot be read"),
    "a head without end": ("a.png", HEAD + b"x: " + b"y" * 70_000, "cannot be read"),
    "a thousand heads": ("a.png", HEAD + b"x: y\r\n" * 1000 + b"\r\n", "cannot be read"),
    "a chunk that is none": ("a.png", HEAD + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", "cannot be read"),
    "not found": ("a.png", b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
    "another address": ("a.png", b"HTTP/1.1 307 Moved\r\nLocation: /b.png\r\n\r\n", "answered 307"),
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_is_at_an_address_is_refused_in_a_sentence(models, name):
    asked, sent, words = ODD[name]
    with answering(lambda connection, *_: connection.sendall(sent)) as root, client(models, urls=(root,)) as service:
        found = service.post("/predict", json={"url": root + asked})
    assert found.status_code == 502, found.text
    assert words in found.json()["error"]


def drip(connection, asked: str, ended: threading.Event) -> None:
    """Give a byte now and then: of the head, of the body, or none at all."""
    kind = asked.strip("/0123456789.")
    connection.sendall({"head": b"", "body": HEAD + b"\r\n", "nothing": HEAD + b"\r\n", "chunks": HEAD +
                        b"Transfer-Encoding: chunked\r\n\r\n"}[kind])  # fmt: skip
    endless = {"head": HEAD + b"x: y\r\n" * 99, "body": bytes(999), "nothing": b"", "chunks": b"1\r\nx\r\n" * 99}[kind]
    for byte in endless:
        if ended.wait(0.1):
            return
        connection.sendall(bytes([byte]))
    ended.wait(20)


def test_addresses_that_give_little_at_a_time_block_nothing_and_hold_no_thread():
    seconds = 1.0
    with answering(drip) as root, ThreadPoolExecutor(48) as many:
        with client(["tiny"], urls=(root,), limits=Limits(seconds=seconds)) as service:
            asked = [
                many.submit(service.post, "/predict", json={"url": f"{root}{kind}{n}"})
                for n in range(12)
                for kind in ("head", "body", "nothing", "chunks")
            ]
            time.sleep(seconds / 2)
            began = time.monotonic()
            for path in ("/", "/docs", "/page/examples", "/health"):
                assert service.get(path).status_code == 200
            meanwhile = time.monotonic() - began
            answers = [one.result() for one in asked]
            ends = time.monotonic()
        stopped = time.monotonic() - ends
    assert {one.status_code for one in answers} == {504}
    assert f"no picture within {seconds:g} s" in answers[0].json()["error"]
    assert meanwhile < 5
    assert stopped < 5
