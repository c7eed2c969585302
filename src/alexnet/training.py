"""The training loop, read from top to bottom: the same on one CPU, on a GPU, and under torchrun on many.

A step is a function of (recipe, step): order, crops, colours and dropout are drawn from (seed, epoch, step) for the
whole batch, and each process takes its rows. So a run can stop anywhere and go on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet import augment, checkpoint, optimizer
from alexnet import recipe as recipes
from alexnet.data.layouts import Data, find
from alexnet.data.loader import (
    STATISTICS_LIMIT,
    Batch,
    Pictures,
    Statistics,
    batches,
    order,
    statistics,
    steps,
)
from alexnet.device import choose_precision, describe, make_deterministic
from alexnet.distributed import World, start
from alexnet.errors import AlexNetError, Interrupted
from alexnet.evaluation import Evaluation, Member, measure
from alexnet.files import write_whole
from alexnet.metrics import Metrics
from alexnet.model import AlexNet, seeded_build
from alexnet.preprocess import Preprocess, check_sizes
from alexnet.progress import Progress
from alexnet.recipe import Recipe
from alexnet.signals import StopRequest
from alexnet.variants import variant as find_variant

Say = Callable[[str], object]
CROPS, DROPOUT = 1, 2  # the kinds of draw, the last part of their keys


@dataclass(frozen=True)
class Trained:
    """What a run came to: the last weights' error on the validation split (float32, central view) and its pace."""

    run: str
    epochs: int
    steps: int
    top1_error: float
    seconds: float
    images_per_second: float
    failed: list[dict[str, str]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """As plain data, without the list of failures."""
        return {key: value for key, value in asdict(self).items() if key != "failed"}


@dataclass
class Position:
    """Where a run is; with weights and momenta all that it needs to go on."""

    step: int = 0  # updates made
    epochs: int = 0  # epochs trained and evaluated
    best: float = math.inf  # lowest validation error so far, a fraction
    loss: float = 0.0  # of this epoch so far, summed over its pictures
    wrong: float = 0.0
    seen: float = 0.0


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
    found: Statistics
    preprocess: Preprocess
    model: AlexNet
    net: nn.Module  # the model as it is called: compiled, and wrapped for several processes
    update: torch.optim.Optimizer
    precision: torch.dtype
    position: Position
    plateau: optimizer.Plateau
    metrics: Metrics
    recent: list[Tensor] = field(default_factory=list)
    control: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.int64))  # of the step, all processes
    rate: float = 0.0  # learning rate of weights

    @property
    def steps_per_epoch(self) -> int:
        return steps(len(self.pictures), self.recipe.batch_size)

    @property
    def last_step(self) -> int:
        whole = self.steps_per_epoch * self.recipe.epochs
        return min(whole, self.recipe.max_steps or whole)

    @property
    def stalled(self) -> bool:
        """Whether the paper's schedule has come to its end before the last epoch."""
        return self.recipe.schedule == "plateau" and self.plateau.over

    @property
    def finished(self) -> bool:
        """Whether every step is made and every whole epoch evaluated."""
        evaluated = self.position.epochs >= self.position.step // self.steps_per_epoch
        return self.stalled or (self.position.step >= self.last_step and evaluated)

    def images(self, step: int) -> int:
        """Pictures in the first `step` steps."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        return epochs * len(self.pictures) + rest * self.recipe.batch_size


def train(
    data: str | Path | Data,
    out: str | Path,
    recipe: str | Recipe | None = None,
    sets: Iterable[str] = (),
    resume: bool = False,
    device: str = "auto",
    say: Say = lambda text: None,
    quiet: bool = True,
) -> Trained:
    """Train on DATA into the run folder `out`; `recipe` is a name, a TOML file or a Recipe, `sets` are key=value.

    `resume` goes on where the run in `out` stopped. Raises Interrupted after Ctrl-C or SIGTERM, the run being saved.
    """
    with start(device) as world:
        if not world.first:
            say, quiet = lambda text: None, True
        began = time.monotonic()
        folder = Path(out)
        chosen, state = _open(folder, recipe, list(sets), resume, world, say)
        run = _prepare(folder, chosen, state, data, world, say, quiet)
        try:
            with run.stop:  # from here on there is something to save
                pace = _loop(run, say, quiet)
                result = _finish(run, say, quiet)
        finally:
            run.pictures.close()
            run.held_out.close()
        failed = run.pictures.failures(world) + run.held_out.failures(world)
        epochs = run.position.step // run.steps_per_epoch
        seconds = time.monotonic() - began
        return Trained(str(folder), epochs, run.position.step, result.top1_error, seconds, pace, failed)


def _loop(run: Run, say: Say, quiet: bool) -> float:
    """Train from the run's position to its last step; the pace in images/s, evaluation and saving left out."""
    recipe, position = run.recipe, run.position
    total, done = run.images(run.last_step), run.images(position.step)
    images, seconds = 0, 0.0
    with Progress("training", total, done=done, quiet=quiet) as progress:
        while not run.finished:
            epoch, began = position.epochs, time.monotonic()
            positions = order(recipe.seed, epoch, len(run.pictures))
            start_of_epoch = epoch * run.steps_per_epoch
            first, end = position.step - start_of_epoch, run.last_step - start_of_epoch
            for batch in batches(run.pictures, positions, recipe.batch_size, run.world, first, end):
                _step(run, batch, epoch)
                images += batch.size
                if position.step % recipe.log_every == 0 or position.step == run.last_step:
                    _log(run, progress)
                progress.update(batch.size)
                if run.stop.agreed(run.control[:2]):
                    _stop(run, progress)
                if recipe.checkpoint_every and position.step % recipe.checkpoint_every == 0:
                    _log(run, progress)
                    _save(run)
            seconds += time.monotonic() - began
            _log(run, progress)
            if position.step % run.steps_per_epoch:
                break  # max_steps ends within an epoch
            _end_epoch(run, progress)
    if run.stalled:
        say("the validation error has stalled after the third drop of the rate: done")
    return images / seconds if seconds else 0.0


