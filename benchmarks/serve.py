"""`alexnet serve` under load against `alexnet.predict` on the same pictures: throughput, waiting, memory, and its end.

    python benchmarks/serve.py                                   # tiny, 20,000 requests, batches of 32
    python benchmarks/serve.py --requests 200 --json FILE        # to see that it works

The server is a process of its own on this machine's loopback; so is who asks: twice as many connections as a batch has
pictures, each of which asks again as soon as it is answered. They share the cores, so what asking costs counts against
the server. `predict` takes turns with it, in batches of the same size, on the same JPEG files' bytes; every answer of
the server is compared with its. Waiting is to be within twice the delay and two batches, as the server counts these.
At the end it is told to stop while it is asked: what it has taken by then is to be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from alexnet import load, predict
from alexnet.engines import choosing

PICTURES = 64  # that are asked about, in turn
TURNS = 4  # of predict and the server
SIDE = 256  # pixels of their shorter side, as photographs are stored


def pictures(count: int) -> list[bytes]:
    """Smooth colours with grain as JPEG files, always the same."""
    base = load("tiny").preprocess
    made = []
    for pixels in choosing.made_up_batch(base, count):
        file = io.BytesIO()
        Image.fromarray(pixels).resize((SIDE * 4 // 3, SIDE)).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def asking(port: int, contents: list[bytes], count: int, connections: int, pipe) -> None:
    """Ask `count` times; sends seconds of each request, the answers by picture, and what went wrong."""
    pipe.send(asyncio.run(_asking(port, contents, count, connections)))


async def _asking(port: int, contents: list[bytes], count: int, connections: int) -> tuple:
    asked = iter(range(count))
    seconds, answers, wrong = [], {}, []
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
    requests = [head.format(len(one)).encode() + one for one in contents]

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for number in asked:
                began = time.perf_counter()
                writer.write(requests[number % len(requests)])
                top = await reader.readuntil(b"\r\n\r\n")
                content = await reader.readexactly(int(re.search(rb"content-length: (\d+)", top)[1]))
                seconds.append(time.perf_counter() - began)
                if b" 200 " not in top[:16]:
                    wrong.append(content.decode())
                elif answers.setdefault(number % len(requests), content) != content:
                    wrong.append(f"picture {number % len(requests)} was answered in two ways")
        except (OSError, asyncio.IncompleteReadError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
        finally:
            writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one_connection() for _ in range(connections)))
    return time.perf_counter() - began, seconds, answers, wrong


class Server:
    """`alexnet serve` in a process of its own."""

    def __init__(self, model: str, batch: int, delay: float) -> None:
        command = [sys.executable, "-m", "alexnet", "serve", model, "--json", "--port", "0"]
        options = ["--batch-size", batch, "--delay", 1000 * delay]
        self.process = subprocess.Popen([*command, *map(str, options)], stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]

    def memory(self) -> float:
        """MB that it has in memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def batches(self) -> tuple[float, float, float]:
        """How many it has computed, their pictures, their seconds."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            text = response.read().decode()
        names = ("alexnet_batch_seconds_count", "alexnet_batch_pictures_sum", "alexnet_batch_seconds_sum")
        return tuple(float(re.search(rf"^{name} (\S+)$", text, re.M)[1]) for name in names)

    def start(self, *given) -> tuple:
        """Somebody begins to ask, in another process."""
        here, there = get_context("spawn").Pipe()
        worker = get_context("spawn").Process(target=asking, args=(self.port, *given, there))
        worker.start()
        return worker, here

    def asked(self, *given) -> tuple:
        worker, pipe = self.start(*given)
        found = pipe.recv()
        worker.join()
        return found


def measure(model: str, requests: int, batch: int, delay: float) -> dict:
    """The figures, each a list by turn where there are several."""
    contents, classifier = pictures(PICTURES), load(model)
    expected = [
        json.dumps([c.as_json() for c in one.classes]) for one in predict(classifier, contents, batch_size=batch)
    ]
    server, part, connections = Server(model, batch, delay), requests // TURNS, 2 * batch
    server.asked(contents, min(part, 4 * batch), connections)
    speeds, served, seconds, memory, wrong, right = [], [], [], [server.memory()], [], True
    before = server.batches()
    for _ in range(TURNS):
        many = [contents[n % PICTURES] for n in range(max(batch, part // 4))]
        began = time.perf_counter()
        predict(classifier, many, batch_size=batch)
        speeds.append(len(many) / (time.perf_counter() - began))
        took, each, answers, failures = server.asked(contents, part, connections)
        served.append(len(each) / took)
        seconds += each
        wrong += failures
        memory.append(server.memory())
        right &= all(json.dumps(json.loads(a)["results"][0]["classes"]) == expected[n] for n, a in answers.items())
    count, taken, spent = (after - b for after, b in zip(server.batches(), before, strict=True))
    worker, pipe = server.start(contents, 10**9, connections)
    time.sleep(2)
    server.process.send_signal(signal.SIGTERM)
    lost = [text for text in pipe.recv()[3] if "IncompleteRead" in text and "0 bytes" not in text]
    worker.join()
    bound = 2 * delay + 2 * spent / count
    return {
        "predict": speeds, "served": served, "ratio": statistics.median(served) / statistics.median(speeds),
        "median": statistics.median(seconds), "p99": float(np.quantile(seconds, 0.99)), "bound": bound,
        "batch": taken / count, "batch_seconds": spent / count, "memory": memory, "wrong": wrong[:5],
        "requests": len(seconds), "the_same_to_the_digit": right, "lost_at_the_end": lost,
        "status": server.process.wait(60), "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.005, help="seconds")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = measure(asked.model, asked.requests, asked.batch, asked.delay)
    speed, served = (statistics.median(found[name]) for name in ("predict", "served"))
    told = "the same to the digit" if found["the_same_to_the_digit"] else "OTHER ANSWERS"
    first, last = found["memory"][0], found["memory"][-1]
    print(
        f"{asked.model}, batches of {asked.batch}, torch {torch.__version__}, {os.cpu_count()} cores, "
        f"{platform.processor() or platform.machine()}, load {found['load']:.1f}\n"
        f"predict {speed:.0f} pictures/s, serve {served:.0f}: {100 * found['ratio']:.0f} %; {found['requests']:,} "
        f"requests, {len(found['wrong'])} wrong, {told}\n"
        f"waiting: median {1000 * found['median']:.0f} ms, 99 % within {1000 * found['p99']:.0f} ms; twice the delay "
        f"and two batches are {1000 * found['bound']:.0f} ms (of {found['batch']:.1f} pictures)\n"
        f"memory {first:.0f} MB at first, {last:.0f} MB at the end; status {found['status']}, "
        f"{len(found['lost_at_the_end'])} lost at the end"
    )
    if asked.json:
        asked.json.write_text(json.dumps(vars(asked) | found, default=str))


if __name__ == "__main__":
    main()
