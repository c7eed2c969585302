"""torchvision's alexnet as .pth: the state dict itself, or wrapped as training scripts save it (spec §10)."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet import labels
from alexnet.errors import AlexNetError
from alexnet.preprocess import Preprocess
from alexnet.shapes import weight_shapes
from alexnet.variants import variant
from alexnet.weights.base import Weights, check_finite, first_line

MODULES = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
KEYS = {f"{name}.{kind}": f"{module}.{kind}" for name, module in MODULES.items() for kind in ("weight", "bias")}
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]


def recognises(head: bytes) -> bool:
    """Whether a file begins as torch.save's do: a zip archive, or the pickle of torch before 1.6."""
    return head.startswith((b"PK\x03\x04", b"\x80\x02\x8a\x0a"))


def read(file: Path) -> Weights:
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
    for name, shape in weight_shapes(variant("alexnet_owt"), classes, 3, 224).items():
        if tuple(tensors[name].shape) != shape:
            raise AlexNetError(
                f"MODEL {file} has {KEYS[name]} of shape {tuple(tensors[name].shape)}; torchvision's alexnet with "
                f"{classes} classes has {shape}: give weights of that network."
            )
    check_finite(file, tensors)
    mean = 255 * torch.tensor(MEAN).reshape(3, 1, 1)
    preprocess = Preprocess(256, 224, "RGB", tuple(255 * s for s in STD), mean)
    return Weights("alexnet_owt", tensors, labels.names(classes), preprocess, {}, f"torchvision .pth: {file.name}")


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