def _step(run: Run, batch: Batch, epoch: int) -> None:
    """One update: this process' rows forward and backward, gradients summed over the processes, the 2012 rule."""
    recipe, world, position = run.recipe, run.world, run.position
    rates = optimizer.rates(recipe, position.step / run.steps_per_epoch, run.plateau)
    optimizer.set_rates(run.update, rates)
    run.rate = rates["weight"]
    # One sum over the processes, on the CPU: whether to stop, and how many pictures could be read. All agree.
    run.control = world.sum(torch.tensor([*run.stop.counts(), len(batch.labels)]))
    mine, everyone = len(batch.labels), max(1, int(run.control[-1]))

    images, labels, rows = _augmented(run, batch, epoch)
    key = (recipe.seed, epoch, position.step, DROPOUT)
    masks = augment.dropout_masks(run.model.dropouts, batch.size, rows, key, world.device)
    with torch.autocast(world.device.type, run.precision, enabled=run.precision != torch.float32):
        logits = run.net(images, masks)
    logits = logits.float()
    # A process without pictures has one of weight zero, so that all take part.
    loss = F.cross_entropy(logits, labels, reduction="sum") * (1.0 if mine else 0.0)
    # Processes' gradients are averaged: × size makes that their sum, ÷ everyone the mean over the whole batch.
    (loss * (world.size / everyone)).backward()
    optimizer.step(run.update)
    position.step += 1
    wrong = (logits.detach()[:mine].argmax(1) != labels[:mine]).sum()
    run.recent.append(torch.stack([loss.detach(), wrong, torch.full_like(wrong, mine)]))


