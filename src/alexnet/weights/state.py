"""A network's tensors by name, as PyTorch's users save them: found in whatever holds them, and known by their names.

Names are torchvision's or this project's own. What holds them may be a dictionary of a training script, a whole module,
or a folder of Hugging Face; prefixes of wrappers are taken off. What was chosen or left out is said in one line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.hints import Hints
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.networks import variants as v
from alexnet.weights.base import (
    ASSUMED,
    MOST_CLASSES,
    Lazy,
    Weights,
    check_preprocess,
    from_facts,
    metadata_object,
    note,
    state_shapes,
    taken,
)
from alexnet.weights.sets import FIRST, Found, dictionaries, objects, sets

MODULES = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
KEYS = {f"{name}.{kind}": f"{module}.{kind}" for name, module in MODULES.items() for kind in ("weight", "bias")}
# Hints that the files read here take, by how their origin begins.
HINTS = {"mean": ("torchvision", "state_dict"), "key": ("torchvision", "state_dict")}
KEY = "alexnet"  # of this project's facts, beside the weights
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]
MEAN_RGB = (127.305, 119.715, 104.913)  # of ILSVRC-2012 at 256 x 256 (docs/facts.md 5.2)
AVERAGED = re.compile(r"(^|[^a-z])(ema|averaged|swa)([^a-z]|$)")
KNOWN = "torchvision.models.alexnet.AlexNet"


def preprocess() -> Preprocess:
    """What torchvision does to a picture, in grey levels of 0-255."""
    mean = 255 * torch.tensor(MEAN).reshape(3, 1, 1)
    return Preprocess(256, 224, "RGB", tuple(255 * s for s in STD), mean, "torchvision")


def weights(file: Path, found: Any, hints: Hints, config: Mapping[str, Any] | None = None) -> Weights:
    """The weights in whatever was read; `config` is what a folder of Hugging Face says of them."""
    known = list(sets(found))
    if not known:
        _refuse(file, found)
    chosen = _choice(file, known, hints.key)
    for name in ("fc8.bias", KEYS["fc8.bias"]):
        if name in chosen.tensors and chosen.tensors[name].shape == (1,):
            note(
                f"{file.name} has one output, and the probability of one class is always 100 %: only its features are "
                "of use (a yes-or-no net needs two outputs here)"
            )
    if chosen.beside:
        more = f" and {len(chosen.beside) - 1} more" if chosen.beside[1:] else ""
        note(f"{file.name}: tensors that are none of the network's are left out ({chosen.beside[0]:.60}{more})")
    if chosen.module not in ("", KNOWN):
        note(
            f"{file.name} holds a whole module, {chosen.module:.80}: its weights are read and its code is not run, so "
            "what it computes is taken for what its names of layers say"
        )
    own = found.get(KEY) if isinstance(found, dict) else None
    return _torchvision(file, chosen, hints, own, found, config or {}) if chosen.torchvision else _native(
        file, chosen, hints, config or {}
    )  # fmt: skip


def _lacks(chosen: Found) -> list[str]:
    """Of torchvision's names."""
    return sorted(set(KEYS.values()) - chosen.tensors.keys())


def _torchvision(file: Path, chosen: Found, hints: Hints, own: Any, found: Any, config: Mapping[str, Any]) -> Weights:
    missing, extra = _lacks(chosen), sorted(chosen.tensors.keys() - set(KEYS.values()))
    if missing or extra:
        odd = [f"lacks {x}" for x in missing[:1]] + [f"has {x:.80}{' besides' * (not missing)}" for x in extra[:1]]
        raise AlexNetError(
            f"MODEL {file} is another network than torchvision's alexnet (it {' and '.join(odd)}); give weights of "
            "that network."
        )
    lazy = {name: chosen.tensors[key] for name, key in KEYS.items()}
    variant = v.variant("alexnet_owt")
    classes, channels = _outputs(file, lazy, KEYS), _channels(file, lazy, KEYS)
    called = {name: f"{key}" for name, key in KEYS.items()}
    tensors = taken(file, variant, state_shapes(variant, classes, channels, 224), lazy, classes, called)
    if isinstance(own, str):
        try:
            mean = found.get("mean")
            if not isinstance(mean, Lazy) or len(mean.shape) != 3 or math.prod(mean.shape) > 3 << 24:
                raise ValueError("its mean is no image")
            return from_facts(metadata_object(own), {**tensors, "mean": mean.take().float()})
        except (KeyError, TypeError, ValueError, AlexNetError) as error:
            raise AlexNetError(
                f"MODEL {file} carries facts of this project that do not fit together ({first_line(error)}); convert "
                "it anew."
            ) from None
    kind = "torchvision .pth" if file.suffix != ".safetensors" else "torchvision .safetensors"
    names, naming = _names(file, classes, config)
    given = _preprocess(file, variant, channels, hints, config)
    return Weights("alexnet_owt", tensors, names, given, {}, f"{kind}: {file.name}", naming=naming)


