"""A recipe: one frozen dataclass whose defaults are the author's 2012 run; TOML files state only departures.

Defaults < recipe file < `--set key=value`. Section numbers are those of the paper unless "spec" or "code" is said;
"code" is the 2012 source, net 145.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from alexnet.errors import AlexNetError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes, and a few numbers that decide how fast. Units beside each."""

    variant: str = "alexnet2012"  # a name of variants.py
    channels: int = 3  # of the input: 3 is RGB, 1 is gray
    stored: int = 0  # pixels, side of a stored picture; 0: the variant's
    input: int = 0  # pixels, side of the crop that the network sees; 0: the variant's

    epochs: int = 95  # passes over the training set (code; the paper says "roughly 90")
    max_steps: int = 0  # stop after so many steps; 0: no such stop
    batch_size: int = 128  # pictures a step, over all processes (§5)
    seed: int = 0  # of weights, order, augmentation and dropout

    learning_rate: float = 0.01  # of weights at the start (§5)
    bias_rate: float = 2.0  # learning rate of biases / learning rate of weights (code)
    momentum: float = 0.9  # (§5)
    weight_decay: float = 0.0005  # of weights; biases have none (code)

    bias_decay: bool = False  # whether biases have the weight decay too, as elsewhere than in 2012
    label_smoothing: float = 0.0  # share of the label's probability that goes to all classes alike

    schedule: str = "steps"  # steps: drops at `drops`; plateau: drops when the validation error stalls; linear, cosine
    warmup: float = 0.0  # epochs of linear warm-up
    schedule_epochs: float = 95.0  # the epochs for which the next five are written; `epochs` stretches them
    drops: tuple[float, ...] = (22.0, 49.0, 81.0)  # epochs at which weights' rates drop (code)
    drop_factor: float = 0.1  # what a drop multiplies weights' rates by
    bias_drops: tuple[float, ...] = (22.0,)  # epochs at which biases' rates are divided by 10 (code)
    conv1_slow: float = 66.0  # epoch at which conv1's weights are slowed by 10 more (code); 0: never
    conv1_frozen: float = 73.0  # epoch from which conv1 is not updated (code); 0: never
    colour_noise_off: float = 66.0  # epoch from which there is no colour noise (code); 0: never off
    patience: int = 5  # epochs without a better validation error that make a plateau

    activation: str = "relu"  # relu or tanh (§3.1)
    ties: str = "first"  # who gets max pooling's gradient where inputs tie: first, or all as in the code (spec 2.3)
    weights: str = ""  # MODEL whose layers the run starts from, all but the last; "": the variant's initial weights
    rate_below: float = 1.0  # learning rate of the layers below the last / of the last; 0: they are frozen
    class_weights: bool = False  # weigh the loss so that each class counts as much, however many pictures it has
    stop_after: int = 0  # epochs without a better validation error that end the run, at its best weights; 0: never
    stop_error: float = 0.0  # an epoch's training error, a fraction, at which the run ends (Fig. 1); 0: never

    dropout: float = 0.5  # share of fc6's and fc7's units dropped; 0: none (§4.2)
    crops: bool = True  # random crops of the stored picture; off: the central one (§4.1)
    crop_area: float = 1.0  # below 1: crops of this share of the picture up to all of it, enlarged; 1: of one size
    chunk: int = 1  # pictures in a row that share a crop and a mirror; 32 in the 2012 code (spec 5.3)
    flips: bool = True  # mirror with probability 1/2 (§4.1)
    colour_noise: float = 0.1  # standard deviation along the RGB axes, as a share of the data's (§4.1, spec 5.4)

    precision: str = "auto"  # auto, float32 or bfloat16
    compile: bool = False  # torch.compile the network
    deterministic: bool = False  # only algorithms that repeat bit for bit, also on a GPU
    workers: int = 0  # threads that decode; 0: one a core
    neighbours: int = 1  # pictures of a pack that are read from the disk together; 1: each by itself (data/loader.py)
    checkpoint_every: int = 0  # steps between checkpoints; 0: one at the end of each epoch
    log_every: int = 20  # steps between lines of metrics.jsonl


# What may differ when a run is resumed: where it ends, and what changes nothing but speed.
FREE_ON_RESUME = {"epochs", "max_steps", "workers", "compile", "checkpoint_every", "log_every"}
CHOICES = {
    "schedule": ("steps", "plateau", "linear", "cosine"),
    "precision": ("auto", "float32", "bfloat16"),
    "activation": ("relu", "tanh"),
    "ties": ("first", "all"),
}
CHANGES = ("dropout", "activation", "ties")  # what a recipe changes in the variant's layers
_TYPES: dict[str, Any] = get_type_hints(Recipe)


