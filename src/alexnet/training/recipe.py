"""A recipe: one frozen dataclass whose defaults are the author's 2012 run; TOML files state only departures.

Defaults < recipe file < `--set key=value`. Section numbers are those of the paper unless "facts" or "code" is said;
"code" is the 2012 source, net 145. What a key means and takes stands here alone: errors, help and `alexnet recipes
--keys` say it by `KEYS`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from alexnet.base.errors import AlexNetError, did_you_mean


@dataclass(frozen=True)
class Key:
    """What is known of a recipe's key: its meaning in a line, the values that it takes, and where it acts."""

    meaning: str
    choices: tuple[Any, ...] = ()
    low: float = 0  # the least that is taken
    high: float = math.inf  # the most
    above: bool = False  # whether low itself is too low
    below: bool = False  # whether high itself is too high
    free: bool = False  # may differ when a run is resumed: where it ends, and what changes nothing but speed
    layers: bool = False  # changes the variant's layers
    option: str = ""  # of alexnet train and finetune, another name of --set


MOST = 2**31 - 1  # of a whole number
WIDEST = 2048  # pixels; a mean image of 2,900 would be more than the header of a file of weights can hold


def _key(default: Any, meaning: str, *choices: Any, **facts: Any) -> Any:
    if type(default) is int:
        facts.setdefault("high", MOST)
    return dataclasses.field(default=default, metadata={"key": Key(meaning, choices, **facts)})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes, and a few numbers that decide how fast."""

    variant: str = _key("alexnet2012", "the network, a name that alexnet info takes")
    channels: int = _key(3, "of the input: 3 is RGB, 1 is gray", 1, 3)
    stored: int = _key(0, "pixels, side of a stored picture; 0: the variant's", high=WIDEST)
    input: int = _key(0, "pixels, side of the crop that the network sees; 0: the variant's", high=WIDEST)
    square: str = _key(
        "auto", "how pictures become squares; auto: as those of DATA did, else of `weights`, else crop",
        "auto", "crop", "squash", "torchvision",
    )  # fmt: skip

    valid: float = _key(
        0.0, "share of each class held out for validation; 0: what DATA holds out", high=1, below=True, option="--valid"
    )
    folds: int = _key(0, "parts of DATA, one of which is held out for validation; 0: none", option="--folds")
    fold: int = _key(1, "which of the folds is held out, from 1", low=1, option="--fold")

    adapt: bool = _key(
        False, "adapt the first fully connected layer to an `input` that the plan does not take", layers=True
    )

    epochs: int = _key(
        95, "passes over the training set (code; the paper says roughly 90)", low=1, free=True, option="--epochs"
    )
    max_steps: int = _key(0, "stop after so many steps; 0: no such stop", free=True)
    batch_size: int = _key(128, "pictures a step, over all processes (§5)", low=1, option="--batch-size")
    seed: int = _key(0, "decides initial weights, order, augmentation and dropout", high=2**63 - 1, option="--seed")

    learning_rate: float = _key(0.01, "learning rate of weights at the start (§5)", option="--lr")
    bias_rate: float = _key(2.0, "learning rate of biases / learning rate of weights (code)")
    momentum: float = _key(0.9, "share of the last update in the next (§5)", high=1, below=True)
    weight_decay: float = _key(0.0005, "of weights; biases have none (code)")

    lars: float = _key(0.0, "trust coefficient of LARS: each layer has its own rate, for large batches; 0: none")

    bias_decay: bool = _key(False, "whether biases have the weight decay too, as elsewhere than in 2012")
    label_smoothing: float = _key(
        0.0, "share of the label's probability that goes to all classes alike", high=1, below=True
    )

    schedule: str = _key(
        "steps", "of the rate: drops at `drops`; plateau: drops when the validation error stalls; linear; cosine",
        "steps", "plateau", "linear", "cosine",
    )  # fmt: skip
    warmup: float = _key(0.0, "epochs of linear warm-up")
    schedule_epochs: float = _key(
        95.0,
        "epochs for which drops, bias_drops, conv1_*, colour_noise_off are set; `epochs` stretches them",
        above=True,
    )
    drops: tuple[float, ...] = _key((22.0, 49.0, 81.0), "epochs at which weights' rates drop (code; schedule steps)")
    drop_factor: float = _key(0.1, "what a drop multiplies weights' rates by", high=1)
    bias_drops: tuple[float, ...] = _key(
        (22.0,), "epochs at which biases' rates are divided by 10 (code; schedule steps)"
    )
    conv1_slow: float = _key(
        66.0, "epoch at which conv1's weights are slowed by 10 more (code; schedule steps); 0: never"
    )
    conv1_frozen: float = _key(73.0, "epoch from which conv1 is not updated (code; schedule steps); 0: never")
    colour_noise_off: float = _key(66.0, "epoch from which there is no colour noise (code); 0: never off")
    patience: int = _key(5, "epochs without a better validation error that make a plateau (schedule plateau)", low=1)

    activation: str = _key("relu", "of every layer that has one (§3.1)", "relu", "tanh", layers=True)
    ties: str = _key(
        "first", "who gets max pooling's gradient where inputs tie; all as in the code (facts.md 2.3)", "first", "all",
        layers=True,
    )  # fmt: skip
    weights: str = _key("", "MODEL whose layers the run starts from, all but the last; empty: the variant's initial")
    rate_below: float = _key(1.0, "learning rate of the layers below the last / of the last; 0: they are frozen")
    class_weights: bool = _key(False, "weigh the loss so that each class counts as much, however many pictures it has")
    stop_after: int = _key(0, "epochs without a better validation error that end the run, at its best; 0: never")
    stop_error: float = _key(
        0.0, "an epoch's training error, a fraction, at which the run ends (Fig. 1); 0: never", high=1, below=True
    )

    dropout: float = _key(
        0.5, "share of fc6's and fc7's units dropped; 0: none (§4.2)", high=1, below=True, layers=True
    )
    crops: bool = _key(True, "random crops of the stored picture; off: the central one (§4.1)")
    crop_area: float = _key(
        1.0, "of random crops; below 1: this share of the picture up to all of it, enlarged; 1: of one size",
        above=True, high=1,
    )  # fmt: skip
    reshuffle: bool = _key(True, "each epoch has an order of its own; off: one for all, as in 2012 (facts.md 5.5)")
    chunk: int = _key(1, "pictures in a row that share a crop and a mirror; 32 in the 2012 code (facts.md 5.3)", low=1)
    flips: bool = _key(True, "mirror with probability 1/2 (§4.1)")
    augment: str = _key("", "further steps in their order, with commas: gray, brightness=0.3 …; empty: none")
    colour_noise: float = _key(0.1, "deviation along the RGB axes, as a share of the data's (§4.1, docs/facts.md 5.4)")

    precision: str = _key(
        "auto", "of the arithmetic; weights are float32 in all", "auto", "float32", "tf32", "bfloat16"
    )
    parallel: str = _key(
        "data", "processes divide the pictures; or two towers, as in 2012; or fc layers' units too, 2014",
        "data", "towers", "hybrid", free=True,
    )  # fmt: skip
    compile: bool = _key(False, "torch.compile the network", free=True)
    deterministic: bool = _key(False, "only algorithms that repeat bit for bit, also on a GPU")
    workers: int = _key(0, "threads that decode; 0: one a core", high=1024, free=True, option="--workers")
    neighbours: int = _key(1, "pictures of a pack read from the disk together; 1: each by itself", low=1)
    checkpoint_every: int = _key(0, "steps between checkpoints; 0: one at the end of each epoch", free=True)
    timeout: float = _key(
        600.0, "seconds that a process waits for another before it ends", above=True, high=1e6, free=True
    )
    sinks: str = _key("", "where figures go besides metrics.jsonl, with commas: tensorboard …; empty: none", free=True)
    log_every: int = _key(20, "steps between lines of metrics.jsonl", low=1, free=True)


def _augmentations() -> tuple[Callable[[str], object], str]:
    from alexnet.data import augmentations  # which takes torch, and so a second

    return augmentations.named, augmentations.listed()


def _sinks() -> tuple[Callable[[str], object], str]:
    from alexnet.training import sinks

    return sinks.named, sinks.listed()


# Of keys that name what stands in a list elsewhere: what refuses a value, and what is taken, in words.
_LISTS: dict[str, Callable[[], tuple[Callable[[str], object], str]]] = {"augment": _augmentations, "sinks": _sinks}

_TYPES: dict[str, Any] = get_type_hints(Recipe)
KEYS: dict[str, Key] = {field.name: field.metadata["key"] for field in dataclasses.fields(Recipe)}
FREE_ON_RESUME = {name for name, key in KEYS.items() if key.free}
CHANGES = tuple(name for name, key in KEYS.items() if key.layers)  # what a recipe changes in the variant's layers
OPTIONS = {name: key.option for name, key in KEYS.items() if key.option}


def accepted_values(name: str) -> str:
    """The values that a key takes, in words."""
    key, kind = KEYS[name], _TYPES[name]
    if key.choices:
        *others, last = map(str, key.choices)
        return f"{', '.join(others)} or {last}"
    if name in _LISTS:
        return _LISTS[name]()[1]
    if kind in (bool, str):
        return "true or false" if kind is bool else "a word"
    words = {int: "a whole number", float: "a number"}.get(kind, "numbers with commas, for example 22,49,81, each")
    low = f"more than {key.low:g}" if key.above else f"{key.low:g}"
    if key.high == math.inf:
        span = low if key.above else f"{low} or more"
    elif key.below:
        span = f"{low} or more and less than {key.high:g}"
    else:
        span = f"{low}, {key.high:,} at most" if key.above else f"{low} to {key.high:,}"
    return f"{words}, {span}" if kind in (int, float) else f"{words} {span}"


def keys_table(recipe: Recipe) -> str:
    """A line a key: its value, what it takes and what it means."""
    values = dict(line.split(" = ", 1) for line in to_toml(recipe).splitlines())
    rows = [(name, value, f"{KEYS[name].meaning} ({accepted_values(name)})") for name, value in values.items()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {text}" for name, value, text in rows)


def changes(recipe: Recipe) -> dict[str, Any]:
    """What the recipe changes in its variant's layers; that nothing is adapted goes without saying, as in old files."""
    return {key: getattr(recipe, key) for key in CHANGES if key != "adapt" or recipe.adapt}