def _augmented(run: Run, batch: Batch, epoch: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Crops, flips and colour noise for this process' pictures, on its device; their labels and their rows."""
    recipe, device = run.recipe, run.world.device
    pictures, labels, rows = batch.pictures, batch.labels, batch.rows
    if not len(labels):
        pictures = torch.zeros(1, *pictures.shape[1:], dtype=torch.uint8)
        labels, rows = torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64)
    noisy = recipe.colour_noise if optimizer.colour_noise_on(recipe, run.position.step / run.steps_per_epoch) else 0.0
    source = augment.generator(recipe.seed, epoch, run.position.step, CROPS)
    border = run.preprocess.border if recipe.crops else 0
    draws = augment.draw(batch.size, border, recipe.flips, noisy * run.found.colour_std, source).take(rows, device)
    pictures = pictures.to(device, non_blocking=True)
    if not recipe.crops:
        draws.offsets.fill_(run.preprocess.border // 2)
    images = run.preprocess.subtract(augment.crop_and_mirror(pictures, draws, run.preprocess.input))
    if noisy:
        images = augment.add_colour(images, draws, run.found.colour_axes.to(device))
    return run.preprocess.divide(images), labels.to(device, non_blocking=True), rows


def _log(run: Run, progress: Progress) -> None:
    """Bring the recent steps' losses to the CPU, stop at one that is not finite, write their mean."""
    if not run.recent:
        return
    position = run.position
    sums = run.world.sum(torch.stack(run.recent).cpu().double())
    run.recent.clear()
    bad = (~torch.isfinite(sums[:, 0])).nonzero().flatten()
    if len(bad):
        step = position.step - len(sums) + int(bad[0]) + 1
        raise AlexNetError(
            f"the loss became {sums[bad[0], 0].item()} at step {step}; nothing was saved after that, the last "
            "checkpoint is whole: train with a lower learning_rate, or look for broken labels."
        )
    loss, wrong, seen = sums.sum(0).tolist()
    position.loss += loss
    position.wrong += wrong
    position.seen += seen
    loss, wrong = loss / max(1, seen), wrong / max(1, seen)
    run.metrics.add(
        "step", position.step, epoch=position.step / run.steps_per_epoch, loss=loss, top1_error=wrong,
        learning_rate=run.rate, images_per_second=progress.rate,
    )  # fmt: skip
    progress.facts = {"loss": f"{loss:.3f}", "error": f"{100 * wrong:.1f} %"}


def _end_epoch(run: Run, progress: Progress) -> None:
    """Evaluate in the precision of training, note the epoch, save; the best weights are those of the lowest error."""
    position = run.position
    result = _measure(run, run.precision, quiet=True)
    if result is None:
        _stop(run, progress)
    loss, wrong = position.loss / max(1, position.seen), position.wrong / max(1, position.seen)
    better = result.top1_error < position.best
    position.epochs, position.best = position.epochs + 1, min(position.best, result.top1_error)
    position.loss = position.wrong = position.seen = 0.0
    run.plateau.update(result.top1_error, run.recipe.patience)
    run.metrics.add(
        "epoch", position.step, epoch=position.epochs, train_loss=loss, train_top1_error=wrong, valid_loss=result.loss,
        valid_top1_error=result.top1_error, valid_top5_error=result.top5_error, images=result.images,
        learning_rate=run.rate, images_per_second=progress.rate,
    )  # fmt: skip
    _save(run, better)
    progress.say(
        f"epoch {position.epochs}/{run.recipe.epochs}: loss {loss:.3f}, training error {100 * wrong:.1f} %, "
        f"validation error top-1 {100 * result.top1_error:.2f} %, top-5 {100 * result.top5_error:.2f} %"
    )
    guess = math.log(len(run.data.classes))
    if abs(loss - guess) < 0.01 * guess:
        progress.say(
            f"the loss has stayed at ln({len(run.data.classes)}) = {guess:.3f}, which is guessing: usually the "
            "learning_rate is too high or too low, the initial weights do not fit (spec: biases of 1 need sigma 0.03), "
            "or the labels do not belong to the pictures"
        )


def _measure(run: Run, precision: torch.dtype, quiet: bool) -> Evaluation | None:
    """Evaluate the weights as they are; None where a signal came."""

    def stopped() -> bool:
        return run.stop.agreed(run.world.sum(torch.tensor(run.stop.counts())))

    members, batch_size = [Member(run.model, run.preprocess)], run.recipe.batch_size
    return measure(members, [run.held_out], batch_size, run.world, precision, stopped=stopped, quiet=quiet)


def _stop(run: Run, progress: Progress) -> NoReturn:
    """Save where the run is and leave with the signal's exit status."""
    _log(run, progress)
    _save(run)
    raise Interrupted(
        f"stopped at step {run.position.step}, saved in {run.folder}: go on with --resume", run.stop.status
    )


def _finish(run: Run, say: Say, quiet: bool) -> Evaluation:
    """Evaluate the last weights in float32, as `alexnet evaluate` does, and draw the pictures of the run."""
    _save(run)
    result = _measure(run, torch.float32, quiet)
    if result is None:
        raise Interrupted(f"trained and saved in {run.folder}, but stopped before the last evaluation", run.stop.status)
    facts = {key: value for key, value in result.facts().items() if "seconds" not in key}
    run.metrics.add("final", run.position.step, **facts)
    if run.world.first:
        from alexnet import plots

        plots.save_curves(run.folder)
        plots.save_filters(run.model, run.folder)
    say(
        f"{run.folder}: {run.position.step:,} steps, validation error top-1 {100 * result.top1_error:.2f} %, "
        f"top-5 {100 * result.top5_error:.2f} % on {result.images:,} pictures"
    )
    return result


# -- the parts of a run -----------------------------------------------------------------------------------------


def _open(
    folder: Path, recipe: str | Recipe | None, sets: list[str], resume: bool, world: World, say: Say
) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe and, when a run goes on, its state; a folder that holds a run is touched only by --resume."""
    held = [name for name in (*checkpoint.NAMES,) if (folder / name).exists()]
    if folder.exists() and not folder.is_dir():
        raise AlexNetError(f"--out {folder} is a file; give a folder, new or empty.")
    if held and not resume:
        raise AlexNetError(
            f"--out {folder} already holds a run ({', '.join(held)}); add --resume to go on, or give another folder."
        )
    file = folder / checkpoint.RECIPE
    state = checkpoint.read_state(folder / checkpoint.STATE) if (folder / checkpoint.STATE).exists() else None
    recorded = state["recipe"] if state else file.read_text("utf-8") if file.exists() else None
    if recorded is not None:
        chosen = _recorded(recipes.from_toml(recorded, str(file)), recipe, sets)
    else:
        chosen = recipe if isinstance(recipe, Recipe) else recipes.resolve(recipe or "author_2012")
        chosen = recipes.override(chosen, recipes.parse_sets(sets))
        if resume:
            say(f"{folder} holds no run yet: starting anew")
    if state is None and recorded is not None:
        say(f"{folder} holds a run that stopped before its first checkpoint: starting it anew")
    world.barrier()  # every process has looked before the first one writes
    return chosen, state


def _claim(folder: Path, recipe: Recipe) -> None:
    """Make the run's folder and note the resolved recipe in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlexNetError(
            f"cannot make the folder {folder} ({error.strerror}); give one that you may write."
        ) from None
    write_whole(folder / checkpoint.RECIPE, lambda file: file.write(recipes.to_toml(recipe).encode()))


