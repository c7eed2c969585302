"""Fine-tuning and probing: `train` from the weights of another model, with a new last layer for the user's classes.

Both are the training loop under a recipe that names `weights`: `rate_below` is the learning rate of the layers below
the last as a share of the last one's; at 0 they are frozen, and the loop works on their features, computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from alexnet.base import hints
from alexnet.base.errors import AlexNetError
from alexnet.base.files import next_step
from alexnet.base.progress import Say
from alexnet.base.speaking import is_first
from alexnet.data.layouts.registry import Data, find_data
from alexnet.engines.loading import load_classifier
from alexnet.training import recipe as recipes
from alexnet.training.recipe import Recipe
from alexnet.training.starting import learnt_with

if TYPE_CHECKING:
    from alexnet.training.loop import Trained


@next_step("what was saved before is whole: free space, then go on with --resume")
def finetune(
    model: str | Path,
    data: str | Path | Data,
    out: str | Path,
    recipe: str | Recipe | None = None,
    sets: Iterable[str] = (),
    resume: bool = False,
    device: str | torch.device = "auto",
    say: Say = lambda text: None,
    quiet: bool = True,
    command: Sequence[str] = (),
) -> Trained:
    """Train MODEL on to DATA's classes into the run folder `out`; gives what `train` gives, and report.html there.

    `recipe` is finetune (all layers, lower rates below; the default), probe (the last layer, on features computed
    once) or any other; variant, sizes, squares, channels and layers are MODEL's, unless `sets` say otherwise. A run
    that goes on keeps its own, and another is refused. `command` is what the report says made it.
    """
    from alexnet.training import report
    from alexnet.training.loop import train
    from alexnet.training.restarts import as_begun, recorded_run

    found = data if isinstance(data, Data) else find_data(data)
    check_classes(found)
    place, sets = hints.absolute(model), list(sets)
    chosen: Recipe | None = None
    begun = recorded_run(Path(out))[0] if resume else None
    if begun is not None and begun.weights != place:
        began = begun.weights or "(none)"
        raise AlexNetError(f"--resume: the run was started from MODEL {began}, now {place} was given; give that.")
    if recipe is not None or begun is None:
        chosen = recipe_for(place, "finetune" if recipe is None else recipe, sets, say)
        if begun is not None and not isinstance(recipe, Recipe):
            chosen = as_begun(begun, chosen, recipes.parse_sets(sets), say)
    result = train(found, out, chosen, sets, resume, device, say, quiet)
    if is_first():
        say(f"{report.write(Path(out), found, device, command)}: curves, confusion matrix and the worst mistakes")
    return result


def recipe_for(
    model: str, recipe: str | Recipe, sets: Iterable[str] = (), say: Say = lambda text: None
) -> Recipe:  # fmt: skip
    """The recipe with what the model decides: variant, sizes, squares, and what its layers were learnt with.

    What the recipe has otherwise, and `sets` do not ask for, is said.
    """
    asked = recipes.parse_sets(sets)
    if "weights" in asked:
        raise AlexNetError(
            f"--set weights={asked['weights']} was given beside MODEL {model}, and a network starts from one of them; "
            "give as MODEL what to start from, and leave weights out."
        )
    chosen = recipe if isinstance(recipe, Recipe) else recipes.resolve(recipe)
    start = load_classifier(model)
    net, preprocess = start.model, start.preprocess
    values = {
        "weights": model, "variant": net.variant.name, "stored": preprocess.stored, "input": preprocess.input,
        "square": preprocess.square, "adapt": bool(net.changes.get("adapt")), **learnt_with(net),
    }  # fmt: skip
    for key, value in values.items():
        there = getattr(chosen, key)
        if there not in (value, getattr(Recipe(), key)) and key not in asked:
            then = f"; --set {key}={there} changes it" if key not in ("weights", "variant") else ""
            say(f"{key} is {value} by MODEL, not {there}{then}")
    if asked.get("adapt") and asked.get("input") and "stored" not in asked:  # as much of the picture as before
        values["stored"] = round(asked["input"] * preprocess.stored / preprocess.input)
    return recipes.override(chosen, values)


def check_classes(data: Data) -> None:
    """Refuse a class with one picture: one has to be learned from, another to be held out."""
    counts = sum(np.bincount(split.labels, minlength=len(data.classes)) for split in data.splits.values())
    assert isinstance(counts, np.ndarray)  # there is a split at least
    single = [name for name, count in zip(data.classes, counts, strict=True) if count == 1]
    if single:
        more = f" and of {len(single) - 1} more" if single[1:] else ""
        raise AlexNetError(
            f"DATA {data.path} has one picture of {single[0]}{more}; give two or more of each class, "
            "one to learn from and one to hold out."
        )
