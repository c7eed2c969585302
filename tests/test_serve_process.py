"""A server in a process of its own: what clients do wrong costs nobody else's answers, and at the end none is lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from conftest import coloured, encoded
from serving import process

PICTURE = encoded(coloured("green", 3, (64, 64)))
TIMEOUT = 1.5


@pytest.fixture(scope="module")
def server():
    """Its process and its port."""
    with process("tiny", "--timeout", TIMEOUT, "--max-bytes", 100_000, "--batch-size", 8) as (started, _, port):
        ask(port)
        yield started, port


def ask(port: int, content: bytes = PICTURE, **headers: str) -> tuple[int, dict]:
    """Status and answer of POST /predict."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/predict", content, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def memory(process: int) -> int:
    """Bytes that a process has in memory; 0 where the system has no such file."""
    file = Path(f"/proc/{process}/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0


def slowly(port: int, head: bytes, rest: bytes, pause: float) -> tuple[bytes, float]:
    """Send a byte at a time; what comes back, and after how many seconds nothing more does."""
    began = time.monotonic()
    with connected(port) as client:
        client.sendall(head)
        client.settimeout(pause)
        answer = b""
        for byte in rest:
            try:
                client.sendall(bytes([byte]))
                if not (part := client.recv(4096)):
                    break
                answer += part
            except TimeoutError:
                continue
            except OSError:
                break
        return answer, time.monotonic() - began


def test_a_client_that_sends_a_byte_at_a_time_is_ended_while_others_are_answered(server):
    _, port = server
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PICTURE)}\r\n\r\n".encode()
    with ThreadPoolExecutor(2) as many:
        body = many.submit(slowly, port, head, PICTURE, 0.1)
        begin = many.submit(slowly, port, b"", head * 10, 0.1)
        assert ask(port)[0] == 200
        (answer, seconds), (nothing, others) = body.result(), begin.result()
    assert b" 408 " in answer.splitlines()[0]
    assert f"not whole after {TIMEOUT} s" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert nothing == b""
    assert max(seconds, others) < 10 * TIMEOUT


@pytest.mark.parametrize("told", [True, False])
def test_two_hundred_megabytes_are_refused_without_being_kept(server, told):
    started, port = server
    before = memory(started.pid)
    piece, count = bytes(1 << 20), 200
    length = f"Content-Length: {count << 20}" if told else "Transfer-Encoding: chunked"
    with connected(port) as client:
        client.sendall(f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        for _ in range(count):
            client.sendall(piece if told else b"%x\r\n%s\r\n" % (len(piece), piece))
        if not told:
            client.sendall(b"0\r\n\r\n")
        answer = b""
        while part := client.recv(4096):
            answer += part
    assert b" 413 " in answer.splitlines()[0]
    assert "over 100,000 bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert memory(started.pid) - before < 30 << 20
    assert ask(port)[0] == 200


def test_clients_that_go_away_cost_nobody_elses_answer(server):
    _, port = server
    expected = ask(port)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PICTURE)}\r\n\r\n".encode()

    def gone(sent: bytes) -> None:
        with connected(port) as client:
            client.sendall(sent)

    with ThreadPoolExecutor(16) as many:
        left = [many.submit(gone, (head + PICTURE)[: None if n % 2 else -20]) for n in range(20)]
        asked = [many.submit(ask, port) for _ in range(20)]
        assert [one.result() for one in asked] == [expected] * 20
        for one in left:
            one.result()
    assert empty(port)


