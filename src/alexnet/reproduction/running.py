"""Training what claims need: each network once, in a folder named by all that decides it, going on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.base import metrics, run_files
from alexnet.base.device import choose_device, device_name
from alexnet.base.errors import AlexNetError, Diverged, Interrupted
from alexnet.base.files import write_bytes, write_whole
from alexnet.base.text import counted
from alexnet.base.version import __version__
from alexnet.data import labels
from alexnet.data.dataset import Split, some
from alexnet.data.identity import identity
from alexnet.data.layouts.registry import Data, find_data
from alexnet.inference.evaluation import opened
from alexnet.inference.scoring import log_probabilities
from alexnet.networks.variants import VARIANTS
from alexnet.reproduction.claims import CIFAR, TINY, Arm, Claim
from alexnet.training import recipe as recipes
from alexnet.training.finetuning import recipe_for
from alexnet.training.loop import train
from alexnet.training.recipe import Recipe

PLACES = {  # what a data set's folder or archive may be called inside DIR
    CIFAR: ("cifar10", "cifar-10", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    TINY: ("tiny-imagenet", "tiny-imagenet-200", "tiny_imagenet", "imagenet"),
}
CLASSES = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}  # CIFAR-10's
WORK, MADE, DIVERGED = "work", "made.json", "diverged"
NAMED = [  # keys that were in every folder's name, until names came to be of departures alone
    "variant", "channels", "stored", "input", "epochs", "max_steps", "batch_size", "seed", "learning_rate",
    "bias_rate", "momentum", "weight_decay", "bias_decay", "label_smoothing", "schedule", "warmup",
    "schedule_epochs", "drops", "drop_factor", "bias_drops", "conv1_slow", "conv1_frozen", "colour_noise_off",
    "patience", "activation", "ties", "rate_below", "class_weights", "stop_after", "stop_error", "dropout", "crops",
    "crop_area", "chunk", "flips", "colour_noise", "precision", "compile", "deterministic", "neighbours",
]  # fmt: skip
UNNAMED = {
    "weights",
    "workers",
    "log_every",
    "checkpoint_every",
    "sinks",
    "square",
}  # keys in none; the data are squares


class Busy(AlexNetError):
    """Another process is at work on that network."""


@dataclass
class Study:
    """A claim being put to the test: its data, and how much of it. `sets` change the recipe of every arm alike."""

    claim: Claim
    place: Path
    out: Path
    seeds: int
    quick: bool = False
    sets: tuple[str, ...] = ()  # key=value; variant is that of the networks for Tiny ImageNet
    device: str = "auto"
    say: Callable[[str], object] = lambda text: None
    quiet: bool = True
    found: dict[tuple[Any, ...], Data] = field(default_factory=dict)  # read before; studies may share it
    known: dict[tuple[Any, ...], str] = field(default_factory=dict)  # their identities

    def __post_init__(self) -> None:
        for arm in self.claim.arms:
            self.recipe(arm, 0)  # what cannot be trained is said before anything is

    def data(self, name: str = "") -> Data:
        """The data of that name, by default the claim's; a part of them in a quick study."""
        name = name or self.claim.data
        key = self._key(name)
        if key not in self.found:
            whole = self.found.get((name,)) or _known(find_data(located(self.place, name), quiet=self.quiet), name)
            self.found[(name,)] = whole
            self.found[key] = part(whole, *self.claim.quick[1:]) if self.quick else whole
        return self.found[key]

    def _key(self, name: str) -> tuple[Any, ...]:
        return name, *(self.claim.quick[1:] if self.quick else ())

    def identity(self, name: str = "") -> str:
        """What tells the data of that name, by default all that the claim needs, from others."""
        if not name:
            names = {self.claim.data, *(arm.first for arm in self.claim.arms if arm.first)}
            return " ".join(self.identity(one) for one in sorted(names))
        key = self._key(name)
        if key not in self.known:
            self.known[key] = identity(self.data(name), names=False)
        return self.known[key]

    def recipe(self, arm: Arm, seed: int, rate: float = 0.0) -> Recipe:
        """What an arm trains, from scratch."""
        chosen = recipes.resolve(arm.recipe)
        asked = recipes.parse_sets(self.sets)
        if "variant" in asked and not any(one.recipe == "tiny_imagenet" for one in self.claim.arms):
            raise AlexNetError(f"the claim {self.claim.name} has networks of its own; leave --set variant= out.")
        variant = asked.pop("variant", chosen.variant)
        values: dict[str, Any] = {"epochs": self.claim.quick[0]} if self.quick else {}
        values |= asked
        if "epochs" in values:
            values.setdefault("warmup", min(chosen.warmup, values["epochs"] / 10))
        values |= {"seed": seed, **arm.sets}
        if arm.recipe == "tiny_imagenet":
            values["variant"] = variant + arm.form
            if values["variant"] not in VARIANTS:
                forms = [name for name in VARIANTS if name + arm.form in VARIANTS]
                raise AlexNetError(
                    f"the claim {self.claim.name} needs {values['variant']}, which is no variant; give --set variant= "
                    f"{' or '.join(forms)}."
                )
        if rate:
            values["learning_rate"] = rate
        return recipes.override(chosen, values)

    def made(self, recipe: Recipe, data: str) -> bool:
        """Whether that network, begun from random weights, is trained to its end or its loss became infinite."""
        names = [name(recipe, self.data(data), "") for name in (_name, _former_name)]
        return any((self.out / WORK / name / file).exists() for name in names for file in (MADE, DIVERGED))

    def trained(self, arm: Arm, seed: int, rate: float = 0.0, most: float = math.inf) -> Finished | None:
        """The arm's network of that seed, trained now unless it was before; None where the loss became infinite.

        `most` ends it after so many epochs, for arms whose rate of learning does not depend on how many there are.
        """
        recipe, origin = self.recipe(arm, seed, rate), ""
        self.data()  # whether they are the claim's is seen before what comes first is trained on others
        if most < recipe.epochs:
            recipe = replace(recipe, epochs=max(1, math.ceil(most)))
        if arm.first:
            before = self._train(self.recipe(Arm("first", "tiny_imagenet"), seed), arm.first, arm, seed, "")
            if before is None:
                return None
            origin = f"{before.folder.name} {self.identity(arm.first)}"
            begun = recipe_for(str((before.folder / run_files.LAST).absolute()), recipe)
            recipe = recipes.override(begun, dict(arm.sets))
        return self._train(recipe, self.claim.data, arm, seed, origin)

    def _train(self, recipe: Recipe, name: str, arm: Arm, seed: int, origin: str) -> Finished | None:
        data = self.data(name)
        folder = _folder(self.out / WORK, recipe, data, origin, lambda: self.identity(name))
        finished = Finished(self.claim, arm, seed, recipe, data, folder, self.quick, self.device)
        if finished.whole:
            return finished
        with _alone(folder):
            if finished.whole:  # by another process, just now
                return finished
            if (folder / DIVERGED).exists():
                where = json.loads((folder / MADE).read_text("utf-8"))["device"]
                self.say(f"{folder}: its loss became infinite on {where}; to train it anew, delete that folder")
                return None
            self.say(f"\n{self.claim.name}: {arm.name}, seed {seed}, in {folder}")
            try:
                train(data, folder, recipe, (), True, self.device, self.say, self.quiet)
            except Diverged as error:
                sentence = str(error)
                self.say(sentence)
                self._note(folder, name)
                write_bytes(folder / DIVERGED, sentence.encode())
                return None
            except Interrupted as stop:
                told = f"stopped and saved in {folder}: give the same command to go on"
                raise Interrupted(told, stop.status) from None
            self._note(folder, name)
        return finished

    def _note(self, folder: Path, name: str) -> None:
        """Keep what trained it and on what."""
        made = {"device": device_name(choose_device(self.device)), "versions": versions(), "commit": commit()}
        write_bytes(folder / MADE, json.dumps(made | {"identity": self.identity(name)}).encode())


