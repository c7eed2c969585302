"""The training loop, read from top to bottom: the same on one CPU, on a GPU, and under torchrun on many.

A step is a function of (recipe, step): order, crops, colours and dropout are drawn from (seed, epoch, step) for the
whole batch, and each process takes its rows. So a run can stop anywhere and go on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.base.device import repeatable, send, tf32
from alexnet.base.distributed import process_group
from alexnet.base.errors import AlexNetError, Diverged, Interrupted, is_out_of_memory, told_of_memory
from alexnet.base.files import next_step
from alexnet.base.progress import Progress, Say
from alexnet.base.run_files import STATE
from alexnet.base.text import counted
from alexnet.data import augment, augmentations
from alexnet.data.layouts.registry import Data
from alexnet.data.loader import Batch, batches, epoch_order
from alexnet.engines import loading
from alexnet.inference.evaluation import Evaluation, measure
from alexnet.inference.scoring import Member
from alexnet.networks import fast
from alexnet.training import optimizer, plots
from alexnet.training.memory import too_little
from alexnet.training.recipe import Recipe
from alexnet.training.restarts import RunLock, open_run, time_limit
from alexnet.training.run import (
    Run,
    finish_checkpoint,
    keep_best,
    prepare,
    save_checkpoint,
    try_forms,
)

FEW = 10  # classes, fewer than which a loss near guessing says nothing


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


@next_step("what was saved before is whole: free space, then go on with --resume")
def train(
    data: str | Path | Data,
    out: str | Path,
    recipe: str | Recipe | None = None,
    sets: Iterable[str] = (),
    resume: bool = False,
    device: str | torch.device = "auto",
    say: Say = lambda text: None,
    quiet: bool = True,
) -> Trained:
    """Train on DATA into the run folder `out`; `recipe` is a name, a TOML file or a Recipe, `sets` are key=value.

    `resume` goes on where the run in `out` stopped, as do the processes that torchrun starts again. Raises Interrupted
    after Ctrl-C or SIGTERM, the run being saved.
    """
    folder, sets = Path(out), list(sets)
    with process_group(device, time_limit(folder, recipe, sets)) as world, RunLock(folder) as lock:
        if not world.first:
            say, quiet = lambda text: None, True
        began = time.perf_counter()
        with world.together():
            if world.first and (line := lock.look(world)):
                say(line)
        resume = resume or world.of_first(lock.again)
        chosen, state = open_run(folder, recipe, sets, resume, world, say)
        with repeatable(chosen.deterministic):
            run = prepare(folder, chosen, state, data, world, say, quiet, lock)
            result, pace, failed = _to_its_end(run, say, quiet)
        epochs = run.position.step // run.steps_per_epoch
        seconds = time.perf_counter() - began
        return Trained(str(folder), epochs, run.position.step, result.top1_error, seconds, pace, failed)


def _to_its_end(run: Run, say: Say, quiet: bool) -> tuple[Evaluation, float, list[dict[str, str]]]:
    """Train, save, evaluate and draw: the last weights' errors, the pace in images/s, and the pictures that failed."""
    try:
        with run.saver, run.stop:  # from here on there is something to save
            finish_checkpoint(run)
            with tf32(run.recipe.precision == "tf32"), _memory_in_words(run):
                try_forms(run, say)
                pace = _loop(run, say, quiet)
            result, kept = _finish(run, say, quiet)
            failed = run.pictures.failures(run.world) + run.held_out.failures(run.world)
            if run.world.first:  # and nobody waits for it any more
                plots.save_all(run, kept)
        return result, pace, failed
    finally:
        run.metrics.close()
        run.pictures.close()
        run.held_out.close()


