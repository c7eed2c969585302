"""What a Caffe net does to its pictures: `transform_param`, in the net itself or in a .prototxt beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.base.errors import AlexNetError
from alexnet.weights import protobuf as pb
from alexnet.weights.base import note

TEST = 1  # of the phases
# Numbers of fields of a layer, in new messages and in old ones: transform_param, and older homes of the same facts.
FIELDS = {100: (100, (107, 115, 129)), 2: (36, (11, 15, 20))}
SOURCES = ("data_param", "image_data_param", "window_data_param")
MOST_TEXT, DEEPEST = 1 << 20, 20
COMMENTS = r"\s*(?:#[^\n]*\s*)*"
QUOTED = r"""(["'])((?:(?!\2)[^\\]|\\.)*)\2"""
TOKEN = re.compile(rf"""{COMMENTS}(?:([{{}}:,;<>])|{QUOTED}|([^\s{{}}:,;<>"'#]+))""")


@dataclass(frozen=True)
class Transform:
    """(pixels - mean) · scale of crops; `mean_values` are in Caffe's order of channels, `mean_file` is a name alone."""

    scale: float = 1.0
    crop: int = 0
    mean_file: str = ""
    mean_values: tuple[float, ...] = ()
    test: bool = False


def in_net(net: pb.Message) -> Transform | None:
    """What the layers of a .caffemodel say that read data; None where none says it."""
    found: list[Transform] = []
    for number, (own, older) in FIELDS.items():
        for layer in net.messages(number):
            phases = (
                [layer.integer(10, 0), *(rule.integer(1, 0) for rule in layer.messages(8))] if number == 100 else []
            )
            for one in layer.messages(own):
                found.append(_told(one, (1, 3, 4), [float(x) for x in one.floats(5)], TEST in phases))
            for field in older if not layer.messages(own) else ():
                for one in layer.messages(field):
                    there = _told(one, (2, 5, 3), [], TEST in phases)
                    found += [there] if there != Transform(test=there.test) else []
    return _chosen(found)


def _told(message: pb.Message, numbers: Sequence[int], values: list[float], test: bool) -> Transform:
    scale, crop, file = numbers
    name = _name(message.text(file))
    return Transform(message.float(scale, 1.0), message.integer(crop, 0), name, tuple(values), test)


def _name(path: str) -> str:
    return Path(path.replace("\\", "/").replace("\0", "")).name[:255]


def _chosen(found: list[Transform]) -> Transform | None:
    """That of the test phase, else the first."""
    for one in found:
        if not all(math.isfinite(x) for x in (one.scale, *one.mean_values)):
            raise pb.WireError("its transform_param has numbers that are not finite")
    return next((one for one in found if one.test), found[0] if found else None)


def transform_beside(file: Path) -> Transform | None:
    """What a .prototxt beside the file says; it is named, as nothing ties it to the file but its place."""
    usual = [file.with_suffix(".prototxt"), file.with_name("train_val.prototxt"), file.with_name("train_test.prototxt")]
    every = sorted(file.parent.glob("*.prototxt"))
    for path in [*(x for x in usual if x.is_file()), *(every if len(every) == 1 else ())]:
        if path.stat().st_size > MOST_TEXT:
            continue
        try:
            net = prototxt_fields(path.read_text("utf-8", "replace"))
            found = _chosen([_of_text(layer) for layer in _layers(net)])
        except (ValueError, TypeError, IndexError) as error:
            raise AlexNetError(
                f"{path} beside MODEL {file} cannot be read ({error!s:.100}); mend or move it."
            ) from None
        if found is not None:
            note(f"{file.name}: scale, mean and crop of its pictures are those of {path.name}")
            return found
    return None


def _layers(net: list[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Layers with a transform, and the net itself where it has one."""
    for one in [net, *(value for key, value in net if key in ("layer", "layers") and isinstance(value, list))]:
        own = [key for key, value in one if isinstance(value, list) and key == "transform_param"]
        older = [value for key, value in one if isinstance(value, list) and key in SOURCES]
        if own or any(key in ("scale", "mean_file", "crop_size") for value in older for key, _ in value):
            yield one


def _of_text(layer: list[tuple[str, Any]]) -> Transform:
    given = [x for key in ("transform_param", *SOURCES) for name, value in layer if name == key for x in value]
    last = dict(given)
    phases = [value for key, value in layer if key == "phase"]
    phases += [
        x for key, value in layer if key == "include" and isinstance(value, list) for k, x in value if k == "phase"
    ]
    values = tuple(float(value) for key, value in given if key == "mean_value")
    scale, crop = float(last.get("scale", 1.0)), int(last.get("crop_size", 0))
    return Transform(scale, crop, _name(str(last.get("mean_file", ""))), values, "TEST" in phases)


def prototxt_fields(text: str) -> list[tuple[str, Any]]:
    """A message in protobuf's text form: (field, value) in order, values being text or messages. Raises ValueError."""
    stack: list[list[tuple[str, Any]]] = [[]]
    name, at = "", 0
    text = text.rstrip()
    while at < len(text):
        token = TOKEN.match(text, at)
        if token is None:
            break  # a comment at the end
        at = token.end()
        mark, value = token[1], token[3] or token[4] or ""
        if mark in ("{", "<"):
            inner: list[tuple[str, Any]] = []
            stack[-1].append((name, inner))
            stack.append(inner)
            name = ""
            if len(stack) > DEEPEST:
                raise ValueError("it is nested too deeply")
        elif mark in ("}", ">"):
            stack.pop()
            if not stack:
                raise ValueError("a brace closes nothing")
        elif mark == ":":
            continue
        elif mark is None and name:
            stack[-1].append((name, value))
            name = ""
        elif mark is None:
            name = value
    if len(stack) != 1:
        raise ValueError("a brace is not closed")
    return stack[0]