@dataclass(frozen=True)
class Finished:
    """A trained network of a study."""

    claim: Claim
    arm: Arm
    seed: int
    recipe: Recipe
    data: Data
    folder: Path
    quick: bool
    device: str

    @property
    def whole(self) -> bool:
        """Whether it is trained to its end, and what trained it is noted."""
        lines = metrics.read(self.folder / run_files.METRICS)
        return (self.folder / MADE).exists() and any(line["kind"] == "final" for line in lines)

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """A line of metrics for each epoch."""
        return [line for line in metrics.read(self.folder / run_files.METRICS) if line["kind"] == "epoch"]

    def right(self, views: int = 1) -> np.ndarray:
        """Whether each validation picture's class is the first, and among the first five: bool (2, pictures)."""
        file = self.folder / f"right_{views}.npy"
        if not file.exists():
            found = hits([self.folder], self.data, views, self.device)
            write_whole(file, lambda out: np.save(out, found, allow_pickle=False))
        return np.load(file, allow_pickle=False)

    def line(self, views: int = 1) -> dict[str, Any]:
        """What results hold of this run. `seconds` is training by the logged rates, evaluation left out."""
        top1, top5 = (1 - self.right(views).mean(1)).tolist()
        train = len(self.data.split("train"))
        rates = [line["images_per_second"] for line in self.epochs]
        return {
            "claim": self.claim.name, "arm": self.arm.name, "recipe": self.arm.recipe, "variant": self.recipe.variant,
            "data": self.data.layout, "classes": len(self.data.classes), "images": train, "quick": self.quick,
            "seed": self.seed, "epochs": len(self.epochs), "learning_rate": self.recipe.learning_rate, "views": views,
            "top1_error": top1, "top5_error": top5,
            "seconds": round(sum(train / rate for rate in rates if rate)),
            **json.loads((self.folder / MADE).read_text("utf-8")),
        }  # fmt: skip