@contextmanager
def _memory_in_words(run: Run) -> Iterator[None]:
    """Within it a device whose memory runs out is an error that says what was needed and what would fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        captured = run.captured is not None and not run.captured.failed
        part, size, where = run.division.part, run.recipe.batch_size, run.world.device
        sent, readers = run.pictures.sent, run.division.readers.size
        there = run.pictures.there + run.held_out.there
        told = too_little(part, size, run.precision, where, captured, sent, readers, there)
        raise AlexNetError(f"{told_of_memory(error)}{told}") from None


def _loop(run: Run, say: Say, quiet: bool) -> float:
    """Train from the run's position to its last step; the pace in images/s, evaluation and saving left out."""
    recipe, position, readers = run.recipe, run.position, run.division.readers
    total, done = run.images(run.last_step), run.images(position.step)
    images, seconds = 0, 0.0
    with Progress("training", total, done=done, quiet=quiet) as progress:
        while not run.finished:
            epoch, began = position.epochs, time.perf_counter()
            order, before = epoch if recipe.reshuffle else 0, images
            positions = epoch_order(recipe.seed, order, len(run.pictures), recipe.neighbours)
            start_of_epoch = epoch * run.steps_per_epoch
            first, end = position.step - start_of_epoch, run.last_step - start_of_epoch
            for batch in batches(run.pictures, positions, recipe.batch_size, readers, first, end, recipe.neighbours):
                _step(run, batch, epoch)
                images += batch.size
                if position.step % recipe.log_every == 0 or position.step == run.last_step:
                    _log(run, progress)
                progress.update(batch.size)
                if run.stop.agreed(run.control[:2]):
                    _stop(run, progress)
                if recipe.checkpoint_every and position.step % recipe.checkpoint_every == 0:
                    _log(run, progress)
                    save_checkpoint(run)
            _log(run, progress)  # which waits for what the GPU still does
            taken = time.perf_counter() - began
            seconds += taken
            if position.step % run.steps_per_epoch:
                break  # max_steps ends within an epoch
            _end_epoch(run, progress, (images - before) / taken)
    if run.stalled:
        since = "after the third drop of the rate" if run.plateau.over else f"for {counted(position.since, 'epoch')}"
        say(f"the validation error has stalled {since}: done")
    elif run.learned:
        say(f"the training error is down to {100 * position.learned:.1f} %: done")
    return images / seconds if seconds else 0.0


