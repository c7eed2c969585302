"""A few pictures to begin with: scikit-learn's two photographs and three of its handwritten digits."""

from __future__ import annotations

import io
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

PHOTOGRAPHS = ("flower.jpg", "china.jpg")
DIGITS = {"three.png": 3, "eight.png": 8, "nine.png": 9}
NAMES = (*PHOTOGRAPHS, *DIGITS)


@cache
def example(name: str) -> bytes:
    """The bytes of its file."""
    if name in PHOTOGRAPHS:
        return (resources.files("sklearn.datasets") / "images" / name).read_bytes()
    from alexnet.data.layouts.digits import digits

    split = digits().split("all")
    picture = split.read(int(np.flatnonzero(split.labels == DIGITS[name])[0]))
    assert isinstance(picture, Image.Image)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