@torch.no_grad()
def hits(models: Sequence[Path], data: Data, views: int, device: str) -> np.ndarray:
    """Whether the class of each validation picture is the ensemble's first, and among its first five: bool (2, n)."""
    rows: list[torch.Tensor] = []
    with opened(list(models), data, "valid", device=device) as task:
        shares = [1 / len(models)] * len(models)
        for by_key, labels, _ in task.batches(128):
            scores = log_probabilities(task.members, shares, by_key, views)
            hit = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
            rows.append(torch.stack([hit[:, 0], hit.any(1)]).cpu())
    return torch.cat(rows, 1).numpy()


def located(place: Path, name: str) -> Path:
    """The data of that name: in DIR under one of its names, or DIR itself."""
    if not place.exists():
        raise AlexNetError(
            f"--data {place} does not exist; give a data set, or a folder with cifar10/ and tiny-imagenet/."
        )
    for called in PLACES[name]:
        if (place / called).exists():
            return place / called
    others = [called for other, names in PLACES.items() if other != name for called in names]
    if any((place / called).exists() for called in others):
        raise AlexNetError(f"--data {place} holds no {PLACES[name][0]}; put it there, or give that data set itself.")
    return place


def _known(data: Data, name: str) -> Data:
    """The data, if they are those of that name by what their folder or their classes are called."""
    by_place = Path(data.path).absolute().name.casefold() in PLACES[name]
    theirs = set(data.classes) == CLASSES if name == CIFAR else None not in labels.wordnet(data.classes)
    if not (by_place or theirs):
        raise AlexNetError(
            f"--data {data.path} has {counted(len(data.classes), 'class')} ({some(data.classes)}), and the claim is of "
            f"{name}; give that, or a folder that has as {PLACES[name][0]}/ what is to stand for it."
        )
    return data


