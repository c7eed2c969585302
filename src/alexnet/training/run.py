"""A run: what the training loop works on, opened or begun anew, prepared, and saved so that it can go on exactly."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.base import run_files
from alexnet.base.device import choose_precision, device_name
from alexnet.base.distributed import World
from alexnet.base.files import write_bytes
from alexnet.base.metrics import Metrics
from alexnet.base.progress import Progress, Say
from alexnet.base.signals import StopRequest
from alexnet.base.text import counted
from alexnet.base.turns import same
from alexnet.data import labels
from alexnet.data.held_out import counts, divided, recipe_held_out
from alexnet.data.identity import TRAINED, digest, pictures_digest
from alexnet.data.layouts.registry import Data, find_data
from alexnet.data.loader import STATISTICS_LIMIT, Pictures, Statistics, batch_count, statistics
from alexnet.data.pictures import Square
from alexnet.data.preprocess import Preprocess, check_sizes
from alexnet.data.statistics import IMAGENET_AXES, IMAGENET_STD
from alexnet.engines import loading
from alexnet.inference.evaluation import none_readable
from alexnet.networks import fast
from alexnet.networks.fast import gpu
from alexnet.networks.fast.gpu import grouped
from alexnet.networks.model import AlexNet, seeded_build
from alexnet.networks.shapes import layer_facts
from alexnet.networks.variants import variant as find_variant
from alexnet.training import checkpoint, parallel, sinks
from alexnet.training import recipe as recipes
from alexnet.training.captured import Captured, FusedUpdate, update_rule, whole_step
from alexnet.training.lars import Lars
from alexnet.training.memory import needed
from alexnet.training.optimizer import Plateau, Rule, build_optimizer
from alexnet.training.parallel.division import Division
from alexnet.training.probing import FeatureRows, tail_of
from alexnet.training.recipe import Recipe
from alexnet.training.restarts import RunLock, check_same_data
from alexnet.training.starting import begin, class_weights
from alexnet.weights import classifier, native


@dataclass
class Position:
    """Where a run is; with weights and momenta all that it needs to go on."""

    step: int = 0  # updates made
    epochs: int = 0  # epochs trained and evaluated
    best: float = math.inf  # lowest validation error so far, a fraction
    loss: float = 0.0  # of this epoch so far, summed over its pictures
    wrong: float = 0.0
    seen: float = 0.0
    since: int = 0  # epochs since the lowest validation error
    learned: float = math.inf  # training error of the last whole epoch, a fraction


@dataclass
class Run:
    """Everything that the loop uses. `recent` holds (loss, wrong, pictures) of the steps since the last log line."""

    folder: Path
    recipe: Recipe
    world: World
    stop: StopRequest
    data: Data
    pictures: Pictures
    held_out: Pictures
    statistics: Statistics
    preprocess: Preprocess
    model: AlexNet
    division: Division  # of the model among the processes
    optimizer: torch.optim.Optimizer
    rule: Rule | FusedUpdate  # that makes its steps
    precision: torch.dtype
    position: Position
    plateau: Plateau
    metrics: Metrics
    recent: list[Tensor] = field(default_factory=list)
    control: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.int64))  # of the step, all processes
    rate: float = 0.0  # learning rate of the last layer's weights
    class_weights: Tensor | None = None  # of the loss
    captured: Captured | None = None  # launches a step as a whole, where that can be done
    warned: bool = False  # that the loss is that of guessing
    digest: str = ""  # of the data's classes, labels and names
    contents: str = ""  # of some of its pictures
    saver: checkpoint.Saver = field(default_factory=checkpoint.Saver)

    def __post_init__(self) -> None:
        share = -(-self.recipe.batch_size // self.division.readers.size)
        step = needed(self.division.part, share, self.precision, self.captured is not None)
        self.pictures.beside = self.held_out.beside = step  # left free on a GPU

    @property
    def probes(self) -> bool:
        """Whether the last layer is trained alone, on features."""
        return isinstance(self.pictures, FeatureRows)

    def whole(self) -> AlexNet:
        """The model with what all processes' parts have learnt; all of them call it."""
        self.division.together()
        return self.model

    @property
    def evaluated(self) -> tuple[nn.Module, Preprocess]:
        """What is evaluated, and the preprocessing that it needs."""
        if isinstance(self.pictures, FeatureRows):
            return self.division.net, self.pictures.as_they_are
        return self.whole(), self.preprocess

    @property
    def steps_per_epoch(self) -> int:
        return batch_count(len(self.pictures), self.recipe.batch_size)

    @property
    def last_step(self) -> int:
        whole = self.steps_per_epoch * self.recipe.epochs
        return min(whole, self.recipe.max_steps or whole)

    @property
    def stalled(self) -> bool:
        """Whether the validation error has stalled for as long as ends the run before its last epoch."""
        stopped = bool(self.recipe.stop_after) and self.position.since >= self.recipe.stop_after
        return stopped or (self.recipe.schedule == "plateau" and self.plateau.over)

    @property
    def learned(self) -> bool:
        """Whether the training error is down to where the recipe ends."""
        return self.recipe.stop_error > 0 and self.position.learned <= self.recipe.stop_error

    @property
    def finished(self) -> bool:
        """Whether every step is made and every whole epoch evaluated."""
        evaluated = self.position.epochs >= self.position.step // self.steps_per_epoch
        return self.stalled or self.learned or (self.position.step >= self.last_step and evaluated)

    def images(self, step: int) -> int:
        """Pictures in the first `step` steps."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * len(self.pictures) + rest * self.recipe.batch_size


def prepare(
    folder: Path, recipe: Recipe, state: dict | None, data: str | Path | Data, world: World, say: Say, quiet: bool,
    lock: RunLock,
) -> Run:  # fmt: skip
    """Data, statistics, network and optimiser, new or as they were when the run stopped.

    What does not fit is refused before anything is written, and before the first long work.
    """
    with world.together():
        found_data = _data(folder, recipe, state, data, say, quiet)
        precision = _on_device(recipe, world, say)
        model, old = _begun(recipe, state, len(found_data.classes), say)
        pictures, held_out = _pictures(recipe, state, model, old, found_data, say)
        if told := parallel.check_division(recipe, model, world):
            say(told)
    same(world, DATA=digest(found_data))
    world.check_alike("say --set precision=float32", precision=str(precision)[6:])
    with world.together():
        if world.first:
            lock.begin(recipe, world)
    found = _statistics(recipe, state, pictures, old, found_data, world, quiet)
    position, plateau = _place(state, say)
    model = model.to(world.device).to(memory_format=torch.channels_last).train()
    preprocess = _preprocess(old, recipe, pictures, model, found.mean.to(world.device))
    trained: nn.Module = model
    if recipe.weights and not recipe.rate_below:
        trained = tail = tail_of(model, recipe, say)
        pictures, held_out = (
            FeatureRows(p, model, tail.below, preprocess, folder, quiet) for p in (pictures, held_out)
        )
    division = parallel.divide(recipe, model, trained, world, precision)
    optimizer = build_optimizer(division.part, recipe)
    if state is not None:
        division.load(optimizer, state["optimizer"])
    weights = class_weights(pictures.split.labels, model.classes).to(world.device) if recipe.class_weights else None
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    alone = world.size == 1 and not recipe.compile and trained is model and not recipe.lars
    rule = _rule(recipe, optimizer, division, alone)
    return Run(
        folder, recipe, world, StopRequest(), found_data, pictures, held_out, found, preprocess, model,
        division, optimizer, rule, precision, position, plateau, _metrics(folder, recipe, position, world, say),
        rate=rates.get("last.weight", rates["weight"]), class_weights=weights, digest=digest(found_data),
        contents=pictures_digest(found_data, TRAINED) if world.first else "",
        captured=whole_step(world.device, rule, say) if alone else None,
    )  # fmt: skip


def try_forms(run: Run, say: Say) -> None:
    """Find which form of grouped convolutions is fastest on this GPU, where that is not known yet."""
    part, world, low = run.division.part, run.world, run.precision == torch.bfloat16
    if not (low and world.device.type == "cuda" and gpu.here(world.device)) or run.recipe.compile or run.probes:
        return
    rows = layer_facts(part.variant, part.classes, part.channels, part.input)
    before = {row.name: above.output for above, row in pairwise(rows)}
    layers = [
        (layer, before[name]) for name, layer in part.named_layers() if type(layer) is nn.Conv2d and name in before
    ]
    if said := grouped.try_out(layers, -(-run.recipe.batch_size // world.size), world.device):
        say(said)


def _place(state: dict | None, say: Say) -> tuple[Position, Plateau]:
    """Where the run begins, or goes on."""
    if state is None:
        return Position(), Plateau()
    position = Position(**state["position"])
    say(f"going on at step {position.step:,}, epoch {position.epochs + 1}")
    return position, Plateau(**state["plateau"])


def _data(folder: Path, recipe: Recipe, state: dict | None, data: str | Path | Data, say: Say, quiet: bool) -> Data:
    """DATA with held out what the recipe says; other data than the run was started with is refused."""
    found = data if isinstance(data, Data) else find_data(data, quiet)
    if state is None:
        found.keep_apart("--out", folder)
    found = divided(found, recipe_held_out(recipe))
    say(found.summary())
    if state is not None:
        check_same_data(state, found, say)
    return found


def _metrics(folder: Path, recipe: Recipe, place: Position, world: World, say: Say) -> Metrics:
    """Where the run's figures go: metrics.jsonl, and the sinks that the recipe names."""
    others = sinks.opened(recipe.sinks, folder, place.step, asdict(recipe), say) if world.first else ()
    return Metrics(folder / run_files.METRICS, place.step, place.epochs, world.first, others)


