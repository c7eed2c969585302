"""Where a network of a claim lies: a folder named by all that decides it, so that no other passes for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.data.dataset import Data
from alexnet.reproduction.claims import CLAIMS
from alexnet.training import recipe as recipes
from alexnet.training.recipe import Recipe

MADE = "made.json"
CIFAR_NETS = {arm.recipe for claim in CLAIMS.values() for arm in claim.arms if arm.recipe.startswith("cifar10_")}
NAMED = [  # keys that were in every folder's name, until names came to be of departures alone
    "variant", "channels", "stored", "input", "epochs", "max_steps", "batch_size", "seed", "learning_rate",
    "bias_rate", "momentum", "weight_decay", "bias_decay", "label_smoothing", "schedule", "warmup",
    "schedule_epochs", "drops", "drop_factor", "bias_drops", "conv1_slow", "conv1_frozen", "colour_noise_off",
    "patience", "activation", "ties", "rate_below", "class_weights", "stop_after", "stop_error", "dropout", "crops",
    "crop_area", "chunk", "flips", "colour_noise", "precision", "compile", "deterministic", "neighbours",
]  # fmt: skip
BEGIN = {"weights", "square"}  # what a network begins from: keys in no name but by what came before
UNNAMED = {"workers", "log_every", "checkpoint_every", "sinks"} | BEGIN  # keys in none


def folder_of_network(work: Path, recipe: Recipe, data: Data, origin: str, known: Callable[[], str]) -> Path:
    """Where that network is, or will be: under the name of today, or under the one that names once had.

    A folder whose recipe is another all the same, as after a default was changed, is refused, and so is one of as many
    other pictures of the same classes; `known` gives the identity of these. (Until 28 November 2026 made.json did not
    say what pictures it was of.)
    """
    names = [network_name(recipe, data, origin), former_name(recipe, data, origin)]
    folder = next((work / name for name in names if (work / name / run_files.RECIPE).exists()), work / names[0])
    file = folder / run_files.RECIPE
    if file.exists():
        recorded, asked = asdict(recipes.from_toml(file.read_text("utf-8"), str(file))), asdict(recipe)
        unasked = UNNAMED if origin else UNNAMED - BEGIN
        for key in sorted(asked.keys() & recorded.keys() - unasked):
            if asked[key] != recorded[key]:
                raise AlexNetError(
                    f"{folder} was trained with {key} = {recorded[key]!r}, now {asked[key]!r} is meant; move it "
                    "away, or give another --out."
                )
    made = folder / MADE
    was = json.loads(made.read_text("utf-8")).get("identity") if made.exists() else None
    if was and was != known():
        raise AlexNetError(
            f"{folder} was trained on other pictures than those of {data.path}, though on as many of the same classes, "
            "or on the same in another order; move it away, or give another --out."
        )
    return folder


def network_name(recipe: Recipe, data: Data, origin: str) -> str:
    """A folder's name from all that decides the run: the recipe's departures from its defaults, so that a new key
    leaves the names of finished runs as they are; data by classes and numbers; and what came before."""
    values = asdict(recipe)
    departures = {
        one.name: values[one.name]
        for one in sorted(fields(recipe), key=lambda one: one.name)
        if one.name not in UNNAMED and values[one.name] != one.default
    }
    return _hashed(recipe, departures, data, origin)


def former_name(recipe: Recipe, data: Data, origin: str) -> str:
    """The name until 26 November 2026: of the keys NAMED, whatever their values, and of others that depart."""
    values = asdict(recipe)
    later = {one.name: one.default for one in fields(recipe) if one.name not in UNNAMED.union(NAMED)}
    kept = {key: values[key] for key in NAMED if key in values}
    kept |= {key: values[key] for key in sorted(later) if values[key] != later[key]}
    return _hashed(recipe, kept, data, origin)


def _hashed(recipe: Recipe, kept: dict[str, Any], data: Data, origin: str) -> str:
    if not origin and recipe.square != _usual_square(recipe):
        kept = kept | {"square": recipe.square}
    facts = [kept, data.classes, {name: len(split) for name, split in data.splits.items()}, origin]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:10]
    return f"{recipe.variant}-{digest}-{recipe.seed}"


def _usual_square(recipe: Recipe) -> str:
    """That of the claims' own recipe for the variant, which names never held."""
    return recipes.resolve(recipe.variant if recipe.variant in CIFAR_NETS else "tiny_imagenet").square
