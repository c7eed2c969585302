"""What computes answers: torch, ONNX Runtime or OpenVINO behind the same call, and which is the fastest here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from alexnet.base.errors import AlexNetError

if TYPE_CHECKING:
    from alexnet.engines.loading import Classifier

ENGINES = ("auto", "torch", "onnx", "openvino")


def device_for(engine: str | None, device: str) -> str:
    """The device that an engine leaves open: onnx and openvino compute on the CPU alone."""
    if engine is not None and engine not in ENGINES:
        raise AlexNetError(f"--engine was given '{engine}'; it takes {', '.join(ENGINES)}.")
    if engine not in ("onnx", "openvino"):
        return device
    if device not in ("auto", "cpu"):
        raise AlexNetError(f"--engine {engine} computes on the CPU; leave out --device {device}, or --engine.")
    return "cpu"


def attach(
    classifier: Classifier, engine: str | None, batch_size: int = 64, say: Callable[[str], object] = lambda text: None
) -> Classifier:
    """The classifier with its answers from the named engine, in float32; None leaves it as it is.

    `auto` is the fastest of a trial with batches of `batch_size`, 8-bit weights and bfloat16 included where their
    answers are within the trial's bounds of torch's; with a GPU it is torch. `say` gets what was chosen and why.
    """
    if engine is None:
        return classifier
    device_for(engine, classifier.device.type)
    if classifier.exported:
        if engine not in ("auto", classifier.exported):
            raise AlexNetError(
                f"--engine {engine} was asked for, but MODEL is an export that {classifier.exported} runs; leave "
                "--engine out, or give the model that it was exported from."
            )
        return classifier
    if engine == "torch":
        return replace(classifier, engine=None)
    if engine == "auto":
        from alexnet.engines import choosing

        if classifier.device.type != "cpu":
            say(f"engine: torch, because the other engines do not use {classifier.device.type}")
            return replace(classifier, engine=None)
        chosen = choosing.choose(classifier, batch_size)
        say(chosen.words)
        return replace(classifier, engine=None if chosen.plain else chosen.engine)
    from alexnet.engines import onnx, openvino
    from alexnet.engines.base import FLOAT32
    from alexnet.engines.loading import weights_of
    from alexnet.weights.onnx_writer import to_bytes

    contents = to_bytes(weights_of(classifier), preprocessing=True)
    if engine == "onnx":
        return replace(classifier, engine=onnx.start(contents, classifier.preprocess, FLOAT32))
    return replace(classifier, engine=openvino.start(openvino.read(contents), classifier.preprocess, FLOAT32))
