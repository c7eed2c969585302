"""Files of `alexnet export` as MODEL: OpenVINO's .xml with .bin, and .onnx with 8-bit weights."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, NoReturn, cast

from torch import Tensor, nn

from alexnet.base.errors import AlexNetError, first_line
from alexnet.engines import onnx, openvino
from alexnet.networks.model import AlexNet
from alexnet.weights import onnx as onnx_file
from alexnet.weights import protobuf as pb
from alexnet.weights.base import check_preprocess, from_facts
from alexnet.weights.classifier import Classifier, Engine
from alexnet.weights.onnx_writer import KEY, MEAN_KEY

XML = (b"<?xml", b"<net ")
FORM = b'"form": "'  # in the facts of an .onnx that was quantised


class Absent(nn.Module):
    """Stands where an export has no network in torch: whoever asks it for layers is told so."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.__dict__["file"] = file
        self.__dict__["files"] = [one for one in (file, file.with_suffix(".bin")) if one.exists()]

    def forward(self, *given: Any) -> Tensor:
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AlexNetError(
            f"MODEL {self.__dict__['file']} is an export, which answers but has no layers; here give the model that it "
            "was exported from."
        )


def recognises(file: Path) -> bool:
    """Whether a file is an export that weights cannot be read from, by what is in it."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(16)
            if head.startswith(XML):
                return True
            if len(head) < 16 or not onnx_file.recognises(head, file):
                return False
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                return whole.find(FORM) >= 0
    except OSError:
        return False


def load_export(file: Path) -> Classifier:
    """The classifier in an export, answering by the engine that it was made for."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(5)
        if head in XML:
            metadata, start = _openvino(file)
            name = "openvino"
        else:
            model = pb.whole(file)
            metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
            name, start = "onnx", None
        facts, mean = onnx_file.facts_and_mean(metadata)
        found = from_facts(facts, {"mean": mean})
        check_preprocess(found.preprocess)
    except (KeyError, TypeError, ValueError, OSError, LookupError, pb.WireError) as error:
        raise AlexNetError(
            f"MODEL {file} is not a whole export of this project ({first_line(error)}); export it anew."
        ) from None
    form = facts.get("form", "float32")
    try:
        engine: Engine = (
            onnx.make_engine(file, found.preprocess, form)
            if start is None
            else openvino.make_engine(start, found.preprocess, form)
        )
    except AlexNetError:
        raise
    except Exception as error:  # the engines' libraries have kinds of their own
        raise AlexNetError(
            f"MODEL {file} is an export that cannot be run ({first_line(error)}); export it anew."
        ) from None
    return Classifier(
        cast(AlexNet, Absent(file)), found.preprocess, found.classes, found.origin, engine, name, found.trained,
        found.naming,
    )  # fmt: skip


def _openvino(file: Path) -> tuple[dict[str, str], Any]:
    try:
        graph = openvino.read(file)
        return {key: graph.get_rt_info([key]).astype(str) for key in (KEY, MEAN_KEY)}, graph
    except RuntimeError as error:
        raise ValueError(first_line(error)) from None
