"""`alexnet demo`: the whole path on scikit-learn's handwritten digits, in front of the reader's eyes; then the shipped
network on two photographs."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data
from alexnet.engines.loading import load_classifier
from alexnet.inference.evaluation import evaluate
from alexnet.inference.prediction import predict
from alexnet.training.loop import train
from alexnet.weights.classifier import Classifier


def demo(out: str | None, device: str, say: Callable[[str], object]) -> None:
    """Train on the digits, evaluate on those held out, classify a few; the run stays in the folder `out`.

    Ends with the weights `tiny` on two photographs that scikit-learn ships.
    """
    began = time.monotonic()
    out = out or _free_folder()
    if any((Path(out) / name).exists() for name in run_files.NAMES):
        raise AlexNetError(f"--out {out} already holds a run; give another folder, or leave --out out.")
    data = find_data("digits")
    train(data, out, "digits", device=device, say=say, quiet=False)

    result = evaluate(out, data, device=device)
    say("")
    say(f"held-out digits: {100 * (1 - result.top1_error):.2f} % right of {result.images}")

    classifier = load_classifier(out)
    held_out = data.split("valid")
    for row in np.linspace(0, len(held_out) - 1, 3).astype(int).tolist():
        picture = cast(Image.Image, held_out.read(row))
        say("")
        say(f"a held-out {data.classes[held_out.labels[row]]}, and what the network takes it for:")
        say(_drawn(np.asarray(picture)))
        _show(classifier, picture, say)
    _photographs(say)

    say("")
    say(f"{out} holds the model (model.safetensors), metrics.jsonl, curves.png and filters.png")
    say(f"done in {time.monotonic() - began:.0f} s; next: alexnet predict {out} PICTURE, alexnet train --help")


def _photographs(say: Callable[[str], object]) -> None:
    """What the shipped network makes of two photographs, which are none of its 200 classes' own."""
    from sklearn.datasets import load_sample_images

    classifier, bunch = load_classifier("tiny"), load_sample_images()
    say("")
    say("scikit-learn's two photographs, and what the shipped network `tiny` (200 classes of ImageNet) takes them for:")
    for file, pixels in zip(bunch.filenames, bunch.images, strict=True):
        say("")
        say(f"  {Path(file).name}")
        _show(classifier, pixels, say)


def _show(classifier: Classifier, picture: Image.Image | np.ndarray, say: Callable[[str], object]) -> None:
    for answer in predict(classifier, picture)[0].classes:
        say(f"  {100 * answer.probability:6.2f} %  {answer.label}  {'█' * round(30 * answer.probability)}")


def _free_folder() -> str:
    """runs/demo, or the first of runs/demo-2, runs/demo-3 … that is not there yet."""
    return next(name for name in chain(["runs/demo"], (f"runs/demo-{n}" for n in count(2))) if not Path(name).exists())


def _drawn(pixels: np.ndarray) -> str:
    """A gray picture (h, w) in characters, two a pixel."""
    shades = " ░▒▓█"
    return "\n".join("  " + "".join(shades[int(v) * 4 // 255] * 2 for v in row) for row in pixels)