def _step(run: Run, batch: Batch, epoch: int) -> None:
    """One update: this process' rows forward and backward, gradients summed over the processes, the 2012 rule."""
    recipe, world, position = run.recipe, run.world, run.position
    batch = run.division.agreed(batch)
    mine = run.division.counted(batch)
    rates = optimizer.rates(recipe, position.step / run.steps_per_epoch, run.plateau)
    run.rule.set_rates(rates)
    run.rate = rates.get("last.weight", rates["weight"])
    # One sum over the processes, on the CPU: whether to stop, and how many pictures could be read. All agree.
    run.control = world.sum(torch.tensor([*run.stop.counts(), mine]))
    everyone = max(1, int(run.control[-1]))

    images, labels, rows = _augmented(run, batch, epoch)
    key = (recipe.seed, epoch, position.step, augment.DROPOUT)

    def draw(rows: np.ndarray) -> dict[str, Tensor]:
        return augment.dropout_masks(run.model.dropouts, batch.size, rows, key, world.device)

    masks = run.division.masks(draw, rows)

    def work(images: Tensor, labels: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        return _update(run, images, labels, masks, mine, everyone)

    launch = run.captured if mine == recipe.batch_size else None  # an epoch's last batch may be smaller
    run.recent.append(launch(work, images, labels, masks) if launch else work(images, labels, masks))
    position.step += 1


def _update(run: Run, images: Tensor, labels: Tensor, masks: Mapping[str, Tensor], mine: int, everyone: int) -> Tensor:
    """Forward, backward and update with `mine` pictures of `everyone`'s: their loss, errors and number."""

    def loss_of(logits: Tensor, at: slice) -> Tensor:
        truth = labels[at]
        each = F.cross_entropy(logits, truth, reduction="none", label_smoothing=run.recipe.label_smoothing)
        if run.class_weights is not None:  # torch's own would weigh the smoothed part by all classes' weights
            each = each * run.class_weights[truth]
        # A process without pictures has one of weight zero, so that all take part.
        return each.sum() * bool(mine)

    loss, logits = run.division.learn(images, masks, loss_of, everyone)
    run.rule()
    wrong = (logits[:mine].argmax(1) != labels[:mine]).sum()
    return torch.stack([loss, wrong, torch.full_like(wrong, mine)])


def _augmented(run: Run, batch: Batch, epoch: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Crops, flips and colour noise for this process' pictures, on its device; their labels and their rows."""
    recipe, device = run.recipe, run.world.device
    pictures, labels, rows = batch.pictures, batch.labels, batch.rows
    if not len(labels):
        pictures = torch.zeros(1, *pictures.shape[1:], dtype=pictures.dtype)
        labels, rows = torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64)
    if run.probes:
        return send(pictures, device), send(labels, device), rows
    noise = recipe.colour_noise if optimizer.colour_noise_on(recipe, run.position.step / run.steps_per_epoch) else 0.0
    part = augmentations.Part(rows, batch.size, (recipe.seed, epoch, run.position.step))
    deviations, axes = run.statistics.colour_std, run.statistics.colour_axes
    drawn = augmentations.draw(recipe, part, run.preprocess, deviations, axes, noise, device)
    pictures = send(pictures, device)
    images = augmentations.augmented(pictures, recipe, part, drawn, run.precision)
    return images, send(labels, device), rows


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
        raise _diverged(run, f"the loss became {sums[bad[0], 0].item()} at step {step}")
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


def _end_epoch(run: Run, progress: Progress, pace: float) -> None:
    """Evaluate in the precision of training, note the epoch, save; the best weights are those of the lowest error.

    `pace` is the epoch's training in images/s.
    """
    position = run.position
    result = _measure(run, run.precision, quiet=True)
    if result is None:
        _stop(run, progress)
    if not math.isfinite(result.loss):  # that of the last step, before its update, was finite still
        raise _diverged(run, f"the loss on the validation pictures became {result.loss} at step {position.step}")
    loss, wrong = position.loss / max(1, position.seen), position.wrong / max(1, position.seen)
    better = result.top1_error < position.best
    position.epochs, position.best = position.epochs + 1, min(position.best, result.top1_error)
    position.learned = wrong
    position.since = 0 if better else position.since + 1
    position.loss = position.wrong = position.seen = 0.0
    run.plateau.update(result.top1_error, run.recipe.patience)
    run.metrics.add(
        "epoch", position.step, epoch=position.epochs, train_loss=loss, train_top1_error=wrong, valid_loss=result.loss,
        valid_top1_error=result.top1_error, valid_top5_error=result.top5_error, images=result.images,
        learning_rate=run.rate, images_per_second=pace,
    )  # fmt: skip
    if better or not run.probes:  # a probe's epoch takes less time than writing a whole network
        save_checkpoint(run, better)
    progress.say(
        f"epoch {position.epochs}/{run.recipe.epochs}: loss {loss:.3f}, training error {100 * wrong:.1f} %, "
        f"validation {result.words()}"
    )
    _warn_of_guessing(run, loss, progress)


def _warn_of_guessing(run: Run, loss: float, progress: Progress) -> None:
    """Say once that an epoch's training loss is that of guessing: of few classes any hard beginning is near it."""
    classes, warm = len(run.data.classes), run.position.epochs > run.recipe.warmup
    guess = math.log(classes)
    if run.warned or classes < FEW or not warm or abs(loss - guess) >= 0.01 * guess:
        return
    run.warned = True
    progress.say(
        f"the loss has stayed at ln({classes}) = {guess:.3f}, which is guessing: usually the learning_rate is too "
        "high or too low, the initial weights do not fit (biases of 1 need sigma 0.03), or the labels do not "
        "belong to the pictures"
    )


def _measure(run: Run, precision: torch.dtype, quiet: bool) -> Evaluation | None:
    """Evaluate the weights as they are; None where a signal came."""

    def stopped() -> bool:
        return run.stop.agreed(run.world.sum(torch.tensor(run.stop.counts())))

    members, batch_size = [Member(*run.evaluated)], run.recipe.batch_size
    # Whoever asks for torch.compile on a GPU may do so because a pass cannot be built there.
    whole = run.recipe.compile and run.world.device.type != "cpu"
    with fast.plain() if whole else nullcontext():
        return measure(members, [run.held_out], batch_size, run.world, autocast=precision, stopped=stopped, quiet=quiet)


def _diverged(run: Run, what: str) -> Diverged:
    """The error of a training that has come to nothing, once what was saved before is written."""
    run.saver.wait()
    saved = (run.folder / STATE).exists()
    kept = "nothing was saved after that, the last checkpoint is whole" if saved else "there is no checkpoint yet"
    return Diverged(f"{what}; {kept}: train with a lower learning_rate, or look for broken labels.")


def _stop(run: Run, progress: Progress) -> NoReturn:
    """Save where the run is and leave with the signal's exit status."""
    _log(run, progress)
    save_checkpoint(run)
    run.saver.wait()
    raise Interrupted(
        f"stopped at step {run.position.step}, saved in {run.folder}: go on with --resume", run.stop.status
    )


def _finish(run: Run, say: Say, quiet: bool) -> tuple[Evaluation, int | None]:
    """Evaluate the last weights in float32, as `alexnet evaluate` does; the epoch that `keep_best` has chosen too."""
    save_checkpoint(run)
    run.saver.wait()
    if sent := run.division.sent():
        say(sent)
    kept = keep_best(run, say) if run.recipe.stop_after else None
    result = _measure(run, torch.float32, quiet)
    if result is None:
        raise Interrupted(f"trained and saved in {run.folder}, but stopped before the last evaluation", run.stop.status)
    if not math.isfinite(result.loss):
        raise Diverged(
            f"the loss on the validation pictures is {result.loss} with the last weights, those of {run.folder} at "
            f"step {run.position.step}; train anew with a lower learning_rate, or look for broken labels."
        )
    facts = {key: value for key, value in result.facts().items() if "seconds" not in key}
    run.metrics.add("final", run.position.step, **facts)
    steps, pictures = counted(run.position.step, "step"), counted(result.images, "picture")
    say(f"{run.folder}: {steps}, validation {result.words()} on {pictures}")
    if kept is None and (told := loading.better(run.folder, {"step": run.position.step})):
        say(told)
    return result, kept
