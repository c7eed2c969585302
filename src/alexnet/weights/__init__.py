"""Files of weights, each format in a file of its own; which it is, is found by looking at the first bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from alexnet.errors import AlexNetError
from alexnet.weights.base import Weights


def read(file: Path, mean: Path | None = None, variant: str | None = None) -> Weights:
    """The weights in a file of any known format; a file that is none of them is an error that says what is wrong.

    `mean` and `variant` are for formats that carry none; the other formats refuse what contradicts the file.
    """
    from alexnet.weights import caffe, convnet, native, npy, onnx, torchvision

    try:
        with open(file, "rb") as opened:
            head = opened.read(16)
    except OSError as error:
        raise AlexNetError(f"MODEL {file} cannot be read ({error.strerror}); give a file that you may read.") from None
    for reader in (convnet, torchvision, native, npy, onnx, caffe):
        if len(head) == 16 and reader.recognises(head, file):
            return reader.read(file, mean, variant)
    raise AlexNetError(
        f"MODEL {file} is not a whole file of AlexNet weights (its first bytes are those of no known format); give a "
        "run folder, or weights as .safetensors, .pth, .caffemodel, .onnx, .npy or a checkpoint of cuda-convnet."
    )


def write(weights: Weights, file: Path, preprocessing: bool = False, eight_bits: bool = False) -> list[Path]:
    """Write a file in the format that its ending names; the files made. Nothing that exists is overwritten.

    `preprocessing` puts crop, mean and scale inside an .onnx; `eight_bits` rounds weights to int8 in a .safetensors.
    """
    from alexnet.weights import caffe_writer, native, onnx_writer, torchvision

    writers: dict[str, Callable[[Weights, Path], list[Path]]] = {
        ".safetensors": partial(native.write, eight_bits=eight_bits),
        ".pth": torchvision.write,
        ".caffemodel": caffe_writer.write,
        ".onnx": partial(onnx_writer.write, preprocessing=preprocessing),
    }
    if file.suffix not in writers:
        raise AlexNetError(f"{file} has no ending that names a format; give one of {', '.join(writers)}.")
    if preprocessing and file.suffix != ".onnx":
        raise AlexNetError(f"--preprocessing is for .onnx files; {file.name} is none.")
    if eight_bits and file.suffix != ".safetensors":
        raise AlexNetError(f"--int8 is for .safetensors files; {file.name} is none.")
    for path in [file, *(caffe_writer.beside(file) if file.suffix == ".caffemodel" else ())]:
        if path.exists():
            raise AlexNetError(f"{path} exists already; give another name, or move it away.")
    return writers[file.suffix](weights, file)