def _recorded(recorded: Recipe, recipe: str | Recipe | None, sets: list[str]) -> Recipe:
    """The recorded recipe with what may change; any other difference is an error that names it."""
    asked = recorded
    if recipe is not None:
        asked = recipe if isinstance(recipe, Recipe) else recipes.resolve(recipe)
    values = recipes.parse_sets(sets)
    asked = recipes.override(asked, values)
    given = asdict(asked)
    for key, value in asdict(recorded).items():
        if key not in recipes.FREE_ON_RESUME and given[key] != value:
            raise AlexNetError(
                f"--resume: the run was started with {key} = {value}, now {key} = {given[key]} was given; leave "
                "it out, or start another run."
            )
    free = recipes.FREE_ON_RESUME & (set(values) if recipe is None else set(given))
    return recipes.override(recorded, {key: given[key] for key in free})


def _prepare(
    folder: Path, recipe: Recipe, state: dict | None, data: str | Path | Data, world: World, say: Say, quiet: bool,
) -> Run:  # fmt: skip
    """Data, statistics, network and optimiser, new or as they were when the run stopped."""
    found_data = data if isinstance(data, Data) else find(data)
    say(found_data.summary())
    if recipe.deterministic:
        make_deterministic()
    precision, why = choose_precision(world.device, recipe.precision)
    say(f"training {recipe.variant} on {describe(world.device)} in {str(precision)[6:]}: {why}")
    plan = find_variant(recipe.variant)
    stored, side = recipe.stored or plan.stored, recipe.input or plan.input
    check_sizes(stored, side)
    model = seeded_build(recipe.seed, recipe.variant, len(found_data.classes), recipe.channels, side, recipe.dropout)
    pictures = Pictures(found_data.split("train"), stored, recipe.channels, recipe.workers)
    held_out = Pictures(found_data.split("valid"), stored, recipe.channels, recipe.workers)
    position, plateau = Position(), optimizer.Plateau()
    if state is not None:
        _check_same_data(state, found_data, pictures)
    if world.first:  # nothing is written before data and recipe have proved to fit, nor after the first long work
        _claim(folder, recipe)
    if state is None:
        with Progress("mean image", min(len(pictures), STATISTICS_LIMIT), quiet=quiet) as progress:
            found = statistics(pictures, world, progress.update)
    else:
        found = Statistics(state["mean"], state["colour_std"], state["colour_axes"])
        position, plateau = Position(**state["position"]), optimizer.Plateau(**state["plateau"])
        model.load_state_dict(state["model"])
        say(f"going on at step {position.step:,}, epoch {position.epochs + 1}")
    model = model.to(world.device).to(memory_format=torch.channels_last).train()
    net = world.wrap(cast(nn.Module, torch.compile(model)) if recipe.compile else model)
    update = optimizer.build(model, recipe)
    if state is not None:
        update.load_state_dict(state["optimizer"])
    preprocess = Preprocess(
        stored, side, "L" if recipe.channels == 1 else "RGB", (plan.pixel_scale,), found.mean.to(world.device)
    )
    return Run(
        folder, recipe, world, StopRequest(), found_data, pictures, held_out, found, preprocess, model,
        net, update, precision, position, plateau,
        Metrics(folder / checkpoint.METRICS, position.step, write=world.first),
        rate=next(group["lr"] for group in update.param_groups if group["name"] == "weight"),
    )  # fmt: skip


