"""A network with all that belongs to its weights: preprocessing, class names, origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import plan
from alexnet.networks.model import AlexNet, empty_build
from alexnet.networks.variants import variant
from alexnet.weights import formats, huggingface, native
from alexnet.weights.base import Weights, note

UNDONE = {  # by what is in the names of tensors
    "parametrizations.": "torch.nn.utils.parametrize.remove_parametrizations",
    "_mask": "torch.nn.utils.prune.remove",
}


@dataclass(frozen=True)
class Engine:
    """A network on the CPU in another program than torch; `words` say which and in what arithmetic.

    `run` takes contiguous uint8 pictures (n, stored, stored, C) and `logits` or `prob`, gives float32 (n, classes).
    """

    words: str
    preprocess: Preprocess
    run: Callable[[np.ndarray, str], np.ndarray]

    def logits(self, crops: Tensor) -> Tensor:
        """Logits float32 (n, classes) of uint8 crops (n, C, input, input), from wherever in the pictures they are.

        The network takes the central crop of what it is given: each crop is put in the middle of an empty picture.
        """
        if crops.dtype != torch.uint8:
            raise AlexNetError(
                "ten views of a network that sees whole pictures are enlarged ones, which engines do not take; use "
                "--engine torch or one view."
            )
        low, side, preprocess = self.preprocess.low, self.preprocess.input, self.preprocess
        pictures = np.zeros((len(crops), preprocess.stored, preprocess.stored, preprocess.channels), np.uint8)
        pictures[:, low : low + side, low : low + side] = crops.permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(self.run(pictures, "logits"))


@dataclass
class Classifier:
    """A network with its preprocessing and class names.

    `.model` is in eval mode: preprocessed float32 pictures (N, C, input, input) -> float32 logits (N, classes).
    `.engine`, where there is one, answers in its stead; `.exported` names the engine of an export without layers.
    """

    model: AlexNet
    preprocess: Preprocess
    classes: list[str]
    origin: str = ""  # where the weights come from, in words
    engine: Engine | None = None
    exported: str = ""
    trained: dict[str, Any] = field(default_factory=dict)  # of a run: step, digest of its data and what it held out
    naming: str = ""  # not empty: the class names are numbers or ImageNet's, for the file has none
    known: tuple[list[str], list[str | None]] | None = None  # class names and their WordNet ids, once asked for

    def save(self, path: str | Path) -> list[Path]:
        """Write a new file in the format of its ending (.safetensors, .pth, .caffemodel, .onnx; a name without one is
        a folder as Hugging Face has models); the files made.

        A file names the variant, so layers that compute otherwise than its plan are refused; hooks are not saved.
        """
        found = weights_of(self)
        return formats.write(
            replace(found, tensors={k: x.detach().cpu() for k, x in found.tensors.items()}), Path(path)
        )

    @property
    def wordnet(self) -> list[str | None]:
        """The WordNet id of each class, where they are known: of 22,000 classes more work than a batch of answers."""
        if self.known is None or self.known[0] != self.classes:
            self.known = list(self.classes), labels.wordnet(self.classes)
        return self.known[1]

    def __repr__(self) -> str:
        """In one line: the network, what it knows, what it sees, where it is and where its weights come from."""
        name, sizes = "export" if self.exported else self.model.variant.name, self.preprocess
        where = self.exported or (self.engine.words if self.engine else str(self.device))
        come = f", {self.origin}" if self.origin else ""
        return (
            f"<Classifier: {name}, {counted(len(self.classes), 'class')}, "
            f"input {sizes.input} of {sizes.stored} pixels, {where}{come}>"
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.exported else next(self.model.parameters()).device


def built(found: Weights, device: str | torch.device = "cpu", file: str | Path = "") -> Classifier:
    """The classifier of weights that were read; `file` names them in errors."""
    channels, input = found.preprocess.channels, found.preprocess.input
    try:
        model = empty_build(variant(found.variant), len(found.classes), channels, input, found.changes)
        model.load_state_dict(found.tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AlexNetError(
            f"MODEL {file or found.origin} does not fit together ({first_line(error)}); it was changed or damaged: "
            "copy it again."
        ) from None
    network = model.to(device).eval()
    network.pretrained_cfg = huggingface.pretrained_cfg(network.variant, len(found.classes), found.preprocess)
    return Classifier(
        network, found.preprocess, found.classes, found.origin, trained=found.trained, naming=found.naming
    )


def weights_bytes(
    model: AlexNet, preprocess: Preprocess, classes: list[str], origin: str, trained: dict[str, Any] | None = None
) -> bytes:
    """The contents of a file of weights; `origin` says in words where they come from, `trained` in figures."""
    return native.to_bytes(weights_of(Classifier(model, preprocess, classes, origin, trained=trained or {})))


def weights_of(classifier: Classifier) -> Weights:
    """The classifier's weights with all that belongs to them, as files hold them: the plan stands for the layers.

    Raises AlexNetError where layers compute otherwise than the plan says.
    """
    check_plan(classifier)
    found = described(classifier)
    for name, x in found.tensors.items():
        if x.dtype == torch.float64 and not torch.equal(x, x.float().double()):
            note(f"{name} is float64 and is kept as float32: digits are lost")
            break
    return found


def check_plan(classifier: Classifier) -> None:
    """Refuse a network of which the plan of its variant and its class names do not tell everything."""
    model = classifier.model
    if classifier.exported:
        raise AlexNetError("an export has no weights to save; save the model that it was exported from.")
    if not isinstance(model, AlexNet):
        raise AlexNetError(f".model is a {type(model).__name__}, not an AlexNet; set it to the AlexNet inside.")
    head = getattr(model, name := plan.head_name(model.variant), None)
    if type(head) is torch.nn.Linear:
        check_names(len(head.weight), len(classifier.classes), name)
    if said := plan.departure(model, len(classifier.classes)):
        last = "export it as pt2, which takes any module, or save its state_dict by torch.save"
        for kind, undone in UNDONE.items():
            if any(kind in key for key in model.state_dict()):
                last = f"end that by {undone}, or {last}"
        raise AlexNetError(f"{said}, and this keeps a plan and weights alone; {last}.")


def check_names(outputs: int, classes: int, who: str = "the network") -> None:
    """Refuse another number of outputs than there are names of classes."""
    if outputs != classes:
        raise AlexNetError(
            f"{who} has {counted(outputs, 'output')} and .classes {counted(classes, 'name')}; set .classes to its "
            f"{counted(outputs, 'name')}."
        )


def described(classifier: Classifier) -> Weights:
    """As `weights_of`, whatever layers there are."""
    model, preprocess = classifier.model, classifier.preprocess
    tensors: dict[str, torch.Tensor] = dict(model.state_dict())
    return Weights(
        model.variant.name, tensors, classifier.classes, preprocess, model.changes, classifier.origin,
        classifier.trained, classifier.naming,
    )  # fmt: skip
