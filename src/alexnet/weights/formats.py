"""Files of weights, each format in a file of its own; which it is, is found by looking at the first bytes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from alexnet.base import text
from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new
from alexnet.base.hints import IMAGEFOLDER, NUMERIC, Hints
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.weights import base
from alexnet.weights.base import Weights
from alexnet.weights.registry import Reader, readers, writers

NOTHING = Hints()
OPTIONS = {"preprocessing": "--preprocessing", "eight_bits": "--int8"}  # of writers, on the command line
SOME = ("mean", "key", "order")  # hints that are for some formats alone
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


def read(file: Path, hints: Hints = NOTHING) -> Weights:
    """The weights in a file of any known format; a file that is none of them is an error that says what is wrong.

    `hints` are for what a format does not carry; what contradicts the file is refused.
    """
    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise AlexNetError(f"MODEL {file} cannot be read ({error.strerror}); give a file that you may read.") from None
    for reader in readers():
        try:
            if len(head) < 16 or not reader.recognises(head, file):
                continue
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
        return _named(file, _agreed(file, found, hints, reader), hints.classes)
    *others, last = sorted((one.words for one in readers()), key=lambda words: not words.startswith("."))
    raise AlexNetError(f"MODEL {file} {_what(head)}; give a run folder, or weights as {', '.join(others)} or {last}.")


def _what(head: bytes) -> str:
    if not head:
        return "is not a whole file of AlexNet weights (it is empty)"
    for start, words in OTHERS.items():
        if head.lstrip().lower().startswith(start):
            return words
    return "is not a whole file of AlexNet weights (its first bytes are those of no known format)"


def _agreed(file: Path, found: Weights, hints: Hints, reader: Reader) -> Weights:
    """The weights, unless a hint says otherwise than the file, or what no file of its kind needs."""
    if hints.variant and hints.variant != found.variant:
        raise AlexNetError(f"MODEL {file} is of {found.variant}, and --variant says {hints.variant}; leave it out.")
    for key in SOME:
        if getattr(hints, key) and not found.origin.startswith(reader.hints.get(key, ())):
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
            raise AlexNetError(
                f"--classes {classes} has {counted(len(names), 'name')}; MODEL {file} has {counted(count, 'class')}."
            )
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
    known = writers()
    if file.suffix:  # a folder may be there, and is looked into by what writes it
        check_new("DST", file, known, known[file.suffix].beside(file) if file.suffix in known else ())
    chosen = known[file.suffix]
    switches = {"preprocessing": preprocessing, "eight_bits": eight_bits}
    for option, given in switches.items():
        if given and option not in chosen.options:
            endings = " and ".join(suffix for suffix, one in known.items() if option in one.options)
            raise AlexNetError(f"{OPTIONS[option]} is for {endings} files; {file.name} is none.")
    return chosen.write(weights, file, **{option: switches[option] for option in chosen.options})