def of_pictures(recipe: Recipe) -> str:
    """The keys, in words, that change training pictures and are in use; nothing of them reaches kept features."""
    used = {
        "crops": recipe.crops, "crop_area": recipe.crop_area < 1, "flips": recipe.flips,
        "colour_noise": recipe.colour_noise > 0, "augment": bool(recipe.augment),
    }  # fmt: skip
    return ", ".join(name for name, there in used.items() if there)


def shipped() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("alexnet") / "training" / "recipes"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def about(name: str) -> str:
    """What a shipped recipe is, in a line: the first of its file."""
    return _text(name).partition("\n")[0].removeprefix("# ")


def resolve(name: str = "author_2012", sets: Iterable[str] = ()) -> Recipe:
    """The recipe of that name (or TOML file), with `key=value` departures applied over it."""
    return override(_read(name), parse_sets(sets))


def parse_sets(sets: Iterable[str], once: bool = False) -> dict[str, Any]:
    """`key=value` strings as typed values; the last of a key counts, unless each is to be given `once`."""
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for item in sets:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            raise AlexNetError(f"--set was given '{item}'; it takes key=value, for example --set epochs=10.")
        value = _typed(key, text)
        if once and values.get(key, value) != value:
            raise AlexNetError(f"--set {key} was given twice, {texts[key]} and {text}; give it once.")
        values[key], texts[key] = value, text
    return values


