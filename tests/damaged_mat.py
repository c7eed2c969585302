"""MatConvNet's .mat files with some of their fields changed, beside the formats of damaged.py."""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any

import numpy as np
import scipy.io
from hypothesis import strategies as st

import matconvnet_file
from damaged import ARRAYS, LOST, ODD, arrays, bytes_changed, changed, places


@functools.cache
def whole(form: str) -> dict[str, Any]:
    """The variables of a .mat as lists and dictionaries."""
    given = matconvnet_file.layers(arrays("bvlc_alexnet"))
    pictures = matconvnet_file.pictures(np.ones((227, 227, 3), np.float32))
    about = {"normalization": pictures, "classes": {"description": list("abcde")}}
    if form == "dag":
        found = matconvnet_file.dag(given)
        lists = {key: [dict(zip(x.dtype.names, one, strict=True)) for one in x[0]] for key, x in found.items()}
        return {**lists, "meta": about}
    pairs = [{**one, **({"weights": list(one["weights"][0])} if "weights" in one else {})} for one in given]
    return {"layers": pairs, **about}


def value(given: Any, structures: bool = False) -> Any:
    """Lists as cells, or as an array of structures; what MATLAB cannot have as an empty array."""
    if isinstance(given, dict):
        return {f"x{key}"[1:60]: value(one) for key, one in given.items()} or matconvnet_file.row()
    if isinstance(given, list | tuple):
        inner = [value(one) for one in given]
        alike = inner and all(isinstance(one, dict) and one.keys() == inner[0].keys() for one in inner)
        return matconvnet_file.structures(inner) if structures and alike else matconvnet_file.cell(inner)
    if isinstance(given, str):
        return given.encode("utf-8", "replace").decode()
    known = isinstance(given, float | bool | np.ndarray) or (isinstance(given, int) and abs(given) < 2**63)
    return given if known else np.zeros((0, 0))


def matconvnet(data) -> bytes:
    form = data.draw(st.sampled_from(["simple", "dag"]))
    path = data.draw(st.sampled_from(places(whole(form))))
    new = data.draw(st.one_of(ODD, ARRAYS, st.just(LOST)))
    values = {key: value(one, form == "dag" and key != "meta") for key, one in changed(whole(form), path, new).items()}
    out = io.BytesIO()
    with contextlib.suppress(TypeError, ValueError, AttributeError):  # what SciPy cannot write, of which a part is left
        scipy.io.savemat(out, values, do_compression=data.draw(st.booleans()))
    return bytes_changed(out.getvalue(), data) if data.draw(st.integers(0, 2)) == 2 else out.getvalue()