def _preprocess(
    old: Preprocess | None, recipe: Recipe, pictures: Pictures, model: AlexNet, mean: Tensor
) -> Preprocess:  # fmt: skip
    """That of a checkpoint or of weights to start from, or the recipe's; the mean and the squares are the run's."""
    if old is None:
        order = "L" if recipe.channels == 1 else "RGB"
        old = Preprocess(pictures.size, model.input, order, (model.variant.pixel_scale,), mean)
    return replace(old, mean=mean, square=pictures.square.how)


def _rule(recipe: Recipe, optimizer: torch.optim.Optimizer, division: Division, alone: bool) -> Rule | FusedUpdate:
    """What makes the optimiser's steps: LARS, one pass a parameter where there is a GPU, or the optimiser itself."""
    if recipe.lars:
        return Lars(optimizer, recipe.lars, division.part, division.total)
    rule = update_rule(optimizer, division.world.device)
    if rule and alone and division.precision == torch.bfloat16:
        # Biases and norms' weights are taken in float32.
        weights = {name: one for name, one in division.part.named_parameters() if one.dim() > 1}
        division.weights = rule.copy_weights(weights)
    return rule or Rule(optimizer)


def _on_device(recipe: Recipe, world: World, say: Say) -> torch.dtype:
    """The precision of training, with the device made ready for it."""
    sinks.check_sinks(recipe.sinks)
    precision, why = choose_precision(world.device, recipe.precision)
    say(f"training {recipe.variant} on {device_name(world.device)} in {str(precision)[6:]}: {why}")
    say(fast.choose(world.device, recipe.compile))
    return precision


