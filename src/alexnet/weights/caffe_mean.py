"""Means as Caffe's files and users give them, and what else of Caffe's ways with pictures other formats share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.base.text import counted
from alexnet.weights import protobuf as pb
from alexnet.weights.base import note
from alexnet.weights.caffe_transform import Transform

ENDINGS = (".binaryproto", ".npy")
MODELS = (".caffemodel", ".npy", ".onnx")  # whose mean is a file of its own
MEAN_BGR = (104.007, 116.669, 122.679)  # channel averages of Caffe's mean image (docs/facts.md 10)


def square_of_hints(file: Path, hints: Hints) -> str:
    """How pictures become squares, which files of Caffe's nets do not say: its own were trained on squashed ones."""
    if hints.square is None:
        note(f"{file.name}: pictures are cropped to squares; Caffe's own nets were trained with --square squash")
    return hints.square or "crop"


def find_mean(
    file: Path, given: str | None, channels: int, stored: int, input: int, transform: Transform | None = None
) -> Tensor:
    """The mean image as RGB: `given`, or the net's own, or a file beside it, or Caffe's channel means."""
    beside = [file.with_name(f"{file.stem}_mean{suffix}") for suffix in ENDINGS]
    if given and not Path(given).exists():
        return given_mean(given, channels, stored, input)
    found = [Path(given)] if given else [path for path in beside if path.exists()]
    if not found and transform is not None:
        if transform.mean_file and (path := file.with_name(transform.mean_file)).exists():
            found = [path]
        elif transform.mean_values:
            values = transform.mean_values
            if len(values) not in (1, channels):
                raise AlexNetError(
                    f"MODEL {file} has {counted(len(values), 'value')} of mean for {counted(channels, 'channel')}; "
                    "mend that."
                )
            note(f"{file.name}: the net itself says its mean, {', '.join(f'{x:g}' for x in values)}, and scale")
            return reversed_channels(torch.tensor(values * (channels // len(values))).reshape(channels, 1, 1), axis=0)
    guessed, lying = not found, sorted(x for x in file.parent.glob("*mean*") if x.suffix in ENDINGS)
    others = [x for x in lying if _of_another(x)]
    found = found or [x for x in lying if x not in others]
    if len(found) > 1:
        raise AlexNetError(
            f"MODEL {file} has several means beside it ({', '.join(x.name for x in found)}); name one with --mean, or "
            f"call it {beside[0].name}."
        )
    if found:
        if guessed:
            note(f"{file.name}: {found[0].name}, which lies beside it, is taken for its mean (--mean gives another)")
        return reversed_channels(read_mean(found[0], channels, stored, input), axis=0)
    if transform is not None and not transform.mean_file:
        note(f"{file.name}: the net itself says that it was trained without a mean (--mean gives another)")
        return torch.zeros(channels, 1, 1)
    if channels != 3:
        raise AlexNetError(
            f"MODEL {file} has no mean beside it, and there is a usual one for 3 channels alone; give it with --mean, "
            f"a file or {counted(channels, 'number')} ({','.join('0' * channels)} if it was trained without one)."
        )
    lost = f" ({transform.mean_file} is what it was trained with)" if transform and transform.mean_file else ""
    lost += f" ({', '.join(x.name for x in others)}: another model's)" if others else ""
    note(f"{file.name}: no mean beside it{lost}, so Caffe's channel means are used: B, G, R = {MEAN_BGR}")
    return reversed_channels(torch.tensor(MEAN_BGR).reshape(3, 1, 1), axis=0)


def _of_another(mean: Path) -> bool:
    """Whether a mean is called after another model, which lies beside it."""
    stem = mean.stem.removesuffix("_mean")
    return stem != mean.stem and any(mean.with_name(stem + suffix).exists() for suffix in MODELS)


def given_mean(given: str | Path, channels: int, stored: int, input: int = 0) -> Tensor:
    """A mean as a user gives it, in R, G, B: a file, with colours in that order, or numbers with commas, one a channel.

    Caffe's .binaryproto is turned round, for it is always B, G, R.
    """
    text = str(given)
    if not Path(text).exists():
        try:
            numbers = [float(word) for word in text.split(",")]
        except ValueError:
            raise AlexNetError(
                f"--mean {text} is neither a file nor numbers; give a .binaryproto, a .npy, or R,G,B."
            ) from None
        if len(numbers) not in (1, channels) or not np.isfinite(numbers).all():
            raise AlexNetError(
                f"--mean {text} has {counted(len(numbers), 'number')}; the network takes 1, or {channels} of them."
            )
        return torch.tensor(numbers * (channels // len(numbers))).reshape(channels, 1, 1)
    found = read_mean(Path(text), channels, stored, input)
    return reversed_channels(found, axis=0) if Path(text).suffix == ".binaryproto" else found


def read_mean(path: Path, channels: int, stored: int, input: int = 0) -> Tensor:
    """A mean in its file's order of channels, from .binaryproto or .npy: float32 (C, stored, stored) or (C, 1, 1).

    One of the crop's size stands in the middle of its own average, for crops have the mean's central part taken off.
    """
    most = 16 * channels * stored * stored + (1 << 16)
    try:
        if path.stat().st_size > most:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        if path.suffix == ".npy":
            with open(path, "rb") as opened:  # the header's shape is held against the size before memory is taken
                array = npy_array(opened, path.stat().st_size)
        else:
            array = read_blob(pb.Message(memoryview(path.read_bytes())))
        array = np.asarray(array, np.float32)
    except (OSError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise AlexNetError(
            f"the mean {path} cannot be read ({error!s:.160}); give a .binaryproto or .npy file."
        ) from None
    array = array[0] if array.ndim == 4 and len(array) else array.reshape(-1, 1, 1) if array.ndim == 1 else array
    sides = array.shape[1:]
    if array.ndim != 3 or array.shape[0] != channels or sides not in ((1, 1), (stored, stored), (input, input)):
        raise AlexNetError(
            f"the mean {path} has the shape {array.shape!s:.80}; the network takes ({channels}, {stored}, {stored}) or "
            f"{counted(channels, 'number')}: give the mean that belongs to it."
        )
    if not np.isfinite(array).all():
        raise AlexNetError(f"the mean {path} has values that are not finite; copy it again.")
    return torch.from_numpy((in_the_middle(array, stored) if sides == (input, input) else array).copy())


def in_the_middle(crop: np.ndarray, stored: int) -> np.ndarray:
    """A mean of the crop's size (C, input, input) in the middle of its own average: (C, stored, stored)."""
    input = crop.shape[1]
    if input in (1, stored):
        return crop
    low = (stored - input) // 2
    whole = np.empty((len(crop), stored, stored), np.float32)
    whole[:] = crop.mean((1, 2), keepdims=True)
    whole[:, low : low + input, low : low + input] = crop
    return whole


def npy_array(opened: Any, size: int) -> np.ndarray:
    """The array of numbers in an opened .npy file of `size` bytes. Raises ValueError."""
    version = np.lib.format.read_magic(opened)
    if version > (2, 0):
        raise ValueError(f"its version is {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(opened)
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise ValueError(f"it holds {dtype}, not numbers")
    data = opened.read(size)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"it has {len(data):,} bytes for the shape {shape!s:.60}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def reversed_channels(tensor: Tensor, axis: int) -> Tensor:
    """RGB for BGR and the other way round; other numbers of channels stay."""
    return tensor.flip(axis) if tensor.shape[axis] == 3 else tensor


def read_blob(message: pb.Message) -> np.ndarray:
    """Numbers of single or double precision, copied out of the file."""
    data = message.floats(5)
    if not len(data):
        doubles = message.messages(8)
        data = np.concatenate([np.empty(0), *(np.frombuffer(x.data, "<f8") for x in doubles)])
    shapes = message.messages(7)
    shape = shapes[-1].integers(1) if shapes else [message.integer(number, 1) for number in (1, 2, 3, 4)]
    if any(side < 0 for side in shape) or int(np.prod([*map(int, shape)], dtype=object)) != len(data):
        raise pb.WireError(f"a blob at byte {message.start} has {len(data):,} values for the shape {tuple(shape)}")
    return np.array(data).reshape(shape)