def _native(file: Path, chosen: Found, hints: Hints, config: Mapping[str, Any]) -> Weights:
    """A bare state_dict of one of our networks, which no shape tells for certain."""
    lazy = {name: one for name, one in chosen.tensors.items() if name != "mean"}
    last = next((n for n in reversed(lazy) if n.endswith(".bias") and f"{n[:-5]}.weight" in lazy), "fc8.bias")
    variant = v.variant(hints.variant) if hints.variant else _fitting(file, lazy, last)
    final = next(x.name for x in reversed(variant.layers) if isinstance(x, v.Weighted))
    classes = _outputs(file, lazy, {}, f"{final}.bias")
    channels = _channels(file, lazy, {})
    tensors = taken(file, variant, state_shapes(variant, classes, channels, variant.input), lazy, classes)
    names, naming = _names(file, classes, config)
    image = chosen.tensors.get("mean")
    if image is not None and image.shape in ((channels, 1, 1), (channels, variant.stored, variant.stored)):
        order = "L" if channels == 1 else "RGB"
        given = Preprocess(variant.stored, variant.input, order, (variant.pixel_scale,), image.take().float())
    else:
        given = _preprocess(file, variant, channels, hints, config)
    return Weights(variant.name, tensors, names, given, {}, f"state_dict: {file.name}", naming=naming)


def _fitting(file: Path, lazy: Mapping[str, Lazy], last: str) -> v.Variant:
    classes = _outputs(file, lazy, {}, last)
    channels = _channels(file, lazy, {})
    shapes = {name: one.shape for name, one in lazy.items()}
    fits = []
    for variant in v.VARIANTS.values():
        expected = state_shapes(variant, classes, channels, variant.input)
        counts = {name for name, (_, floating) in expected.items() if not floating}
        if shapes.keys() | counts == expected.keys() and all(shapes.get(n, s) == s for n, (s, _) in expected.items()):
            fits.append(variant)
    if len(fits) == 1:
        note(f"{file.name} does not say of which network it is; its shapes are those of {fits[0].name} alone")
        return fits[0]
    if fits:
        names = ", ".join(variant.name for variant in fits)
        raise AlexNetError(
            f"MODEL {file} is a bare state_dict whose shapes fit several networks ({names}); name one with --variant."
        )
    raise AlexNetError(
        f"MODEL {file} has layers called as here, but of shapes that fit no network known here; name the one that it "
        "is meant to be with --variant, which says what differs."
    )


def _outputs(file: Path, lazy: Mapping[str, Lazy], called: Mapping[str, str], name: str = "fc8.bias") -> int:
    one = lazy.get(name)
    if one is None or len(one.shape) != 1 or not one.shape[0]:
        what = "lacks" if one is None else f"has of shape {one.shape!s:.60}"
        raise AlexNetError(f"MODEL {file} {what} {called.get(name, name)}, a bias a class; give weights of a network.")
    if one.shape[0] > MOST_CLASSES:
        raise AlexNetError(f"MODEL {file} has {one.shape[0]:,} outputs; at most {MOST_CLASSES:,} are read.")
    return one.shape[0]


def _channels(file: Path, lazy: Mapping[str, Lazy], called: Mapping[str, str]) -> int:
    one = lazy.get("conv1.weight")
    if one is None or len(one.shape) != 4 or not one.shape[1]:
        what = "lacks" if one is None else f"has of shape {one.shape!s:.60}"
        shown = called.get("conv1.weight", "conv1.weight")
        raise AlexNetError(f"MODEL {file} {what} {shown}, filters of four dimensions; give weights of a network.")
    return one.shape[1]


def _names(file: Path, classes: int, config: Mapping[str, Any]) -> tuple[list[str], str]:
    """Names of classes: the folder's, else ImageNet's or numbers; and whether they are assumed."""
    given = config.get("label_names") or config.get("id2label")
    if isinstance(given, dict):
        given = [given.get(str(number)) for number in range(len(given))]
    if isinstance(given, list) and len(given) == classes and all(isinstance(name, str) for name in given):
        return given, ""
    return labels.names(classes), ASSUMED


