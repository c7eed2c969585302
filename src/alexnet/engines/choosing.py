"""The fastest engine on this machine whose answers are torch's within bounds: found by trying them in turn."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image

from alexnet.base.device import choose_precision
from alexnet.data.preprocess import Preprocess
from alexnet.engines import onnx, openvino
from alexnet.engines.base import BFLOAT16, FLOAT32, W8, W8_BFLOAT16, Whole
from alexnet.weights.classifier import Classifier, Engine, weights_of
from alexnet.weights.onnx_writer import to_bytes

# The greatest difference of logits from torch's in float32, root mean square, as a share of their spread over classes.
BOUNDS = {FLOAT32: 1e-4, BFLOAT16: 0.03, W8: 0.03, W8_BFLOAT16: 0.03}
MOST = 16  # pictures in a batch of the trial
ROUNDS = 3  # while the clock runs


@dataclass(frozen=True)
class Choice:
    """The engine, whether it is torch in float32 as everywhere else, and in one line why."""

    engine: Engine
    plain: bool
    words: str


def choose_engine(classifier: Classifier, batch_size: int) -> Choice:
    """Try every form that this machine offers on made-up pictures, in turn, a few seconds in all."""
    pictures = made_up_batch(classifier.preprocess, min(batch_size, MOST))
    engines = {key: start() for key, start in forms(classifier)}
    reference = next(iter(engines))
    right = engines[reference].run(pictures, "logits")
    far = {key: relative_difference(engine.run(pictures, "logits"), right) for key, engine in engines.items()}
    within = [key for key in engines if far[key] <= BOUNDS[key[1]]]
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in within}
    for _ in range(ROUNDS):
        for key in within:
            began = time.perf_counter()
            engines[key].run(pictures, "prob")
            taken[key].append(1000 * (time.perf_counter() - began) / len(pictures))
    medians = {key: statistics.median(values) for key, values in taken.items()}
    best = min(within, key=lambda key: medians[key])
    engine = engines[best]
    absent = [
        extra
        for extra, modules in (("onnx", ("onnxruntime", "onnx")), ("openvino", ("openvino", "nncf")))
        if not has(*modules)
    ]
    words = (
        f"engine: {engine.words}, the fastest of {len(engines)} tried: {medians[best]:.1f} ms a picture in batches of "
        f"{len(pictures)}, torch in float32 {medians[reference]:.1f}; logits differ by {far[best]:.1e} of their spread"
    )
    if absent:
        words += f"; extras that are not wholly installed: {', '.join(absent)}"
    return Choice(engine, best == reference, words)


def forms(classifier: Classifier) -> Iterator[tuple[tuple[str, str], Callable[[], Engine]]]:
    """Every engine and arithmetic that is installed and that this CPU is made for, torch in float32 first."""
    preprocess, bfloat16 = classifier.preprocess, choose_precision(torch.device("cpu"))[0] is torch.bfloat16
    contents = to_bytes(weights_of(classifier), preprocessing=True)
    yield ("torch", FLOAT32), lambda: in_torch(classifier)
    if bfloat16:
        yield ("torch", BFLOAT16), lambda: in_torch(classifier, torch.bfloat16)
    if has("onnxruntime"):
        yield ("onnx", FLOAT32), lambda: onnx.make_engine(contents, preprocess, FLOAT32)
        if has("onnx"):
            yield ("onnx", W8), lambda: onnx.make_engine(onnx.weights8(contents), preprocess, W8)
    if has("openvino"):
        yield ("openvino", FLOAT32), lambda: openvino.make_engine(openvino.read(contents), preprocess, FLOAT32)
        if bfloat16:
            yield (
                ("openvino", BFLOAT16),
                lambda: openvino.make_engine(openvino.read(contents), preprocess, BFLOAT16, True),
            )
        if has("nncf"):
            graph = openvino.weights8(openvino.read(contents))
            yield ("openvino", W8), lambda: openvino.make_engine(graph, preprocess, W8)
            if bfloat16:
                yield ("openvino", W8_BFLOAT16), lambda: openvino.make_engine(graph, preprocess, W8_BFLOAT16, True)


def in_torch(classifier: Classifier, precision: torch.dtype = torch.float32) -> Engine:
    """The network in torch as an engine."""
    model = classifier.model if precision == torch.float32 else copy.deepcopy(classifier.model).to(precision)
    whole = Whole(model, classifier.preprocess, precision).eval()

    @torch.inference_mode()
    def run(pictures: np.ndarray, output: str) -> np.ndarray:
        logits, prob = whole(torch.from_numpy(pictures))
        return (logits if output == "logits" else prob).numpy()

    return Engine(f"torch {torch.__version__}, {str(precision)[6:]}", classifier.preprocess, run)


def made_up_batch(preprocess: Preprocess, count: int) -> np.ndarray:
    """Smooth colours with grain, always the same: uint8 (count, stored, stored, C)."""
    draw, side, channels = np.random.default_rng(0), preprocess.stored, preprocess.channels
    pictures = np.empty((count, side, side, channels), np.uint8)
    for picture in pictures:
        for channel in range(channels):
            coarse = Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8))
            smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
            picture[..., channel] = (smooth + draw.normal(0, 8, (side, side))).clip(0, 255)
    return pictures


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over that of the expected logits around their mean."""
    spread = float(np.sqrt(((expected - expected.mean(1, keepdims=True)) ** 2).mean()))
    return float(np.sqrt(((got - expected) ** 2).mean())) / max(spread, 1e-30)


def has(*modules: str) -> bool:
    """Whether these packages are installed."""
    return all(find_spec(name) is not None for name in modules)
