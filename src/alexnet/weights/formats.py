"""Files of weights, each format in a file of its own; which it is, is found by looking at the first bytes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from alexnet.base import text
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import IMAGEFOLDER, NUMERIC, Hints
from alexnet.data import labels
from alexnet.weights import base
from alexnet.weights.base import Weights

NOTHING = Hints()
DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RecursionError,
    RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
OTHERS = {  # what people's files of weights turn out to be, by their first bytes
    b"version https://git-lfs": "is a pointer of Git LFS, not the file that it stands for (git lfs pull fetches it)",
    b"<!doctype": "is a web page, not a file of weights (a sign-in or error page, most likely)",
    b"<html": "is a web page, not a file of weights (a sign-in or error page, most likely)",
    b"\x89hdf": "is HDF5, as Keras writes, which is not read",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"layer": "is a description of a Caffe net (.prototxt), without its weights (.caffemodel)",
    b"name:": "is a description of a Caffe net (.prototxt), without its weights (.caffemodel)",
}
# Hints that are for some formats alone, by how the origin begins that their readers give.
NEEDED = {
    "mean": ("Caffe", "cuda-convnet", ".npy", "ONNX:", "torchvision", "state_dict"),
    "key": ("torchvision", "state_dict"),
    "order": (".npy",),
}


def read(file: Path, hints: Hints = NOTHING) -> Weights:
    """The weights in a file of any known format; a file that is none of them is an error that says what is wrong.

    `hints` are for what a format does not carry; what contradicts the file is refused.
    """
    from alexnet.weights import caffe, convnet, native, npy, onnx, torch_file

    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise AlexNetError(f"MODEL {file} cannot be read ({error.strerror}); give a file that you may read.") from None
    for reader in (npy, convnet, torch_file, native, onnx, caffe):
        if len(head) >= 16 and reader.recognises(head, file):
            try:
                found = base.checked(file, reader.read(file, hints))
            except AlexNetError as error:  # names in a file may be of any characters
                raise AlexNetError(text.printable(str(error))) from None
            except DAMAGE as error:  # readers name what they foresee; whatever else a file may hold ends here
                said = text.printable(base.first_line(error))
                raise AlexNetError(
                    f"MODEL {file} is damaged, or another kind of file than it seems ({said}); copy it again."
                ) from None
            if hints.square:
                found = replace(found, preprocess=replace(found.preprocess, square=hints.square))
            return _named(file, _agreed(file, found, hints), hints.classes)
    raise AlexNetError(
        f"MODEL {file} {_what(head)}; give a run folder, or weights as .safetensors, .pth, .caffemodel, .onnx, .npy or "
        "a checkpoint of cuda-convnet."
    )


def _what(head: bytes) -> str:
    for start, words in OTHERS.items():
        if head.lstrip().lower().startswith(start):
            return words
    return "is not a whole file of AlexNet weights (its first bytes are those of no known format)"


def _agreed(file: Path, found: Weights, hints: Hints) -> Weights:
    """The weights, unless a hint says otherwise than the file, or what no file of its kind needs."""
    if hints.variant and hints.variant != found.variant:
        raise AlexNetError(f"MODEL {file} is of {found.variant}, and --variant says {hints.variant}; leave it out.")
    of = found.origin
    for key, kinds in NEEDED.items():
        if getattr(hints, key) and not of.startswith(kinds):
            words = "carries its own mean" if key == "mean" else f"is no file that --{key} is for"
            raise AlexNetError(f"MODEL {file} {words}; leave --{key} out.")
    return found


def _named(file: Path, found: Weights, classes: str | None) -> Weights:
    """The weights with the class names that were given, or in the order that was; numbers as names are said."""
    count = len(found.classes)
    if classes in (IMAGEFOLDER, NUMERIC):
        if not found.naming:
            raise AlexNetError(f"MODEL {file} names its classes itself; leave --classes out, or give a file of names.")
        numbers = [str(number) for number in range(count)]
        return replace(found, classes=sorted(numbers) if classes == IMAGEFOLDER else numbers, naming=classes)
    if classes is not None:
        names = labels.read(Path(classes))
        if len(names) != count:
            raise AlexNetError(f"--classes {classes} has {len(names):,} names; MODEL {file} has {count:,} classes.")
        return replace(found, classes=names, naming="")
    if found.naming and found.classes == [str(number) for number in range(count)]:
        base.note(
            f"{file.name} carries no class names, so its {count:,} outputs are called by their numbers from 0 "
            "(--classes FILE gives names)"
        )
    return found


def write(weights: Weights, file: Path, preprocessing: bool = False, eight_bits: bool = False) -> list[Path]:
    """Write a file in the format that its ending names; the files made. Nothing that exists is overwritten.

    `preprocessing` puts crop, mean and scale inside an .onnx; `eight_bits` rounds weights to int8 in a .safetensors.
    """
    from alexnet.weights import caffe_writer, huggingface, native, onnx_writer, torchvision

    writers: dict[str, Callable[[Weights, Path], list[Path]]] = {
        ".safetensors": partial(native.write, eight_bits=eight_bits),
        ".pth": torchvision.write,
        ".caffemodel": caffe_writer.write,
        ".onnx": partial(onnx_writer.write, preprocessing=preprocessing),
        "": huggingface.write,
    }
    if file.suffix not in writers:
        raise AlexNetError(
            f"{file} has no ending that names a format; give one of {', '.join(filter(None, writers))}, or none for a "
            "folder as Hugging Face has models."
        )
    if preprocessing and file.suffix != ".onnx":
        raise AlexNetError(f"--preprocessing is for .onnx files; {file.name} is none.")
    if eight_bits and file.suffix != ".safetensors":
        raise AlexNetError(f"--int8 is for .safetensors files; {file.name} is none.")
    for path in [file, *(caffe_writer.beside(file) if file.suffix == ".caffemodel" else ())]:
        if path.exists() and not (path.is_dir() and not file.suffix):
            raise AlexNetError(f"{path} exists already; give another name, or move it away.")
    return writers[file.suffix](weights, file)
