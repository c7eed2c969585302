"""`alexnet demo`: the whole path on scikit-learn's handwritten digits, in front of the reader's eyes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from alexnet.checkpoint import load
from alexnet.data.layouts import find
from alexnet.evaluation import evaluate
from alexnet.training import train


def demo(out: str, device: str, say: Callable[[str], object]) -> None:
    """Train on the digits, evaluate on those held out, classify a few; the run stays in the folder `out`."""
    began = time.monotonic()
    data = find("digits")
    train(data, out, "digits", device=device, say=say, quiet=False)

    result = evaluate(out, data, device=device)
    say("")
    say(f"held-out digits: {100 * (1 - result.top1_error):.2f} % right of {result.images}")

    classifier = load(out)
    held_out = data.split("valid")
    for row in np.linspace(0, len(held_out) - 1, 3).astype(int).tolist():
        picture = held_out.read(row)
        say("")
        say(f"{held_out.name(row)}, which shows a {data.classes[held_out.labels[row]]}:")
        say(_drawn(np.asarray(picture)))
        for answer in classifier.predict(picture)[0].classes:
            say(f"  {100 * answer.probability:6.2f} %  {answer.label}  {'█' * round(30 * answer.probability)}")

    say("")
    say(f"{out} holds the model (model.safetensors), metrics.jsonl, curves.png and filters.png")
    say(f"done in {time.monotonic() - began:.0f} s; next: alexnet predict {out} PICTURE, alexnet train --help")


def _drawn(pixels: np.ndarray) -> str:
    """A gray picture (h, w) in characters, two a pixel."""
    shades = " ░▒▓█"
    return "\n".join("  " + "".join(shades[int(v) * 4 // 255] * 2 for v in row) for row in pixels)
