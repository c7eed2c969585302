"""OpenVINO: runs .onnx files and its own .xml with .bin, and has them quantised by NNCF."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from alexnet.data.preprocess import Preprocess
from alexnet.engines.base import package, quiet
from alexnet.weights.classifier import Engine

ASKED = "--engine openvino"
T = TypeVar("T")


def read(model: bytes | Path) -> Any:
    """OpenVINO's graph of the contents of an .onnx file, or of a file by its path."""
    return _package().Core().read_model(str(model) if isinstance(model, Path) else model)


def make_engine(graph: Any, preprocess: Preprocess, form: str, bfloat16: bool = False) -> Engine:
    """A graph compiled for this CPU, with as many threads as torch has, for one caller at a time."""
    openvino = _package()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    compiled = _apart(lambda: openvino.Core().compile_model(graph, "CPU", settings))
    request, outputs = compiled.create_infer_request(), {name: compiled.output(name) for name in ("logits", "prob")}

    def run(pictures: np.ndarray, output: str) -> np.ndarray:
        return request.infer([pictures], share_inputs=True)[outputs[output]]

    return Engine(f"openvino {openvino.__version__.split('-')[0]}, {form}", preprocess, run)


def weights8(graph: Any) -> Any:
    """The graph with 8-bit weights and the arithmetic as before."""
    nncf = _nncf()
    with quiet():
        return _apart(lambda: nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM))


def int8(graph: Any, batches: Iterable[np.ndarray]) -> Any:
    """The graph with 8-bit weights and activations, whose ranges are those on `batches` of pictures."""
    nncf, pictures = _nncf(), [picture[None] for batch in batches for picture in batch]
    preset = nncf.QuantizationPreset.MIXED
    with quiet():
        return _apart(lambda: nncf.quantize(graph, nncf.Dataset(pictures), subset_size=len(pictures), preset=preset))


def write(graph: Any, file: Path, half: bool, facts: Mapping[str, str]) -> None:
    """Write .xml and .bin, `half` with weights in 16 bits; `facts` stand in the .xml."""
    for key, text in facts.items():
        graph.set_rt_info(text, key)
    _package().save_model(graph, str(file), compress_to_fp16=half)


def _apart(work: Callable[[], T]) -> T:
    """Do in a thread of its own what loads OpenVINO's plugin for CPUs.

    The plugin gives the thread that loads it another stack for signals and unmaps that when it is let go of, by
    whichever thread; the main thread's next Ctrl-C would then end in a segmentation fault.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _package() -> Any:
    return package("openvino", "openvino", ASKED)


def _nncf() -> Any:
    _package()
    return package("nncf", "openvino", "8-bit weights for openvino")
