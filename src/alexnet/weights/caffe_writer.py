"""Caffe's .caffemodel, written: new layer messages, a .prototxt for inference, and the mean as .binaryproto."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.base.files import write_all
from alexnet.data import labels
from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape
from alexnet.weights import protobuf as pb
from alexnet.weights.base import Weights, note
from alexnet.weights.caffe import PARAMETERS, WEIGHTED, CaffeLayer, caffe_layers, stored_side
from alexnet.weights.caffe_mean import reversed_channels
from alexnet.weights.registry import Writer

ENUMS = {"norm_region": ("ACROSS_CHANNELS", "WITHIN_CHANNEL"), "pool": ("MAX", "AVE")}


def files_beside(file: Path) -> tuple[Path, Path]:
    """The .prototxt and the mean that belong to a .caffemodel."""
    return file.with_suffix(".prototxt"), file.with_name(f"{file.stem}_mean.binaryproto")


def write(weights: Weights, file: Path) -> list[Path]:
    """Write .caffemodel, .prototxt and the mean beside it; the files made."""
    variant, preprocess = weights.built(), weights.preprocess
    input, channels = preprocess.input, preprocess.channels
    known = caffe_layers(variant, preprocess.scale, channels, len(weights.classes))
    _check_sides(variant, input)
    first = next(record.name for record in variant.layers if isinstance(record, v.Weighted))
    for layer in known:
        if layer.type in WEIGHTED:
            weight, bias = (weights.tensors[f"{layer.name}.{kind}"] for kind in ("weight", "bias"))
            weight = reversed_channels(weight, axis=1) if layer.name == first else weight
            layer.blobs = [weight.numpy(), bias.numpy()]
        elif layer.type == "Scale":
            scale = np.array(preprocess.scale * (channels // len(preprocess.scale)))
            layer.blobs = [(1 / scale[::-1]).astype(np.float32)]
    if preprocess.square != "crop":
        note(
            f"{file.name}: Caffe's files do not say how pictures become squares; read it with --square "
            f"{preprocess.square}, which is this network's way"
        )
    if preprocess.stored != (usual := stored_side(variant, input)):
        note(
            f"{file.name}: Caffe's files do not say to what size pictures are shrunk before the crop; read, it is "
            f"{usual} pixels, not {preprocess.stored}"
        )
    if weights.classes != (known_as := labels.names(len(weights.classes))):
        note(
            f"{file.name}: Caffe's files hold no names of classes; read, they are {known_as[0]!r:.40}, "
            f"{known_as[-1]!r:.40} at the last"
        )
    text, mean = files_beside(file)
    image = reversed_channels(preprocess.mean, axis=0).numpy()
    shape = pb.block(1, pb.integers(1, (1, channels, input, input)))
    data = pb.block(1, "data") + pb.block(2, "Input") + pb.block(4, "data") + pb.block(143, shape)
    parts = [pb.block(1, variant.name), pb.block(100, data), *(pb.block(100, _encoded(layer)) for layer in known)]
    described = _text(variant.name, known, (1, channels, input, input)).encode()
    write_all(
        {
            file: lambda out: out.writelines(parts),
            text: lambda out: out.write(described),
            mean: lambda out: out.write(_encoded_mean(image)),
        }
    )
    return [file, text, mean]


def _check_sides(variant: v.Variant, input: int) -> None:
    """Caffe's convolutions leave a remainder out and its poolings take it in; refuse what is otherwise at `input`."""
    side = input
    for record in variant.layers:
        if not isinstance(record, v.Conv | v.MaxPool):
            continue
        over = (side + 2 * getattr(record, "pad", 0) - record.kernel) % record.stride
        if over and record.ceil == isinstance(record, v.Conv):
            raise AlexNetError(
                f"a .caffemodel cannot hold {variant.name} at input {input}: Caffe's {record.name} would give maps of "
                "another size; convert it with another --input (227 for the nets of 2012), or to .onnx."
            )
        side = output_shape(record, (1, side, side), 1)[1]


def _encoded(layer: CaffeLayer) -> bytes:
    _, number, _, parameters = PARAMETERS[layer.type]
    out = [pb.block(1, layer.name), pb.block(2, layer.type)]
    out += [pb.block(3, name) for name in layer.bottoms] + [pb.block(4, name) for name in layer.tops]
    out += [pb.block(7, _encoded_blob(blob)) for blob in layer.blobs]
    given = b""
    for key, value in _departures(layer):
        at = parameters[key][0]
        given += pb.single(at, value) if isinstance(value, float) else pb.integer(at, value)
    return b"".join([*out, pb.block(number, given)] if given else out)


def _encoded_blob(array: np.ndarray) -> bytes:
    return pb.block(7, pb.integers(1, array.shape)) + pb.block(5, np.ascontiguousarray(array, "<f4").tobytes())


def _encoded_mean(image: np.ndarray) -> bytes:
    legacy = b"".join(pb.integer(number, side) for number, side in enumerate((1, *image.shape), start=1))
    return legacy + pb.block(5, np.ascontiguousarray(image, "<f4").tobytes())


def _departures(layer: CaffeLayer) -> Iterator[tuple[str, Any]]:
    """Parameters that are not at their default, a repeated one several times."""
    for key, value in layer.parameters.items():
        for one in value if isinstance(value, list) else [value]:
            if one != PARAMETERS[layer.type][3][key][1]:
                yield key, one


def _text(name: str, found: Iterable[CaffeLayer], shape: tuple[int, ...]) -> str:
    """The net as .prototxt, ready for inference."""
    dims = " ".join(f"dim: {side}" for side in shape)
    lines = [f'name: "{name}"', "layer {", '  name: "data"', '  type: "Input"', '  top: "data"']
    lines += [f"  input_param {{ shape {{ {dims} }} }}", "}"]
    for layer in found:
        lines += ["layer {", f'  name: "{layer.name}"', f'  type: "{layer.type}"']
        lines += [f'  bottom: "{bottom}"' for bottom in layer.bottoms] + [f'  top: "{top}"' for top in layer.tops]
        given = " ".join(
            f"{key}: {ENUMS[key][value] if key in ENUMS else format(value, '.9g')}" for key, value in _departures(layer)
        )
        lines += [f"  {PARAMETERS[layer.type][0]} {{ {given} }}"] * bool(given) + ["}"]
    return "\n".join(lines) + "\n"


WRITER = Writer(30, ".caffemodel", "Caffe's, with .prototxt and mean beside it", write, beside=files_beside)