def _check_same_data(state: dict[str, Any], data: Data, pictures: Pictures) -> None:
    if state["classes"] != data.classes or state["images"] != len(pictures):
        raise AlexNetError(
            f"--resume: the run was trained on {state['images']:,} pictures of {len(state['classes'])} classes, DATA "
            f"{data.path} has {len(pictures):,} of {len(data.classes)}; give the data that it was started with."
        )


def _save(run: Run, best: bool = False) -> None:
    """Best weights, last weights, then the state, which alone decides where a resumed run goes on."""
    if not run.world.first:
        return
    origin = f"trained on {run.data.path}, {run.position.step:,} steps"
    weights = checkpoint.weights_bytes(run.model, run.preprocess, run.data.classes, origin)
    for name in [checkpoint.BEST] * best + [checkpoint.LAST]:
        write_whole(run.folder / name, lambda file: file.write(weights))
    state = {
        "step": run.position.step, "position": asdict(run.position), "plateau": asdict(run.plateau),
        "model": run.model.state_dict(), "optimizer": run.update.state_dict(),
        "mean": run.found.mean, "colour_std": run.found.colour_std, "colour_axes": run.found.colour_axes,
        "preprocess": run.preprocess.facts(), "classes": run.data.classes, "images": len(run.pictures),
        "recipe": recipes.to_toml(run.recipe),
    }  # fmt: skip
    checkpoint.write_state(run.folder / checkpoint.STATE, state)
