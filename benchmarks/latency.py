"""From a uint8 array to probabilities: every engine and form that this machine runs, in turns, in one process.

    python benchmarks/latency.py                                        # 300 single pictures, 20 batches of 64
    python benchmarks/latency.py --single 20 --batches 2 --json FILE    # to see that it works

For each network and each contender: the median and 90th percentile of a single picture (`alexnet.realtime`), and
images/s in batches of 64, the median. Contenders take turns, a few pictures each, so that the machine's moods fall on
all. Weights are the initial ones: speed does not depend on them; for the loss of accuracy see `alexnet export --data`.
8-bit activations are calibrated on the made-up pictures. `auto` is chosen by its own trial before, once for each size
of batch. Contenders that this machine cannot run, or whose package is missing, are named.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from everyday import classifier, processor

from alexnet.base.device import choose_precision
from alexnet.engines import base, choosing, onnx, openvino
from alexnet.inference.latency import Realtime
from alexnet.networks import fast
from alexnet.weights.classifier import Classifier, Engine, weights_of
from alexnet.weights.onnx_writer import to_bytes

BATCH, TURN = 64, 10  # pictures in a batch; single pictures in a turn
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf", "numpy")
WANTED = {
    ("torch", base.BFLOAT16): "this CPU has no bfloat16 instructions",
    ("openvino", base.BFLOAT16): "this CPU has no bfloat16 instructions",
    ("openvino", base.W8_BFLOAT16): "this CPU has no bfloat16 instructions",
    ("onnx", base.W8): "the extra onnx is not installed",
    ("openvino", base.W8): "the extra openvino is not installed",
}


def contenders(one: Classifier) -> Iterator[tuple[str, Engine]]:
    """What `auto` chooses from, then what needs calibration, then what it chose."""
    contents, pictures = to_bytes(weights_of(one), preprocessing=True), choosing.made_up_batch(one.preprocess, 32)
    for key, start in choosing.forms(one):
        yield " ".join(key), start()
    if choosing.has("onnxruntime", "onnx"):
        yield "onnx int8", onnx.make_engine(onnx.int8(contents, [pictures]), one.preprocess, "int8")
    if choosing.has("openvino", "nncf"):
        graph = openvino.int8(openvino.read(contents), [pictures])
        yield "openvino int8", openvino.make_engine(graph, one.preprocess, "int8")
        if choose_precision(torch.device("cpu"))[0] is torch.bfloat16:
            yield "openvino int8 bfloat16", openvino.make_engine(graph, one.preprocess, "int8 bfloat16", bfloat16=True)


def measure(name: str, single: int, batches: int) -> dict:
    """Figures of one network."""
    one = classifier(name)
    engines = dict(contenders(one))
    chosen = {}
    for size in (1, BATCH):
        choice = choosing.choose_engine(one, size)
        engines[f"auto, batch {size}"] = choice.engine
        chosen[size] = choice.words
        print(f"{name}, batch {size}: {choice.words}", flush=True)
    functions = {key: Realtime(replace(one, engine=engine)) for key, engine in engines.items()}
    picture, pictures = choosing.made_up_batch(one.preprocess, 1)[0], choosing.made_up_batch(one.preprocess, BATCH)
    alone: dict[str, list[float]] = {key: [] for key in engines}
    together: dict[str, list[float]] = {key: [] for key in engines}
    while len(alone["torch float32"]) < single:
        for key, function in functions.items():
            alone[key] += timed(lambda function=function: function(picture), TURN)
    while len(together["torch float32"]) < batches:
        for key, engine in engines.items():
            together[key] += timed(lambda engine=engine: engine.run(pictures, "prob"), 1)
    rows = {
        key: {
            "engine": engine.words,
            "median_ms": 1e3 * statistics.median(alone[key]),
            "p90_ms": 1e3 * float(np.quantile(alone[key], 0.9)),
            "images_per_second": BATCH / statistics.median(together[key]),
        }
        for key, engine in engines.items()
    }
    absent = {" ".join(key): why for key, why in WANTED.items() if " ".join(key) not in engines}
    return {"contenders": rows, "absent": absent, "auto": chosen}


def timed(work: Callable[[], object], count: int) -> list[float]:
    """Seconds of each run; one before them finds the caches cold and does not count."""
    work()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def machine() -> dict:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return {"cpu": processor(), "instructions": capability, "threads": threads, "python": platform.python_version(),
            **versions}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["alexnet_owt", "alexnet2012"])
    parser.add_argument("--single", type=int, default=300, help="single pictures a contender")
    parser.add_argument("--batches", type=int, default=20, help="batches of 64 a contender")
    parser.add_argument("--json", type=Path, help="write the figures too")
    given = parser.parse_args()
    fast.choose(torch.device("cpu"))
    found = {"machine": machine(), "single": given.single, "batches": given.batches}
    print(", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
    found["networks"] = {name: measure(name, given.single, given.batches) for name in given.networks}
    for name, result in found["networks"].items():
        print(f"\n| {name} | one picture, ms (median) | 90th percentile | images/s at batch {BATCH} |")
        print("| --- | --- | --- | --- |")
        for key, row in result["contenders"].items():
            print(f"| {key} | {row['median_ms']:.2f} | {row['p90_ms']:.2f} | {row['images_per_second']:,.0f} |")
        for key, why in result["absent"].items():
            print(f"{key}: not run, {why}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
