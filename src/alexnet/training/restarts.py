"""A run's folder: one run writes it at a time; --resume, and a job of torchrun that starts again, go on with it."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from platform import node
from typing import Any, Self

import filelock

from alexnet.base.distributed import TIMEOUT, World, job, restarts, started_again
from alexnet.base.errors import AlexNetError
from alexnet.base.files import PATIENCE, clear_parts, take_lock, write_bytes
from alexnet.base.progress import Say
from alexnet.base.run_files import BEST, LAST, NAMES, RECIPE, STATE
from alexnet.base.text import counted, printable
from alexnet.base.turns import same
from alexnet.data.dataset import Data, some
from alexnet.data.held_out import counts
from alexnet.data.identity import TRAINED, digest, pictures_digest
from alexnet.networks.variants import variant
from alexnet.training import checkpoint
from alexnet.training import recipe as recipes
from alexnet.training.recipe import Recipe

LOCK, WRITER = ".lock", ".writer.json"


class RunLock:
    """The right to write a run's folder, which the first process takes; it ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.again = False  # whether torchrun has started this run's own job again
        self.taken = False
        self._lock = filelock.FileLock(folder / LOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def look(self, world: World) -> str:
        """Take a folder that holds a run; what to say of a restart, "" where there is none."""
        before = self._writer()
        self.again = started_again(before.get("job", ""))
        if any((self.folder / name).exists() for name in NAMES):
            self.take()
        if not (self.again or restarts()):
            return ""
        count = f" (restart {restarts()} of {os.environ['TORCHELASTIC_MAX_RESTARTS']})" if restarts() else ""
        others = f" (before: {before['processes']})" if self.again and before["processes"] != world.size else ""
        then = ": the run goes on from its last checkpoint" if self.again else ""
        return f"torchrun has started the processes again{count}, {world.size} now{others}{then}"

    def take(self) -> None:
        """Be the one who writes; refuse a folder that another run is writing."""
        if self.taken:
            return
        try:
            take_lock(self._lock, self.folder, PATIENCE if self.again else 0)
        except filelock.Timeout:
            who = self._writer()
            where = f", process {who['process']} on {who['host']}" if who else ""
            raise AlexNetError(
                f"--out {self.folder} is being written by another run{where}; wait until that has ended, or give "
                "another folder."
            ) from None
        self.taken = True

    def begin(self, recipe: Recipe, world: World) -> None:
        """Make the run's folder and note in it who writes it, and the resolved recipe."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AlexNetError(
                f"cannot make the folder {self.folder} ({error.strerror}); give one that you may write."
            ) from None
        self.take()
        clear_parts(self.folder)
        facts = {"process": os.getpid(), "host": node(), "processes": world.size, "job": job()}
        write_bytes(self.folder / WRITER, json.dumps(facts).encode())
        write_bytes(self.folder / RECIPE, recipes.to_toml(recipe).encode())

    def _writer(self) -> dict:
        try:
            return json.loads((self.folder / WRITER).read_text("utf-8"))
        except (OSError, ValueError):
            return {}


def time_limit(folder: Path, recipe: str | Recipe | None, sets: Sequence[str]) -> float:
    """Seconds that a process waits for another: what was given, or what the run in the folder was started with."""
    values = recipes.parse_sets(sets)
    if recipe is None and (folder / RECIPE).exists():
        try:
            recorded = tomllib.loads((folder / RECIPE).read_text("utf-8"))
        except (OSError, ValueError):  # which is told where the run is opened
            recorded = {}
        values = {"timeout": recorded.get("timeout", TIMEOUT)} | values
    chosen = recipe if isinstance(recipe, Recipe) else recipes.resolve(recipe or "author_2012")
    return recipes.override(chosen, {key: values[key] for key in ("timeout",) if key in values}).timeout


def open_run(
    folder: Path, recipe: str | Recipe | None, sets: list[str], resume: bool, world: World, say: Say
) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe and, when a run goes on, its state; a folder that holds a run is touched only by --resume."""
    with world.together():  # every process has looked before the first one writes
        chosen, state = _open(folder, recipe, sets, resume, say)
        if state is None and (kept := [name for name in (BEST, LAST) if (folder / name).exists()]):
            raise AlexNetError(
                f"--out {folder} holds {' and '.join(kept)} and no {STATE}, without which a run cannot go on; give "
                f"another folder and --set weights={folder} to start from those weights, or move them away."
            )
        if state is None and (folder / RECIPE).exists():
            say(f"{folder} holds a run that stopped before its first checkpoint: starting it anew")
    if world.size > 1:
        same(world, RUN=str(state and state["step"]))
    return chosen, state


def _open(
    folder: Path, recipe: str | Recipe | None, sets: list[str], resume: bool, say: Say
) -> tuple[Recipe, dict[str, Any] | None]:
    held = [name for name in NAMES if (folder / name).exists()]
    if printable(str(folder)) != str(folder):  # safetensors opens no other
        raise AlexNetError(f"--out {printable(str(folder))} is not plain text in UTF-8; give another name.")
    if folder.exists() and not folder.is_dir():
        raise AlexNetError(f"--out {folder} is a file; give a folder, new or empty.")
    if held and not resume:
        raise AlexNetError(
            f"--out {folder} already holds a run ({', '.join(held)}); add --resume to go on, or give another folder."
        )
    begun, state = recorded_run(folder)
    if begun is not None:
        chosen = _gone_on(begun, recipe, sets, state is not None, say)
    else:
        chosen = recipe if isinstance(recipe, Recipe) else recipes.resolve("author_2012" if recipe is None else recipe)
        chosen = recipes.override(chosen, recipes.parse_sets(sets))
        if resume:
            say(f"{folder} holds no run yet: starting anew")
    if state is None:
        _check(chosen)
    return chosen, state


def recorded_run(folder: Path) -> tuple[Recipe | None, dict[str, Any] | None]:
    """The recipe of the run in a folder, and its state; None for what is not there.

    It is that of the state, but for the keys that may change: those are as the last command that went on left them.
    """
    file = folder / RECIPE
    last = recipes.resolve(str(file)) if file.exists() else None
    if not (folder / STATE).exists():
        return last, None
    state = checkpoint.read_state(folder / STATE)
    begun = recipes.from_toml(state["recipe"], str(folder / STATE))
    if last is not None:
        begun = recipes.override(begun, {key: getattr(last, key) for key in recipes.FREE_ON_RESUME})
    return begun, state


def _check(recipe: Recipe) -> None:
    """Refuse, before DATA is looked at, keys that do not go together."""
    variant(recipe.variant)
    if recipe.rate_below != 1 and not recipe.weights:
        raise AlexNetError(
            f"the recipe trains the layers below the last at {recipe.rate_below:g} of its rate, which needs a "
            "trained network, and none was given: use alexnet finetune MODEL DATA, or add --set weights=MODEL."
        )
    if recipe.chunk > 1 and recipe.crops and recipe.crop_area < 1:
        raise AlexNetError(
            f"chunk={recipe.chunk} shares a crop among pictures, and crop_area={recipe.crop_area:g} draws one of "
            "its own size for each; leave one of them out."
        )


def _gone_on(begun: Recipe, recipe: str | Recipe | None, sets: list[str], saved: bool, say: Say) -> Recipe:
    """A run's recipe with what may change and was set; any other difference is an error that names it.

    Of a run that has `saved` no checkpoint yet everything may change, and what does is said.
    """
    values = recipes.parse_sets(sets)
    asked = begun if recipe is None else recipe
    if isinstance(asked, str):
        asked = as_begun(begun, recipes.resolve(asked), values, say)
    asked = recipes.override(asked, values)
    given = asdict(asked)
    for key, value in asdict(begun).items():
        if key in recipes.FREE_ON_RESUME or given[key] == value:
            continue
        if saved:
            raise AlexNetError(
                f"--resume: the run was started with {key} = {value}, now {key} = {given[key]} was given; leave "
                "it out, or start another run."
            )
        say(f"{key} is {given[key]} now, and was {value}")
    return asked


def as_begun(begun: Recipe, named: Recipe, values: Mapping[str, Any], say: Say) -> Recipe:
    """A recipe that was named for a run that goes on, with how far and how fast it goes as the run has it.

    Of these keys those that are among the `values` that were set stay; what is kept otherwise than named is said.
    """
    kept = {key: getattr(begun, key) for key in sorted(recipes.FREE_ON_RESUME - values.keys())}
    for key, value in kept.items():
        if value != getattr(named, key):
            say(f"{key} stays {value}, as the run has it; --set {key}={getattr(named, key)} changes it")
    return recipes.override(named, kept)


def check_same_data(state: dict[str, Any], data: Data, say: Say) -> None:
    """Refuse other data than the run was started with, and name what differs; old states know fewer of its facts.

    The same pictures may be stored otherwise, as in a pack: that is said.
    """
    classes, images = state["classes"], len(data.split("train"))
    differs = []
    if added := sorted(set(data.classes) - set(classes)):
        differs.append(f"has classes more ({some(added)})")
    if gone := sorted(set(classes) - set(data.classes)):
        differs.append(f"lacks classes ({some(gone)})")
    if not differs and classes != data.classes:
        differs.append("has the classes in another order")
    if not differs and "counts" in state:
        now = counts(data)
        for split in sorted(now.keys() | state["counts"].keys()):
            was, there = state["counts"].get(split, [0] * len(classes)), now.get(split, [0] * len(classes))
            others = [f"{c}: {a:,}, now {b:,}" for c, a, b in zip(classes, was, there, strict=True) if a != b]
            if others:
                differs.append(f"has other numbers of pictures in {split} ({some(others)})")
    if not differs and state.get("digest", "") not in ("", digest(data)):
        differs.append("has as many pictures of each class, but other files or in another order")
    if differs or state["images"] != images:
        raise AlexNetError(
            f"--resume: the run was trained on {counted(state['images'], 'picture')} of "
            f"{counted(len(classes), 'class')}, DATA {data.path} has {images:,} of {len(data.classes)}"
            f"{': it ' + ' and '.join(differs) if differs else ''}; give the data that it was started with."
        )
    known = state.get("contents", "")  # until 28 November 2026 of every split
    if known and known not in (pictures_digest(data, TRAINED), pictures_digest(data)):
        say(
            f"{data.path} has the names that the run was started with, but not the same bytes in its pictures: from "
            "here on it sees them as they are now, with the mean of those before"
        )