def _begun(recipe: Recipe, state: dict | None, classes: int, say: Say) -> tuple[AlexNet, Preprocess | None]:
    """The network, and its preprocessing where it is decided already: by a checkpoint, or by weights to start from."""
    if recipe.weights and state is None:
        return begin(recipe, classes, say)
    side = recipe.input or find_variant(recipe.variant).input
    model = seeded_build(recipe.seed, recipe.variant, classes, recipe.channels, side, recipes.changes(recipe))
    if state is None:
        return model, None
    model.load_state_dict(state["model"])
    return model, Preprocess.from_facts(state["preprocess"], state["mean"])


def _pictures(
    recipe: Recipe, state: dict | None, model: AlexNet, old: Preprocess | None, data: Data, say: Say
) -> tuple[Pictures, Pictures]:
    """The pictures to train on and those to hold out, at the size that is stored."""
    plan, side = model.variant, model.input
    usual = round(side * plan.stored / plan.input) if recipe.adapt else plan.stored
    stored = old.stored if old else recipe.stored or usual
    check_sizes(stored, side)
    how = old.square if state is not None and old else choose_square(recipe, data, say, old.square if old else "")
    train, valid = (
        Pictures(data.split(name), stored, recipe.channels, recipe.workers, Square.of(how, side))
        for name in ("train", "valid")
    )
    for note in train.notes(recipe.neighbours):
        say(note)
    _check_readable(valid)
    return train, valid


def _check_readable(pictures: Pictures) -> None:
    """Refuse, before the first epoch, pictures of which none can be evaluated on."""
    if not any(pictures.get(np.array([row]))[1].all() for row in range(len(pictures))):
        raise none_readable(pictures)


