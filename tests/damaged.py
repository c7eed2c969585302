"""Files of weights with some of their fields changed: for each format a function that makes the bytes of one."""

from __future__ import annotations

import copy
import functools
import io
import json
import pickle
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import caffe_file
import convnet_file
from alexnet.data.preprocess import Preprocess
from alexnet.networks.model import AlexNet, initialise
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights import native, onnx_writer, state
from alexnet.weights.base import Weights
from narrow import narrow

NAMES = ("alexnet32", "alexnet_owt", "bvlc_alexnet", "cifar10_13")

# Values that belong nowhere, of every kind that a pickle, JSON or a protocol buffer can have.
NUMBERS = [0, -1, 1, 2, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**40]
TEXT = st.text("ab1/.:\0\né\u2028", max_size=8)  # all of Unicode would cost seconds of preparation
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(NUMBERS),
    st.floats(), TEXT, st.binary(max_size=8), st.just([]), st.just({}), st.just(()),
    st.lists(st.integers(-2, 5), max_size=5), st.just("x" * 5000),
    st.sampled_from(["alexnet32", "alexnet2012", "RGB", "L", "tanh", "../x", "/etc/passwd", "\0", "é\ud800"]),
)  # fmt: skip
ARRAYS = st.sampled_from([
    np.zeros(0), np.array(1.0), np.zeros((3, 0, 2)), np.ones(5, np.int8), np.ones((2, 2), bool), np.array(["a", "b"]),
    np.array([None, {}], object), np.full((4, 4), np.nan), np.ones(3, np.complex64), np.ones((1,) * 30),
    np.ones(7, np.float64),
])  # fmt: skip


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


# -- good files ---------------------------------------------------------------------------------------------------


@functools.cache
def good(name: str) -> Weights:
    torch.manual_seed(0)
    plan = variant(name)
    model = AlexNet(plan, 5, 3, plan.input)
    initialise(model)
    preprocess = Preprocess(
        max(plan.stored, plan.input), plan.input, "RGB", (plan.pixel_scale,), torch.rand(3, 1, 1) * 255
    )
    return Weights(name, dict(model.state_dict()), list("abcde"), preprocess, {}, "made for a test")


def arrays(name: str) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in good(name).tensors.items()}


def slim(put) -> None:
    """Narrow networks under their own names, at their own sizes of pictures."""
    from dataclasses import replace

    for name in NAMES:
        plan = variant(name)
        put(VARIANTS, name, replace(narrow(name), input=plan.input, stored=plan.stored))


# -- changes of what is within ------------------------------------------------------------------------------------


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to everything within nested lists and dictionaries."""
    found = [path] if path else []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list | tuple):
        inner = list(enumerate(value))[:6]
    else:
        inner = []
    for key, one in inner:
        found += places(one, (*path, key))
    return found


def changed(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value at the path; a function as the new one is given the old."""
    if not path:
        return new(value) if callable(new) else new
    key, *rest = path
    if isinstance(value, dict):
        copied = dict(value)
        if new is LOST and not rest:
            del copied[key]
            return copied
        copied[key] = changed(value.get(key), tuple(rest), new)
        return copied
    copied = list(value)
    if new is LOST and not rest:
        del copied[key]
    else:
        copied[key] = changed(value[key], tuple(rest), new)
    return type(value)(copied) if isinstance(value, tuple) else copied


def LOST() -> None:
    """Stands for what is taken out."""