def changes(recipe: Recipe) -> dict[str, Any]:
    """What the recipe changes in its variant's layers."""
    return {key: getattr(recipe, key) for key in CHANGES}


def shipped() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("alexnet") / "recipes"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def resolve(name: str = "author_2012", sets: Iterable[str] = ()) -> Recipe:
    """The recipe of that name (or TOML file), with `key=value` departures applied over it."""
    return override(_read(name), parse_sets(sets))


def parse_sets(sets: Iterable[str]) -> dict[str, Any]:
    """`key=value` strings as typed values."""
    values = {}
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise AlexNetError(f"--set was given '{item}'; it takes key=value, for example --set epochs=10.")
        values[key.strip()] = _typed(key.strip(), text.strip())
    return values


def override(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with those values, each checked for name, type and range."""
    return dataclasses.replace(recipe, **{key: _checked(key, value) for key, value in values.items()})


def from_toml(text: str, origin: str) -> Recipe:
    """A recipe from TOML text; `origin` names it in errors."""
    try:
        return override(Recipe(), tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise AlexNetError(f"{origin} is not valid TOML ({error}); write lines such as: epochs = 10") from None


def to_toml(recipe: Recipe) -> str:
    """Every key of the resolved recipe as TOML."""

    def text(value: Any) -> str:
        return json.dumps(list(value) if isinstance(value, tuple) else value)

    return "".join(f"{key} = {text(value)}\n" for key, value in dataclasses.asdict(recipe).items())


def _read(name: str) -> Recipe:
    if name in shipped():
        return from_toml((resources.files("alexnet") / "recipes" / f"{name}.toml").read_text("utf-8"), name)
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return from_toml(path.read_text("utf-8"), name)
    if path.suffix == ".toml":
        raise AlexNetError(f"there is no recipe file {name}; give a TOML file that exists or one of {_listed()}.")
    near = difflib.get_close_matches(name, shipped(), 1, 0.0)[0]
    raise AlexNetError(f"there is no recipe '{name}'; did you mean '{near}'? Give one of {_listed()} or a TOML file.")


def _listed() -> str:
    return ", ".join(shipped())


def _known(key: str) -> Any:
    if key not in _TYPES:
        near = difflib.get_close_matches(key, _TYPES, 1, 0.0)[0]
        raise AlexNetError(f"a recipe has no key '{key}'; did you mean '{near}'? Its keys are {', '.join(_TYPES)}.")
    return _TYPES[key]


def _typed(key: str, text: str) -> Any:
    kind = _known(key)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        if kind is str:
            return text
        return tuple(float(x) for x in text.strip("[]() ").split(",") if x.strip())
    except (KeyError, ValueError):
        raise AlexNetError(f"--set {key}={text}: {key} takes {_kind_name(kind)}.") from None


def _checked(key: str, value: Any) -> Any:
    kind = _known(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, list):
        value = tuple(float(x) if isinstance(x, int | float) else x for x in value)
    right = (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if isinstance(kind, type)
        else isinstance(value, tuple) and all(isinstance(x, float) for x in value)
    )
    if not right:
        raise AlexNetError(f"recipe key {key} was given {value!r}; it takes {_kind_name(kind)}.")
    if key in CHOICES and value not in CHOICES[key]:
        raise AlexNetError(f"recipe key {key} was given '{value}'; it takes {' or '.join(CHOICES[key])}.")
    low, words = _LEAST.get(key, (0, "0 or more"))
    high = 1.0 if key in ("dropout", "momentum", "label_smoothing", "stop_error") else float("inf")
    numbers = value if isinstance(value, tuple) else (value,) if isinstance(value, int | float) else ()
    for number in numbers:
        if not low <= number < high:
            below = " and less than 1" if high == 1 else ""
            raise AlexNetError(f"recipe key {key} was given {number}; it takes {words}{below}.")
    return value


_LEAST = {
    "batch_size": (1, "1 or more"),
    "chunk": (1, "1 or more"),
    "crop_area": (1e-9, "more than 0"),
    "channels": (1, "1 or 3"),
    "neighbours": (1, "1 or more"),
    "log_every": (1, "1 or more"),
    "patience": (1, "1 or more"),
    "epochs": (1, "1 or more"),
    "schedule_epochs": (1e-9, "more than 0"),
}


def _kind_name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}.get(
        kind, "a list of numbers, for example 22,49,81"
    )