def waiting(port: int) -> int:
    """How many pictures wait now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/health")
    found = json.loads(connection.getresponse().read())["waiting"]
    connection.close()
    return found


def empty(port: int) -> bool:
    """Whether nothing waits any more, now or soon."""
    return any(waiting(port) == 0 or time.sleep(0.05) for _ in range(100))


@pytest.mark.slow
def test_a_client_that_does_not_take_its_answer_is_ended(server):
    _, port = server
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + encoded(
        Image.new("L", (9, 9))
    )
    form = (part + b"\r\n") * 15 + b"--x--\r\n"
    head = (
        "POST /features?layer=conv1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(form)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(head.encode() + form)
        time.sleep(6 * TIMEOUT)
        answer = b""
        while part := client.recv(1 << 20):
            answer += part
    top, _, content = answer.partition(b"\r\n\r\n")
    assert len(content) < int(re.search(rb"content-length: (\d+)", top)[1])
    assert ask(port)[0] == 200


def test_what_is_no_http_ends_its_own_connection_alone(server):
    _, port = server
    for sent in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * (1 << 20)):
        with connected(port) as client:
            try:
                client.sendall(sent)
                while client.recv(4096):
                    pass
            except ConnectionError:
                pass
    assert ask(port)[0] == 200


def test_a_second_server_on_the_same_port_is_one_sentence(server, refused):
    _, port = server
    assert f"port {port} of 127.0.0.1 is in use" in refused("serve", "tiny", "--port", port)


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_answers_what_it_was_asked():
    with process("tiny", "--batch-size", 2, "--delay", 50) as (started, _, port), ThreadPoolExecutor(24) as many:
        expected = ask(port)
        idle = connected(port)  # one that asks nothing must not keep it
        asked = [many.submit(ask, port) for _ in range(24)]
        while waiting(port) < 12:
            time.sleep(0.01)
        started.send_signal(signal.SIGTERM)
        assert [one.result() for one in asked] == [expected] * 24
        assert started.wait(30) == 143
        with pytest.raises(ConnectionRefusedError):
            connected(port)
        idle.close()
    assert any("stopping" in line for line in started.said)
    assert not any("Traceback" in line for line in started.said)


def page_says(port: int, method: str, path: str, content: bytes = b"") -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, content)
        return connection.getresponse().status
    finally:
        connection.close()


def ended(started, *signals: int) -> tuple[int, float]:
    """The exit status after signals, and after how many seconds."""
    began = time.monotonic()
    for one in signals:
        started.send_signal(one)
        time.sleep(0.5)
    return started.wait(60), time.monotonic() - began


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_server_that_looks_through_many_pictures_is_told_to_stop(tmp_path, end):
    (tmp_path / "0.png").write_bytes(PICTURE)
    for n in range(1, 20_000):
        (tmp_path / f"{n}.png").hardlink_to(tmp_path / "0.png")
    with process("tiny", "--timeout", TIMEOUT, "--pictures", tmp_path) as (started, _, port):
        assert page_says(port, "GET", "/page/patches") == 202
        status, seconds = ended(started, end)
    assert status == 128 + end
    assert seconds < 40  # of some 200 that it would take
    assert not any("Traceback" in line or "Error" in line for line in started.said), started.said


def test_a_server_that_a_script_has_started_beside_itself_tells_its_end_too():
    """What a shell starts with & ignores Ctrl-C, until it says otherwise."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with process("tiny") as (started, _, _):
            assert ended(started, signal.SIGINT)[0] == 130
    finally:
        signal.signal(signal.SIGINT, before)


ENDLESS = """
import time
from alexnet.serving import server

server.LAST = 1

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("ending", flush=True)
    while True:
        time.sleep(1)

server.answer_until_stopped(app, server.bound("127.0.0.1", 0), 0.1, lambda: print("there", flush=True))
"""


@pytest.mark.parametrize(
    ("signals", "least", "most"),
    [((signal.SIGINT,) * 2, 0, 5), pytest.param((signal.SIGTERM,), 5, 20, marks=pytest.mark.slow)],
)
def test_a_server_that_cannot_end_by_itself_is_ended_in_time_or_when_told_twice(signals, least, most):
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout.readline() == "there\n"
            status, seconds = ended(started, *signals)
            assert started.stdout.read() == "ending\n"
        finally:
            started.kill()
    assert status == 128 + signals[0]
    assert least < seconds < most


def test_what_cannot_be_served_is_refused_before_a_port_is_taken(refused, tmp_path):
    assert "does not exist" in refused("serve", tmp_path / "none", "--port", 0)
    assert "cannot be served" in refused("serve", "tiny", "--host", "256.1.1.1")
    assert "what addresses begin with" in refused("serve", "tiny", "--port", 0, "--urls", "example.org")
    assert "--pictures" in refused("serve", "tiny", "--port", 0, "--pictures", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "folder without files" in refused("serve", "tiny", "--port", 0, "--pictures", tmp_path / "empty")
    assert "does not exist" in refused("serve", "tiny", "--port", 0, "--data", tmp_path / "none")
    assert "not an index" in refused("serve", "tiny", "--port", 0, "--index", tmp_path)
    assert "one word" in refused("serve", "tiny", "--port", 0, "--token", "two words")


@pytest.mark.slow
def test_five_hundred_clients_at_once_are_each_answered_or_told_to_come_again():
    with process("tiny") as (_, _, port):
        expected = ask(port)[1]
        clients = [connected(port) for _ in range(500)]
        head = (
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PICTURE)}\r\nConnection: close\r\n\r\n"
        )
        for client in clients:
            client.sendall(head.encode() + PICTURE)
        statuses = []
        for client in clients:
            answer = b""
            with client:
                while part := client.recv(65536):
                    answer += part
            status, content = int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])
            assert content == expected if status == 200 else "try again soon" in content["error"]
            statuses.append(status)
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) >= 256
        assert empty(port)
