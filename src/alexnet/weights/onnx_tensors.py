"""The tensors of an ONNX file: in it, or in a file beside it, of which no length and no place is trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.weights import protobuf as pb
from alexnet.weights.onnx_writer import FLOAT, FLOAT16, INT64, UINT8

MOST_DIMENSIONS = 32
DOUBLE = 11  # of TensorProto.DataType
KINDS = {FLOAT: "<f4", UINT8: "u1", INT64: "<i8", FLOAT16: "<f2", DOUBLE: "<f8"}


def tensor(file: Path, message: pb.Message) -> tuple[str, np.ndarray]:
    """A tensor's name and values; of a kind that is not read, the kind alone."""
    name, kind, shape = message.text(8), message.integer(2, 0), message.integers(1)
    if kind not in KINDS:
        return name, np.array(kind, object)
    if len(shape) > MOST_DIMENSIONS or any(side < 0 for side in shape):
        raise pb.WireError(f"{name!r:.60} has {len(shape)} sides, of which {MOST_DIMENSIONS} of 0 and more are read")
    raw, count = message.messages(9), math.prod(shape)
    if message.integer(14, 0) or message.messages(13):
        array = np.frombuffer(_elsewhere(file, name, message, count * np.dtype(KINDS[kind]).itemsize), KINDS[kind])
    elif raw:
        if len(raw[-1].data) % np.dtype(KINDS[kind]).itemsize:
            raise pb.WireError(f"{name!r:.60} at byte {raw[-1].start} is no whole number of values")
        array = np.frombuffer(raw[-1].data, KINDS[kind])
    else:
        array = message.floats(4) if kind == FLOAT else np.array(message.integers(7), np.int64)
    if count != len(array):
        raise pb.WireError(f"{name!r:.60} has {len(array):,} values for the shape {tuple(shape)}")
    array = array.reshape(shape)  # whole numbers stay as they lie: they are shapes, not weights
    return name, array.astype(np.float32, copy=False) if kind in (FLOAT, FLOAT16) else array


def check_read(file: Path, tensors: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
    """Refuse weights of a kind that is not read; what no layer uses, such as a switch, may be of any."""
    for name in names:
        if name in tensors and tensors[name].dtype == object:
            raise AlexNetError(
                f"MODEL {file} has {name!r:.60} in number format {tensors[name].item()}; only float and int tensors "
                "are read: save it as float32."
            )


def _elsewhere(file: Path, name: str, message: pb.Message, size: int) -> memoryview | bytes:
    """A tensor's bytes in another file, as torch exports them: within the folder, as many as it needs."""
    given = {entry.text(1): entry.text(2) for entry in message.messages(13)}
    place, start, length = given.get("location", ""), given.get("offset", "0"), given.get("length", str(size))
    path = _beside(file, place)
    if path is None:
        raise AlexNetError(
            f"MODEL {file} keeps {name!r:.60} in a file outside its folder ({place!r:.80}), which is not opened; save "
            "it as one file and give that."
        )
    if not path.is_file():
        raise AlexNetError(
            f"MODEL {file} keeps its weights in {place!r:.80} beside it, which is missing; put it there, or save it as "
            "one file."
        )
    if not (start.isdecimal() and length.isdecimal() and len(start + length) < 36 and int(length) == size):
        raise pb.WireError(f"{name!r:.60} takes {size:,} bytes, and {length!r:.20} from {start!r:.20} are named")
    if int(start) + size > path.stat().st_size:
        raise AlexNetError(f"MODEL {file} keeps {name!r:.60} in {place!r:.80}, which ends before it; copy it again.")
    return np.memmap(path, np.uint8, "r", int(start), size).data if size else b""


def _beside(file: Path, place: str) -> Path | None:
    """The file of that name beside a model, or beside what the model is a link to; None where it is, or leads, outside.

    In Hugging Face's cache both are links, to files of other names in one folder.
    """
    named = Path(place)
    if not place or "\0" in place or named.is_absolute() or ".." in named.parts:
        return None
    here, there = file.parent.resolve(), file.resolve().parent
    path = (here / named if (here / named).exists() else there / named).resolve()
    return path if here in path.parents or there in path.parents else None