def with_options(sets: Iterable[str], options: Mapping[str, str | None]) -> list[str]:
    """`key=value` strings with what the options that are other names of keys were given; both must say the same."""
    joined = list(sets)
    values = parse_sets(joined)
    for key, text in options.items():
        if text is None:
            continue
        if key in values and values[key] != _typed(key, text):
            raise AlexNetError(
                f"{OPTIONS[key]} was given {text} and --set {key}={values[key]}, which is the same key; leave one out."
            )
        joined.append(f"{key}={text}")
    return joined


def override(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with those values, each checked for name, type and range."""
    return dataclasses.replace(recipe, **{key: _checked(key, value) for key, value in values.items()})


def from_toml(text: str, origin: str) -> Recipe:
    """A recipe from TOML text; `origin` names it in errors."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise AlexNetError(f"{origin} is not valid TOML ({error}); write lines such as: epochs = 10") from None
    return override(Recipe(), values)


def to_toml(recipe: Recipe) -> str:
    """Every key of the resolved recipe as TOML."""

    def text(value: Any) -> str:
        # JSON's strings are TOML's, but for escapes in pairs and for DEL.
        shown = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
        return shown.replace("\x7f", "\\u007f")

    return "".join(f"{key} = {text(value)}\n" for key, value in dataclasses.asdict(recipe).items())


def _text(name: str) -> str:
    return (resources.files("alexnet") / "training" / "recipes" / f"{name}.toml").read_text("utf-8")


def _read(name: str) -> Recipe:
    if name in shipped():
        return from_toml(_text(name), name)
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return from_toml(path.read_text("utf-8-sig"), name)
        except FileNotFoundError:
            raise AlexNetError(
                f"there is no recipe file {name}; give a TOML file that exists or one of {_listed()}."
            ) from None
        except (OSError, ValueError) as error:
            raise AlexNetError(f"the recipe file {name} cannot be read ({error}); give a text file in UTF-8.") from None
    raise AlexNetError(
        f"there is no recipe '{name}'{did_you_mean(name, shipped())} Give one of {_listed()} or a TOML file."
    )


def _listed() -> str:
    return ", ".join(shipped())


def _known(key: str) -> Any:
    if key not in _TYPES:
        other = {option.removeprefix("--"): name for name, option in OPTIONS.items()}.get(key.replace("_", "-"), key)
        raise AlexNetError(
            f"a recipe has no key '{key}'{did_you_mean(other, _TYPES)} alexnet recipes --keys lists them all."
        )
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
        raise _wrong(key, text) from None


def _checked(key: str, value: Any) -> Any:
    kind, known = _known(key), KEYS[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300:
        value = float(value)
    if isinstance(value, list):
        value = tuple(float(x) if isinstance(x, int | float) and abs(x) < 1e300 else x for x in value)
    right = (
        isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if isinstance(kind, type)
        else isinstance(value, tuple) and all(isinstance(x, float) for x in value)
    )
    if not right or (known.choices and value not in known.choices):
        raise _wrong(key, value)
    if value and key in _LISTS:
        _LISTS[key]()[0](value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise AlexNetError(
                f"recipe key {key} was given {value!r}, which is not UTF-8, so no file can hold it; rename it."
            ) from None
    numbers = value if isinstance(value, tuple) else (value,) if isinstance(value, int | float) else ()
    for number in numbers:
        low_enough = number < known.high if known.below or known.high == math.inf else number <= known.high
        if not low_enough or not (number > known.low if known.above else number >= known.low):
            raise _wrong(key, number)
    return value


def _wrong(key: str, value: Any) -> AlexNetError:
    shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:60]} …"
    return AlexNetError(f"recipe key {key} was given '{shown}'; it takes {accepted_values(key)}.")
