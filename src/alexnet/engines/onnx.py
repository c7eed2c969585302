"""ONNX Runtime: runs .onnx files, and quantises them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.data.preprocess import Preprocess
from alexnet.engines.base import package, quiet
from alexnet.weights.classifier import Engine

FULLY_CONNECTED = ["Gemm", "MatMul"]


def make_engine(model: bytes | Path, preprocess: Preprocess, form: str) -> Engine:
    """A session on the CPU with as many threads as torch has; `model` is the contents of an .onnx file, or its path."""
    onnxruntime = package("onnxruntime", "onnx", "--engine onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
    )

    def run(pictures: np.ndarray, output: str) -> np.ndarray:
        return session.run([output], {"pictures": pictures})[0]

    return Engine(f"onnxruntime {onnxruntime.__version__}, {form}", preprocess, run)


def weights8(model: bytes) -> bytes:
    """The network with 8-bit weights in its fully connected layers, whose inputs are quantised as they come."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        quantization, before, after = _files(folder, model)
        # Unsigned weights: products of unsigned and signed bytes overflow on CPUs without VNNI.
        quantization.quantize_dynamic(
            before, after, op_types_to_quantize=FULLY_CONNECTED, per_channel=True,
            weight_type=quantization.QuantType.QUInt8,
        )  # fmt: skip
        return after.read_bytes()


def int8(model: bytes, batches: Iterable[np.ndarray]) -> bytes:
    """The network with 8-bit weights and activations, whose ranges are those on `batches` of pictures."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        quantization, before, after = _files(folder, model)

        # Seven bits of weights: the sum of two products then fits CPUs without VNNI.
        quantization.quantize_static(
            before, after, _Batches(batches), op_types_to_quantize=["Conv", *FULLY_CONNECTED, "MaxPool", "Relu"],
            per_channel=True, reduce_range=True, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        return after.read_bytes()


class _Batches:
    """What ONNX Runtime's calibration asks for its pictures."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self.rest = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.rest, None)
        return None if batch is None else {"pictures": batch}


def _files(folder: str, model: bytes) -> tuple[Any, Path, Path]:
    package("onnx", "onnx", "quantising for onnx")
    before = Path(folder) / "float32.onnx"
    before.write_bytes(model)
    quantization = package("onnxruntime.quantization", "onnx", "quantising for onnx")
    return quantization, before, Path(folder) / "quantised.onnx"
