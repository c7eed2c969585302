"""A folder as Hugging Face has models: config.json, which timm's users know, beside our model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new, write_all
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.weights import native
from alexnet.weights.base import Weights, note
from alexnet.weights.registry import Writer

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def pretrained_cfg(variant: v.Variant, classes: int, preprocess: Preprocess) -> dict[str, Any]:
    """What timm's users find in `model.pretrained_cfg`: of a mean image its colour, and of pixels in [0, 1]."""
    colours = [float(x) / 255 for x in preprocess.mean.mean((1, 2))]
    scale = preprocess.scale if len(preprocess.scale) > 1 else preprocess.scale * len(colours)
    weighted = [layer.name for layer in variant.layers if isinstance(layer, v.Weighted)]
    return {
        "architecture": variant.name,
        "input_size": [preprocess.channels, preprocess.input, preprocess.input],
        "num_classes": classes,
        "mean": colours,
        "std": [float(x) / 255 for x in scale],
        "crop_pct": preprocess.input / preprocess.stored,
        "crop_mode": "squash" if preprocess.square == "squash" else "center",
        "interpolation": "bilinear",
        "first_conv": weighted[0],
        "classifier": weighted[-1],
        "fixed_input_size": True,
    }


def write(weights: Weights, folder: Path, replace: bool = False) -> list[Path]:
    """Write the folder; the files made. What is there is replaced only where that is asked for."""
    config, file = folder / CONFIG, folder / WEIGHTS
    for path in (config, file) if folder.is_dir() and not replace else ():
        check_new("DST", path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlexNetError(f"the folder {folder} cannot be made ({error.strerror}); give another place.") from None
    variant, preprocess = weights.built(), weights.preprocess
    if preprocess.mean.shape[-1] > 1:
        note(f"{config} has the mean image's colour alone; the image itself is in {WEIGHTS}")
    facts = {
        "architecture": variant.name,
        "library_name": "alexnet",
        "num_classes": len(weights.classes),
        "label_names": weights.classes,
        "pretrained_cfg": pretrained_cfg(variant, len(weights.classes), preprocess),
    }
    contents, described = native.to_bytes(weights), json.dumps(facts, indent=2).encode()
    write_all({file: lambda out: out.write(contents), config: lambda out: out.write(described)})
    return [file, config]


WRITER = Writer(50, "", "as Hugging Face has models: config.json beside model.safetensors", write)
