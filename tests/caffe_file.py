"""Caffe's files encoded byte by byte from the description in caffe.proto: what the reader is tried on.

Wire format: a field is the varint (number << 3 | type) and its contents; type 0 is a varint, 2 a varint length and that
many bytes, 5 four bytes. Two generations of layer messages exist, and two ways to give the shape of a blob:

    NetParameter      name=1  layers=2 (V1LayerParameter)  input=3  input_dim=4  layer=100 (LayerParameter)
    LayerParameter    name=1  type=2 (text)  bottom=3  top=4  blobs=7   convolution 106, dropout 108, inner product 117,
                      LRN 118, pooling 121
    V1LayerParameter  bottom=2  top=3  name=4  type=5 (enum)  blobs=6   convolution 10, dropout 12, inner product 17,
                      LRN 18, pooling 19
    BlobProto         num=1  channels=2  height=3  width=4  data=5 (packed)  diff=6 (packed)  shape=7 {dim=1 (packed)}
                      double_data=8 (packed)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

OLD_TYPES = {
    "Data": 5,
    "Convolution": 4,
    "ReLU": 18,
    "LRN": 15,
    "Pooling": 17,
    "InnerProduct": 14,
    "Dropout": 6,
    "SoftmaxWithLoss": 21,
}
PARAMETERS = {  # field of a layer's own parameters: in a V1LayerParameter, in a LayerParameter
    "Convolution": (10, 106),
    "Dropout": (12, 108),
    "InnerProduct": (17, 117),
    "LRN": (18, 118),
    "Pooling": (19, 121),
}
ORDERS = {
    "bvlc_alexnet": "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2",
    "caffenet": "conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2",
}
REST = "conv3 relu3 conv4 relu4 conv5 relu5 pool5 fc6 relu6 drop6 fc7 relu7 drop7 fc8"
PLACES = {"conv1": (4, 0), "conv2": (1, 2), "conv3": (1, 1), "conv4": (1, 1), "conv5": (1, 1)}  # stride, padding
KINDS = {
    "conv": "Convolution",
    "relu": "ReLU",
    "norm": "LRN",
    "pool": "Pooling",
    "fc": "InnerProduct",
    "drop": "Dropout",
}


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set on all but the last."""
    out = bytearray()
    number &= (1 << 64) - 1  # negative numbers are their two's complement
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    """A field of wire type 0."""
    return varint(field << 3) + varint(value)


def real(field: int, value: float) -> bytes:
    """A float, wire type 5."""
    return varint(field << 3 | 5) + struct.pack("<f", value)


def message(field: int, contents: bytes | str) -> bytes:
    """A field of wire type 2: a message, text or packed numbers."""
    contents = contents.encode() if isinstance(contents, str) else contents
    return varint(field << 3 | 2) + varint(len(contents)) + contents


def blob(array: np.ndarray, old: bool = False, diff: bool = False, packed: bool = True, double: bool = False) -> bytes:
    """A BlobProto; `old` gives the four legacy dimensions, the leading ones being 1, instead of a shape.

    `diff` adds a gradient of the same size, as a snapshot may; `packed=False` writes a field for each number, which
    every reader of the format has to take; `double` uses the field of 64-bit numbers.
    """
    if old:
        dims = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(integer(field, size) for field, size in enumerate(dims, start=1))
    else:
        head = message(7, message(1, b"".join(map(varint, array.shape))))
    if double:
        data = message(8, array.astype("<f8").tobytes())
    elif packed:
        data = message(5, array.astype("<f4").tobytes())
    else:
        data = b"".join(real(5, float(number)) for number in array.ravel())
    return data + (message(6, np.zeros(array.size, "<f4").tobytes()) if diff else b"") + head


def layer(name: str, kind: str, own: bytes = b"", blobs: Iterable[bytes] = (), old: bool = False) -> bytes:
    """One layer of a NetParameter, as field 100 or, `old`, as field 2."""
    top = message(3 if old else 4, name)
    bottom = message(2 if old else 3, "data" if name == "conv1" else "before_" + name)
    kept = b"".join(message(6 if old else 7, one) for one in blobs)
    if kind in PARAMETERS:
        kept += message(PARAMETERS[kind][0 if old else 1], own)
    if old:
        return message(2, bottom + top + message(4, name) + integer(5, OLD_TYPES[kind]) + kept)
    return message(100, message(1, name) + message(2, kind) + bottom + top + kept)


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    net: str = "bvlc_alexnet",
    old: bool = False,
    diff: bool = False,
    packed: bool = True,
    double: bool = False,
) -> Path:
    """A .caffemodel as training leaves it; `tensors` are conv1.weight (out, in / groups, k, k) … fc8.bias (out,).

    `net` (bvlc_alexnet or caffenet) orders the layers. `old` is the V1 generation with legacy shapes, in which fully
    connected weights are (1, 1, out, in) and biases (1, 1, 1, out), as in the published files. The other options are
    those of `blob`. The names of the layers are those of the keys; a layer without tensors is written without blobs.
    """
    out = [message(1, "AlexNet")]
    if old:
        out += [layer("data", "Data", old=True)]
    else:
        out += [message(100, message(1, "data") + message(2, "Data") + message(4, "data") + message(4, "label"))]
    channels = 0
    for name in (ORDERS[net] + " " + REST).split():
        kind = KINDS[name.rstrip("0123456789")]
        blobs = [tensors[key] for key in (f"{name}.weight", f"{name}.bias") if key in tensors]
        own = _own(name, kind, blobs, channels)
        if kind == "Convolution" and blobs:
            channels = len(blobs[0])
        out.append(layer(name, kind, own, (blob(b, old, diff, packed, double) for b in blobs), old))
    out.append(layer("loss", "SoftmaxWithLoss", old=old))
    path.write_bytes(b"".join(out))
    return path


def write_mean(path: Path, mean: np.ndarray) -> Path:
    """A mean image as .binaryproto: float (3, height, width) in Caffe's channel order, BGR."""
    path.write_bytes(blob(mean, old=True))
    return path


def _own(name: str, kind: str, blobs: list[np.ndarray], channels: int) -> bytes:
    """A layer's own parameters, those that equal the format's default left out as Caffe leaves them out."""
    if kind == "Convolution" and blobs:
        stride, pad = PLACES[name]
        groups = channels // blobs[0].shape[1] if channels else 1
        return (
            integer(1, len(blobs[0]))
            + (integer(3, pad) if pad else b"")
            + integer(4, blobs[0].shape[2])
            + (integer(5, groups) if groups > 1 else b"")
            + (integer(6, stride) if stride > 1 else b"")
        )
    if kind == "InnerProduct" and blobs:
        return integer(1, len(blobs[0]))
    if kind == "LRN":
        return integer(1, 5) + real(2, 1e-4) + real(3, 0.75)
    if kind == "Pooling":
        return integer(1, 0) + integer(2, 3) + integer(3, 2)
    return real(1, 0.5) if kind == "Dropout" else b""