def bytes_changed(contents: bytes, data) -> bytes:
    """Some bytes of a file changed, cut out or put in; mostly near its ends, where headers are."""
    out = bytearray(contents)
    for _ in range(data.draw(st.integers(1, 4))):
        span = min(len(out), data.draw(st.sampled_from([64, 2000, len(out)])))
        at = data.draw(st.integers(0, max(0, span - 1)))
        at = len(out) - 1 - at if data.draw(st.booleans()) and len(out) > at else at
        how = data.draw(st.sampled_from(["byte", "cut", "more", "end", "big"]))
        if how == "byte":
            out[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif how == "cut":
            del out[at : at + data.draw(st.integers(1, 40))]
        elif how == "more":
            out[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        elif how == "big":
            out[at : at + 8] = struct.pack("<q", data.draw(st.sampled_from([-1, 0, 2**31, 2**62, 10**12])))
        else:
            del out[at:]
    return bytes(out)


# -- formats: each makes the bytes of a changed file -----------------------------------------------------------------


@functools.cache
def safetensors_parts() -> tuple[dict, bytes, dict]:
    whole = native.to_bytes(good("alexnet32"))
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    return header, whole[8 + length :], json.loads(header["__metadata__"]["alexnet"])


def safetensors(data) -> bytes:
    header, body, facts = safetensors_parts()
    header = copy.deepcopy(header)
    how = data.draw(st.sampled_from(["facts", "header", "deep", "mean"]))
    if how == "deep":
        text = deep()
    elif how == "mean":
        text = json.dumps(changed(facts, ("mean", data.draw(st.sampled_from(["shape", "float32"]))), data.draw(JSON)))
    else:
        if how == "facts":
            path = data.draw(st.sampled_from(places(facts)))
            facts = changed(facts, path, data.draw(st.one_of(JSON, st.just(LOST))))
        text = json.dumps(facts)
    header["__metadata__"] = {"alexnet": text}
    if how == "header":
        path = data.draw(st.sampled_from(places(header)))
        header = changed(header, path, data.draw(st.one_of(JSON, st.just(LOST))))
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + body


JSON = ODD.filter(lambda x: not isinstance(x, bytes))


def bare_safetensors(data) -> bytes:
    from safetensors.torch import save

    tensors = {state.KEYS[key]: value for key, value in good("alexnet_owt").tensors.items()}
    key = data.draw(st.sampled_from(sorted(tensors)))
    tensors[key] = data.draw(TENSORS)
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    try:
        return save({name: value.contiguous().clone() for name, value in tensors.items()})
    except Exception:  # what this format cannot hold is not of it
        return save({"x": torch.zeros(1)})


def quantised() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # of their end in a later torch
        return torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)


TENSORS = st.sampled_from([
    torch.zeros(5), torch.tensor(1.0), torch.zeros(0), torch.zeros(5, dtype=torch.int64), torch.zeros(5) > 0,
    torch.zeros(5, dtype=torch.complex64), torch.ones(1).expand(10**6, 10**4), torch.ones(1).expand(5),
    torch.full((5,), torch.nan), torch.eye(3).to_sparse(), torch.zeros(5, device="meta"), torch.ones(*[1] * 40),
    quantised(),
    torch.zeros(5, dtype=torch.float16), torch.zeros(5, dtype=torch.float8_e4m3fn), "text", 5, None, [], {}, object,
])  # fmt: skip


def torch_file(data) -> bytes:
    tensors: dict[str, Any] = {state.KEYS[key]: value for key, value in good("alexnet_owt").tensors.items()}
    for _ in range(data.draw(st.integers(0, 2))):
        key = data.draw(st.sampled_from(sorted(tensors)))
        tensors[key] = data.draw(st.one_of(TENSORS, ODD))
    key, inner = data.draw(st.one_of(st.just(""), TEXT, st.sampled_from(["alexnet", "mean"]))), tensors
    whole = data.draw(st.sampled_from([inner, {"state_dict": inner, key: data.draw(ODD)}, [inner], {1: inner}]))
    out = io.BytesIO()
    zipped = data.draw(st.booleans())
    torch.save(whole, out, _use_new_zipfile_serialization=zipped)
    if not data.draw(st.booleans()):
        return out.getvalue()
    if not zipped:
        return bytes_changed(out.getvalue(), data)
    changed_zip = io.BytesIO()
    with zipfile.ZipFile(out) as before, zipfile.ZipFile(changed_zip, "w") as after:
        for info in before.infolist():
            member = before.read(info)
            if info.filename.endswith("data.pkl"):
                member = bytes_changed(member, data)
            after.writestr(info.filename, member)
    return changed_zip.getvalue()


def npy(data) -> bytes:
    layers: dict[Any, Any] = {}
    for key, value in arrays("bvlc_alexnet").items():
        layer, kind = key.split(".")
        layers.setdefault(layer, [None, None])[kind == "bias"] = value
    path = data.draw(st.sampled_from(places(layers)))
    layers = changed(layers, path, data.draw(st.one_of(ODD, ARRAYS, st.just(LOST), st.just(shared()))))
    out = io.BytesIO()
    whole = np.empty((), object)
    whole[()] = layers
    np.save(out, whole, allow_pickle=True)
    return bytes_changed(out.getvalue(), data) if data.draw(st.integers(0, 3)) == 3 else out.getvalue()


def shared() -> list:
    """A list of few bytes that unfolds into a billion numbers."""
    found: list = [1.0] * 10
    for _ in range(9):
        found = [found] * 10
    return found


def npz(data) -> bytes:
    flat = {
        key.replace(".", "_").replace("weight", "W").replace("bias", "b"): x
        for key, x in arrays("bvlc_alexnet").items()
    }
    key = data.draw(st.sampled_from(sorted(flat)))
    flat[key] = data.draw(ARRAYS)
    out = io.BytesIO()
    np.savez(out, **flat)
    return out.getvalue()


def convnet(data) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        plan = convnet_file.CIFAR["cifar10_13"]
        dumped: list[Any] = []
        real, convnet_file.dump = convnet_file.dump, lambda _, layers, *rest: dumped.append(layers)
        try:
            convnet_file.write_single(path, arrays("cifar10_13"), {}, True, plan, increments=False, side=24)
        finally:
            convnet_file.dump = real
        layers = dumped[0]
        path_in = data.draw(st.sampled_from(places(layers)))
        new = data.draw(st.one_of(ODD, ARRAYS, st.just(LOST), st.just(shared()), st.just([3, 3]), st.just([0])))
        whole = {"model_state": {"layers": changed(layers, path_in, new), "epoch": 1}, "op": None}
        contents = pickle.dumps(whole, 2)
    return bytes_changed(contents, data) if data.draw(st.integers(0, 3)) == 3 else contents


@functools.cache
def caffe_whole() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        kept = {**arrays("bvlc_alexnet")}
        return caffe_file.write(Path(folder) / "x.caffemodel", kept).read_bytes()


def wire_changed(contents: bytes, data, depth: int = 0) -> bytes:
    """A message of protocol buffers with one of its fields changed, doubled or taken out, at any depth."""
    fields = [*_fields(contents)]
    if not fields:
        return contents
    at = data.draw(st.integers(0, len(fields) - 1))
    number, wire, value = fields[at]
    how = data.draw(st.sampled_from(["inner", "inner", "inner", "number", "lost", "twice", "kind", "text", "other"]))
    if how == "inner" and wire == 2 and depth < 4 and len(value) < 100_000:
        try:
            fields[at] = (number, wire, wire_changed(value, data, depth + 1))
        except ValueError:
            fields[at] = (number, wire, data.draw(st.binary(max_size=20)))
    elif how in ("inner", "number") and wire == 0:
        fields[at] = (number, 0, data.draw(st.sampled_from([0, 1, 2, 3, 99, 2**31, 2**63, 2**64 - 1])))
    elif how == "lost":
        del fields[at]
    elif how == "twice":
        fields.insert(at, fields[at])
    elif how == "kind":
        fields[at] = (number, 2, data.draw(st.binary(max_size=12))) if wire != 2 else (number, 0, 7)
    elif wire == 2:
        fields[at] = (number, 2, data.draw(st.binary(max_size=40)) if how == "text" else value[: len(value) // 2])
    else:
        fields[at] = (data.draw(st.integers(1, 30)), wire, value)
    out = io.BytesIO()
    for number, wire, value in fields:
        out.write(caffe_file.varint(number << 3 | wire))
        out.write(caffe_file.varint(value) if wire == 0 else b"")
        out.write(caffe_file.varint(len(value)) + value if wire == 2 else value if wire in (1, 5) else b"")
    return out.getvalue()


def _fields(contents: bytes):
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(contents) or shift > 63:
                raise ValueError("no message")
            value |= (contents[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if contents[at - 1] < 128:
                return value

    while at < len(contents):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, wire, varint()
            continue
        length = {1: 8, 5: 4}.get(wire, -1) if wire != 2 else varint()
        if length < 0 or at + length > len(contents) or not key >> 3:
            raise ValueError("no message")
        yield key >> 3, wire, contents[at : at + length]
        at += length


def caffe(data) -> bytes:
    return (
        bytes_changed(caffe_whole(), data) if data.draw(st.integers(0, 3)) == 3 else wire_changed(caffe_whole(), data)
    )


@functools.cache
def onnx_whole(own: bool) -> bytes:
    if own:
        return onnx_writer.to_bytes(good("alexnet32"))
    found = good("alexnet_owt")
    contents = onnx_writer.to_bytes(found)
    fields = [(number, wire, value) for number, wire, value in _fields(contents) if number != 14]  # without its facts
    return b"".join(
        caffe_file.varint(n << 3 | w) + (caffe_file.varint(x) if w == 0 else caffe_file.varint(len(x)) + x)
        for n, w, x in fields
    )


def onnx(data) -> bytes:
    whole = onnx_whole(data.draw(st.booleans()))
    return bytes_changed(whole, data) if data.draw(st.integers(0, 3)) == 3 else wire_changed(whole, data)


FORMATS = {
    "safetensors": safetensors, "bare safetensors": bare_safetensors, "torch": torch_file, "npy": npy, "npz": npz,
    "cuda-convnet": convnet, "caffe": caffe, "onnx": onnx,
}  # fmt: skip
