"""torchvision's alexnet, written as .pth; state.py reads it, however it is wrapped (docs/facts.md 10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from alexnet.base.errors import AlexNetError
from alexnet.base.files import write_whole
from alexnet.data import labels
from alexnet.weights.base import Weights, facts, note
from alexnet.weights.registry import Writer
from alexnet.weights.state import KEY, KEYS, preprocess


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
    if state["classifier.1.weight"].shape[1] != 36 * len(state["features.10.weight"]):
        raise AlexNetError(
            f"a .pth of torchvision cannot hold {weights.variant} at input {weights.preprocess.input}: torchvision's "
            "alexnet has maps of 6 x 6 before its first fully connected layer; convert to .safetensors or .onnx."
        )
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


WRITER = Writer(20, ".pth", "torchvision's alexnet: a state_dict", write)