def _preprocess(file: Path, variant: v.Variant, channels: int, hints: Hints, config: Mapping[str, Any]) -> Preprocess:
    """What the folder says, or torchvision's for its network, or ILSVRC's mean colour, which is said."""
    from alexnet.weights.caffe_mean import given_mean

    usual = preprocess()
    inner = config.get("pretrained_cfg")
    given = {**config, **inner} if isinstance(inner, dict) else dict(config)
    try:
        if isinstance(given.get("mean"), list) and isinstance(given.get("std"), list):
            colour, std = ([255 * float(x) for x in given[key]] for key in ("mean", "std"))
            sides = given.get("input_size")
            input = sides[-1] if isinstance(sides, list) and sides else variant.input
            stored = round(input / float(given.get("crop_pct") or variant.input / variant.stored))
            centred = "torchvision" if variant.name == "alexnet_owt" else "crop"
            square = "squash" if given.get("crop_mode") == "squash" else centred
            image = torch.tensor(colour, dtype=torch.float32).reshape(-1, 1, 1)
            if image.shape[0] != channels:
                raise ValueError(f"a mean of {image.shape[0]} colours for {channels}")
            found = Preprocess(stored, input, "L" if channels == 1 else "RGB", tuple(std), image, square)
            check_preprocess(found)
            return found
    except (ValueError, TypeError, OverflowError, ZeroDivisionError, RuntimeError) as error:
        raise AlexNetError(
            f"MODEL {file}: config.json beside it gives no preprocessing that fits ({first_line(error)}); mend it."
        ) from None
    order = "L" if channels == 1 else "RGB"
    if variant.name == "alexnet_owt":
        if hints.mean:
            scale = usual.scale if channels == 3 else (sum(usual.scale) / 3,)
            return Preprocess(256, 224, order, scale, given_mean(hints.mean, channels, 256, 224), "torchvision")
        if channels == 3:
            return usual
        note(f"{file.name} takes {counted(channels, 'channel')}: torchvision's mean and scale, averaged over colours")
        mean = usual.mean.mean().expand(channels, 1, 1).contiguous()
        return Preprocess(256, 224, order, (sum(usual.scale) / 3,), mean, "torchvision")
    sizes = variant.stored, variant.input, order, (variant.pixel_scale,)
    if hints.mean:
        return Preprocess(*sizes, given_mean(hints.mean, channels, variant.stored, variant.input))
    if channels != 3:
        raise AlexNetError(f"MODEL {file} carries no mean for its {counted(channels, 'channel')}; give it with --mean.")
    note(
        f"{file.name} carries no mean, so the channel means of ILSVRC-2012 are used: R, G, B = {MEAN_RGB} (--mean "
        "gives another)"
    )
    return Preprocess(*sizes, torch.tensor(MEAN_RGB).reshape(3, 1, 1))


def _choice(file: Path, sets: list[Found], key: str | None) -> Found:
    """The set that was asked for; else of whole ones an average of the weights before others, and it is said."""
    if key is not None:
        for one in sets:
            if key in (one.place, one.place.rpartition(".")[2], one.place.partition(".")[0]):
                return one
        known = ", ".join(one.place or "(no key)" for one in sets)
        raise AlexNetError(f"MODEL {file} has no weights under '{key}'; it has them under {known}.")
    whole = [one for one in sets if not one.torchvision or not _lacks(one)]
    if not whole:
        return max(sets, key=lambda one: len(one.tensors))
    chosen = next((one for one in whole if AVERAGED.search(one.place.lower())), whole[0])
    others = [one for one in whole if one is not chosen]
    if others:
        note(
            f"{file.name} has {len(whole)} sets of weights: taken are those under {chosen.place or '(no key)'!r}; "
            f"--key {others[0].place or '(no key)'} takes the others"
        )
    return chosen


def _refuse(file: Path, found: Any) -> None:
    kinds = list(dict.fromkeys(objects(found)))[:3]
    if kinds:
        raise AlexNetError(
            f"MODEL {file} is refused: it holds more than weights (it wants to run {', '.join(kinds)[:120]}), which "
            "is not run, and no weights of AlexNet beside; save its state_dict alone and give that."
        )
    flat = [key for one in dictionaries(found) for key in one if isinstance(one[key], Lazy)]
    if isinstance(found, dict) and flat:
        raise AlexNetError(
            f"MODEL {file} holds no network that is called as torchvision's alexnet or this project's are (it has "
            f"{next((str(x) for x in flat if not str(x).endswith(FIRST)), flat[0])[:60]}); give weights of one of them."
        )
    raise AlexNetError(f"MODEL {file} holds no state_dict but a {type(found).__name__}; save model.state_dict().")


# -- folders of Hugging Face --------------------------------------------------------------------------------------


def config_beside(file: Path) -> dict[str, Any]:
    """config.json in a file's folder, where it is an object; empty without one."""
    path = file.with_name("config.json")
    try:
        if not path.is_file() or path.stat().st_size > 1 << 24:
            return {}
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AlexNetError(f"{path} beside the weights is no JSON ({first_line(error)}); mend it.") from None
    return found if isinstance(found, dict) else {}
