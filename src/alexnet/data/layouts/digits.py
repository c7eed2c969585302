"""scikit-learn's handwritten digits, which need no download: DATA is the word digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet.data.dataset import Data, Split, stratified
from alexnet.data.faults import Tell, refuse
from alexnet.data.layouts.base import Layout


def digits() -> Data:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; a fifth is held out."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    everything = Split(
        "scikit-learn",
        bunch.target.astype(np.int64),
        lambda i: Image.fromarray(pixels[i]),
        lambda i: f"digit {i}",
    )
    kept, out = stratified(everything.labels, 0.2)
    splits = {"train": everything.take(kept, "four fifths"), "valid": everything.take(out, "one fifth")}
    return Data("digits", "handwritten digits", [str(n) for n in range(10)], splits, whole=everything)


def _read(name: str | Path, tell: Tell = refuse) -> Data:
    return digits()


LAYOUT = Layout(0, "the word digits", lambda root: False, _read, is_name=lambda name: name == "digits")