def _statistics(
    recipe: Recipe, state: dict | None, pictures: Pictures, old: Preprocess | None, data: Data, world: World,
    quiet: bool,
) -> Statistics:  # fmt: skip
    """Mean image and colours: a checkpoint's, or measured; the mean of weights to start from stays theirs."""
    if state is not None:
        return Statistics(state["mean"], state["colour_std"], state["colour_axes"])
    with Progress("mean image", min(len(pictures), STATISTICS_LIMIT), quiet=quiet) as progress:
        found = statistics(pictures, world, progress.update)
    if old is not None:
        found = replace(found, mean=old.mean)
    if labels.are_imagenet(data.classes) and recipe.channels == 3:  # the published colours, not an estimate
        found = replace(found, colour_std=torch.tensor(IMAGENET_STD), colour_axes=torch.tensor(IMAGENET_AXES))
    return found


def choose_square(recipe: Recipe, data: Data, say: Say, begun: str = "") -> str:
    """How the pictures become squares; those of DATA that are squares already stay as they became it.

    `begun` is how those did that the weights to start from were trained on.
    """
    wanted = begun if recipe.square == "auto" else recipe.square
    if not data.square:
        return wanted or "crop"
    if wanted not in ("", data.square):
        say(
            f"DATA's pictures became squares by {data.square}, not by {wanted}: the network is trained on them "
            f"as they are, and the pictures that it is asked about will become squares by {data.square}"
        )
    return data.square


def save_checkpoint(run: Run, best: bool = False) -> None:
    """The state, which alone decides where a resumed run goes on, then best and last weights: so weights without a
    state are of a run that has lost it, and after a kill none are of steps that will be made again.

    They are as they are now; `run.saver` writes them while training goes on.
    """
    model, rule_state = run.whole(), run.division.state(run.optimizer)
    if not run.world.first:
        return
    origin = f"trained on {run.data.path}, {counted(run.position.step, 'step')}"
    trained = {"step": run.position.step, "digest": run.digest, **asdict(recipe_held_out(run.recipe))}
    state = checkpoint.copied({
        "step": run.position.step, "position": asdict(run.position), "plateau": asdict(run.plateau),
        "model": model.state_dict(), "optimizer": rule_state,
        "mean": run.statistics.mean, "colour_std": run.statistics.colour_std, "colour_axes": run.statistics.colour_axes,
        "preprocess": run.preprocess.facts(), "classes": run.data.classes, "images": len(run.pictures),
        "counts": counts(run.data), "digest": run.digest, "contents": run.contents,
        "recipe": recipes.to_toml(run.recipe),
    })  # fmt: skip
    whole = classifier.Classifier(model, run.preprocess, run.data.classes, origin, trained=trained)
    weights = replace(classifier.weights_of(whole), tensors=state["model"])

    def write() -> None:
        contents = native.to_bytes(weights)
        checkpoint.write_state(run.folder / run_files.STATE, state)
        for name in (run_files.BEST, run_files.LAST) if best else (run_files.LAST,):
            write_bytes(run.folder / name, contents)

    run.saver(write)


def finish_checkpoint(run: Run) -> None:
    """Write the weights of a run that was killed after it had written its state, where they are not there yet."""
    at, file = run.position, run.folder / run_files.BEST
    best = at.step == at.epochs * run.steps_per_epoch > 0 and not at.since  # within an epoch the best ones are others
    lost = at.step > 0 and not (run.folder / run_files.LAST).exists()
    lost |= best and not (file.exists() and loading.load_classifier(file).trained.get("step") == at.step)
    if run.world.of_first(lost):
        save_checkpoint(run, best)


def keep_best(run: Run, say: Say) -> int | None:
    """Make the run's last weights those of its lowest validation error; its state stays, so that it can go on.

    Gives that epoch, or None where they are already.
    """
    best, tensors = run.folder / run_files.BEST, None
    within = run.position.step % run.steps_per_epoch  # steps of an epoch that max_steps ended
    with run.world.together():
        if run.world.first and (run.position.since or within) and best.exists():
            tensors = loading.load_classifier(best).model.state_dict()
            write_bytes(run.folder / run_files.LAST, best.read_bytes())
    tensors = run.world.of_first(tensors)  # others may not see the folder
    if tensors is None:
        return None
    run.model.load_state_dict(tensors)
    epoch = run.position.epochs - run.position.since
    say(f"the weights are those of epoch {epoch}, whose validation error is lowest")
    return epoch