def part(data: Data, classes: int, per_class: int) -> Data:
    """Some of the classes, evenly spaced, and the first so many training pictures of each; of valid at most 100."""
    kept = np.unique(np.linspace(0, len(data.classes) - 1, min(classes, len(data.classes))).round().astype(int))

    def some(split: Split, count: int) -> Split:
        rows = np.sort(np.concatenate([np.flatnonzero(split.labels == label)[:count] for label in kept]))
        taken = split.take(rows, f"{len(rows):,} of {split.origin}")
        return replace(taken, labels=np.searchsorted(kept, taken.labels))

    splits = {name: some(data.split(name), per_class if name == "train" else 100) for name in ("train", "valid")}
    return replace(data, classes=[data.classes[i] for i in kept], splits=splits)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else trains in `folder` meanwhile, so that several processes can share the networks out; else Busy.

    The lock is the folder's own and ends with its process, however that ends. Windows has none: one process there.
    Processes of torchrun train one network together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    if os.environ.get("WORLD_SIZE", "1") != "1":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Busy(f"another process is training {folder}; wait for it, or give another --out.") from None
    try:
        yield
    finally:
        os.close(handle)


def _folder(work: Path, recipe: Recipe, data: Data, origin: str, known: Callable[[], str]) -> Path:
    """Where that network is, or will be: under the name of today, or under the one that names once had.

    A folder whose recipe is another all the same, as after a default was changed, is refused, and so is one of as many
    other pictures of the same classes; `known` gives the identity of these. (Until 28 November 2026 made.json did not
    say what pictures it was of.)
    """
    names = [_name(recipe, data, origin), _former_name(recipe, data, origin)]
    folder = next((work / name for name in names if (work / name / run_files.RECIPE).exists()), work / names[0])
    file = folder / run_files.RECIPE
    if file.exists():
        recorded, asked = asdict(recipes.from_toml(file.read_text("utf-8"), str(file))), asdict(recipe)
        for key in asked.keys() & recorded.keys() - UNNAMED:
            if asked[key] != recorded[key]:
                raise AlexNetError(
                    f"{folder} was trained with {key} = {recorded[key]}, now {asked[key]} is meant; move it away, or "
                    "give another --out."
                )
    made = folder / MADE
    was = json.loads(made.read_text("utf-8")).get("identity") if made.exists() else None
    if was and was != known():
        raise AlexNetError(
            f"{folder} was trained on other pictures than those of {data.path}, though on as many of the same classes, "
            "or on the same in another order; move it away, or give another --out."
        )
    return folder


def _name(recipe: Recipe, data: Data, origin: str) -> str:
    """A folder's name from all that decides the run: the recipe's departures from its defaults, so that a new key
    leaves the names of finished runs as they are; data by classes and numbers; and what came before."""
    values = asdict(recipe)
    departures = {
        one.name: values[one.name]
        for one in sorted(fields(recipe), key=lambda one: one.name)
        if one.name not in UNNAMED and values[one.name] != one.default
    }
    return _hashed(recipe, departures, data, origin)


def _former_name(recipe: Recipe, data: Data, origin: str) -> str:
    """The name until 26 November 2026: of the keys NAMED, whatever their values, and of others that depart."""
    values = asdict(recipe)
    later = {one.name: one.default for one in fields(recipe) if one.name not in UNNAMED.union(NAMED)}
    kept = {key: values[key] for key in NAMED if key in values}
    kept |= {key: values[key] for key in sorted(later) if values[key] != later[key]}
    return _hashed(recipe, kept, data, origin)


def _hashed(recipe: Recipe, kept: dict[str, Any], data: Data, origin: str) -> str:
    facts = [kept, data.classes, {name: len(split) for name, split in data.splits.items()}, origin]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:10]
    return f"{recipe.variant}-{digest}-{recipe.seed}"


def versions() -> dict[str, str]:
    """Of what computed: this package, torch and Python."""
    return {"alexnet": __version__, "torch": torch.__version__, "python": platform.python_version()}


def commit() -> str | None:
    """The commit of the checkout that this package is in, with + where it was changed since; None outside one."""
    folder = Path(__file__).parent
    try:
        done = [
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True)
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return done[0].stdout.strip() + ("+" if done[1].stdout.strip() else "")
