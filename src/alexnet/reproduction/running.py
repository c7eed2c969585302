"""Training what claims need: each network once, in a folder named by all that decides it, going on where it stopped."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from alexnet.reproduction.claims import ALWAYS_OWN, CIFAR, TINY, Arm, Claim
from alexnet.reproduction.naming import MADE, folder_of_network, former_name, network_name
from alexnet.training import recipe as recipes
from alexnet.training.finetuning import recipe_for
from alexnet.training.loop import train
from alexnet.training.recipe import Recipe

PLACES = {  # what a data set's folder or archive may be called inside DIR
    CIFAR: ("cifar10", "cifar-10", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    TINY: ("tiny-imagenet", "tiny-imagenet-200", "tiny_imagenet", "imagenet"),
}
CLASSES = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}  # CIFAR-10's
WORK, DIVERGED = "work", "diverged"


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
        for key in recipes.parse_sets(self.sets):
            if key in self.claim.own:
                why = f" ({ALWAYS_OWN[key]})" if key in ALWAYS_OWN else ""
                raise AlexNetError(
                    f"the claim {self.claim.name} decides {key} of its networks itself{why}; leave --set {key}= out."
                )
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
            if self.claim.kind == "towers" and not _has_towers(values["variant"]):
                raise AlexNetError(
                    f"the claim {self.claim.name} is of two towers, which {values['variant']} does not have; give "
                    "--set variant= a network that has them, for example alexnet64 or alexnet2012."
                )
        if rate:
            values["learning_rate"] = rate
        return recipes.override(chosen, values)

    def made(self, recipe: Recipe, data: str) -> bool:
        """Whether that network, begun from random weights, is trained to its end or its loss became infinite."""
        names = [name(recipe, self.data(data), "") for name in (network_name, former_name)]
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
        folder = folder_of_network(self.out / WORK, recipe, data, origin, lambda: self.identity(name))
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


def _has_towers(variant: str) -> bool:
    return any(getattr(layer, "groups", 1) == 2 for layer in VARIANTS[variant].layers)


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
