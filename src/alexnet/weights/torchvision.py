"""torchvision's alexnet as .pth: the state dict itself, or wrapped as training scripts save it (spec §10)."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet import labels
from alexnet import variants as v
from alexnet.errors import AlexNetError
from alexnet.files import write_whole
from alexnet.preprocess import Preprocess
from alexnet.weights.base import Weights, check_finite, check_shapes, facts, first_line, from_facts, note

MODULES = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
KEYS = {f"{name}.{kind}": f"{module}.{kind}" for name, module in MODULES.items() for kind in ("weight", "bias")}
WRAPPERS = ("state_dict", "model_state_dict", "model")
KEY = "alexnet"  # of this project's facts, in a wrapped file
PREFIXES = ("module.", "_orig_mod.")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]


def recognises(head: bytes, file: Path) -> bool:
    """Whether a file begins as torch.save's do: a zip archive, or the pickle of torch before 1.6."""
    return head.startswith((b"PK\x03\x04", b"\x80\x02\x8a\x0a"))


def read(file: Path, mean: Path | None = None, variant: str | None = None) -> Weights:
    """The weights in a .pth of torchvision's alexnet; a pickle that wants to run code is refused, not run."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it wants to run {wants[1]}" if wants else first_line(error)
        raise AlexNetError(
            f"MODEL {file} is refused: it holds more than weights ({what}); save its state_dict alone and give that."
        ) from None
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise AlexNetError(f"MODEL {file} is not a whole .pth file ({first_line(error)}); copy it again.") from None
    state = _unwrapped(file, found)
    missing, extra = sorted(set(KEYS.values()) - state.keys()), sorted(state.keys() - set(KEYS.values()))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]} besides"
        raise AlexNetError(
            f"MODEL {file} is another network than torchvision's alexnet (it {what}); give weights of that network."
        )
    tensors = {name: state[key] for name, key in KEYS.items()}
    classes = tensors["fc8.bias"].numel()
    check_shapes(file, v.variant("alexnet_owt"), tensors, classes, tensors["conv1.weight"].shape[1], 224, KEYS)
    check_finite(file, tensors)
    if isinstance(found, dict) and KEY in found:
        try:
            return from_facts(json.loads(found[KEY]), {**tensors, "mean": found["mean"]})
        except (KeyError, TypeError, ValueError) as error:
            raise AlexNetError(
                f"MODEL {file} carries facts of this project that do not fit together ({error}); convert it anew."
            ) from None
    origin = f"torchvision .pth: {file.name}"
    return Weights("alexnet_owt", tensors, labels.names(classes), preprocess(), {}, origin)


def preprocess() -> Preprocess:
    """What torchvision does to a picture, in grey levels of 0-255."""
    mean = 255 * torch.tensor(MEAN).reshape(3, 1, 1)
    return Preprocess(256, 224, "RGB", tuple(255 * s for s in STD), mean, "torchvision")


def write(weights: Weights, file: Path) -> list[Path]:
    """Write a state_dict for torchvision's alexnet; where preprocessing or classes are not torchvision's, wrapped.

    The wrapped form holds it under `state_dict`, beside what torchvision's files have no place for.
    """
    if weights.variant != "alexnet_owt" or weights.changes.get("activation", "relu") != "relu":
        raise AlexNetError(
            f"a .pth of torchvision cannot hold {weights.variant}: torchvision's alexnet is alexnet_owt with ReLU, "
            "one tower without normalisation; convert to .safetensors, .onnx or .caffemodel."
        )
    state = {key: weights.tensors[name].contiguous() for name, key in KEYS.items()}
    own, usual = weights.preprocess, preprocess()
    plain = own.facts() == usual.facts() and torch.equal(own.mean.cpu(), usual.mean)
    if plain and weights.classes == labels.names(len(weights.classes)):
        whole: dict[str, Any] = state
    else:
        whole = {"state_dict": state, KEY: json.dumps(facts(weights)), "mean": own.mean.cpu().contiguous()}
        note(
            f"{file.name}: preprocessing or classes are not torchvision's, so the weights stand under 'state_dict', "
            "beside them"
        )
    write_whole(file, lambda out: torch.save(whole, out))
    return [file]


def _unwrapped(file: Path, found: Any) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise AlexNetError(f"MODEL {file} holds no state_dict but a {type(found).__name__}; save model.state_dict().")
    state = {}
    for key, value in found.items():
        name = str(key)
        while name.startswith(PREFIXES):
            name = name[name.index(".") + 1 :]
        if isinstance(value, Tensor):
            state[name] = value.float()
    return state
