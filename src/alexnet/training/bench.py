"""`alexnet bench`: how fast this machine trains, what limits it, and how far that is from what its arithmetic allows.

Everything is measured on the training loop's own functions with made-up pictures: the step with a batch at hand, the
loader alone, and both together.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet.base.device import repeatable, tf32
from alexnet.base.distributed import process_group
from alexnet.base.progress import Say
from alexnet.data.dataset import Data, Split
from alexnet.data.loader import Batch, batches
from alexnet.networks.shapes import layer_facts
from alexnet.training import loop
from alexnet.training import recipe as recipes
from alexnet.training.restarts import RunLock
from alexnet.training.run import Run, prepare, try_forms

CLASSES = 1000
PHOTOGRAPH = (500, 375)  # pixels, the commonest size in ImageNet
IMAGENET_IMAGES = 1_281_167
WARM, STEPS = 2, 5  # steps before and while the clock runs


@dataclass(frozen=True)
class Rate:
    images_per_second: float


@dataclass(frozen=True)
class Bench:
    """Rates of the step, of the loader and of both together; the floor is the rate that arithmetic or memory allows."""

    variant: str
    device: str
    precision: str
    batch_size: int
    step: Rate
    loader: Rate
    both: Rate
    limit: str  # step or loader, the slower one
    floor_images_per_second: float
    fraction_of_floor: float  # that the step reaches
    imagenet_90_epochs_hours: float

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def bench(sets: Iterable[str] = (), device: str | torch.device = "auto", say: Say = lambda text: None) -> Bench:
    """Measure training of the default recipe with `sets` (key=value) over it; a minute on two cores."""
    with prepared(sets, device, say) as run:
        batch = one_batch(run)
        step = seconds(lambda: train_step(run, batch), run.world.device)
        count = STEPS if step < 4 else 2
        loader = seconds_a_batch(run, count + WARM, lambda batch: None)
        both = seconds_a_batch(run, count + WARM, lambda batch: train_step(run, batch))
        rates = [run.recipe.batch_size / taken for taken in (step, loader, both)]
        floor = floor_rate(run)
        precision, limit = str(run.precision)[6:], "step" if rates[0] <= rates[1] else "loader"
        hours = 90 * IMAGENET_IMAGES / rates[2] / 3600
        return Bench(
            run.recipe.variant, run.world.device.type, precision, run.recipe.batch_size, Rate(rates[0]),
            Rate(rates[1]), Rate(rates[2]), limit, floor, rates[0] / floor, hours,
        )  # fmt: skip


@contextmanager
def prepared(
    sets: Iterable[str] = (), device: str | torch.device = "auto", say: Say = lambda text: None, pictures: int = 0,
    data: Path | None = None,
) -> Iterator[Run]:  # fmt: skip
    """The default recipe's run on DATA or made-up pictures, four batches of them unless said, in a passing folder."""
    recipe = recipes.resolve(sets=["log_every=1000000", *sets])
    with process_group(device) as world, tempfile.TemporaryDirectory() as folder:
        found = data or made_up_data(pictures or 4 * recipe.batch_size, recipe.channels)
        with tf32(recipe.precision == "tf32"), repeatable(recipe.deterministic):
            run = prepare(Path(folder), recipe, None, found, world, say, True, RunLock(Path(folder)))
            run.pictures.kept = None  # as with a data set that does not fit into memory: each picture is decoded
            try:
                try_forms(run, say)
                yield run
            finally:
                run.pictures.close()
                run.held_out.close()


def bench_table(result: Bench) -> str:
    """The figures for people."""
    step, loader, both = (x.images_per_second for x in (result.step, result.loader, result.both))
    slow, fast = sorted((step, loader))
    return "\n".join(
        [
            f"{result.variant} on {result.device} in {result.precision}, batches of {result.batch_size}",
            f"  step    {step:10,.0f} images/s   augmentation, forward, backward, update",
            f"  loader  {loader:10,.0f} images/s   made-up photographs, decoded and resized",
            f"  both    {both:10,.0f} images/s",
            f"the {result.limit} is the limit: the other is {fast / slow:.1f} times as fast",
            f"floor {result.floor_images_per_second:,.0f} images/s by this machine's products and copies; the step "
            f"reaches {100 * result.fraction_of_floor:.0f} % of it",
            f"90 epochs of ImageNet at this rate: {result.imagenet_90_epochs_hours:,.1f} hours",
        ]
    )


def made_up_data(count: int, channels: int, size: tuple[int, int] = PHOTOGRAPH, distinct: int = 64) -> Data:
    """`count` labelled JPEGs of about a photograph's size in bytes, `distinct` of them different."""
    source = np.random.default_rng(2012)

    def photograph() -> bytes:
        coarse = Image.fromarray(source.integers(0, 256, (24, 32, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = source.normal(0, 6, (size[1], size[0], 3))
        picture = Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        (picture if channels == 3 else picture.convert("L")).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    files = [photograph() for _ in range(min(count, distinct))]

    def split(count: int) -> Split:
        labels = source.integers(0, CLASSES, count)
        return Split("made up", labels, lambda i: files[i % len(files)], lambda i: f"{i}.jpg")

    splits = {"train": split(count), "valid": split(1)}
    return Data("made-up photographs", f"{size[0]} x {size[1]} JPEG", [str(i) for i in range(CLASSES)], splits)


def _batches(run: Run, start: int, end: int) -> Iterable[Batch]:
    size = run.recipe.batch_size
    positions = np.arange(end * size) % len(run.pictures)
    return batches(run.pictures, positions, size, run.world, start, end)


def one_batch(run: Run) -> Batch:
    """The first batch, ready in memory."""
    return next(iter(_batches(run, 0, 1)))


def train_step(run: Run, batch: Batch) -> None:
    """One step of the training loop."""
    loop._step(run, batch, 0)
    run.recent.clear()


def seconds_a_batch(run: Run, count: int, work: Callable[[Batch], object]) -> float:
    """Seconds a batch of the loader, with work done on each; those before WARM are left out."""
    began = 0.0
    for number, batch in enumerate(_batches(run, 0, count)):
        if number == WARM:
            synchronise(run.world.device)
            began = time.perf_counter()
        work(batch)
    synchronise(run.world.device)
    return (time.perf_counter() - began) / (count - WARM)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of several, after a warm-up."""
    taken = []
    for number in range(WARM + STEPS):
        began = time.perf_counter()
        work()
        synchronise(device)
        if number >= WARM:
            taken.append(time.perf_counter() - began)
        if sum(taken) > 12 and len(taken) >= 2:
            break
    return statistics.median(taken)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def floor_rate(run: Run) -> float:
    """Images/s if the step were nothing but its products, or nothing but its fewest copies, at this machine's rates.

    The slower of the two: operations over the rate of a square product, bytes over the rate of a large copy.
    """
    operations, fewest_bytes = work_of_a_step(run)
    device, size = run.world.device, 8192 if run.world.device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device, dtype=run.precision) for _ in range(2))
    product = seconds(lambda: torch.mm(one, other), device) / (2 * size**3)
    here = torch.empty(1 << 26, device=device)
    there = torch.empty_like(here)
    copy = seconds(lambda: there.copy_(here), device) / (2 * 4 * here.numel())
    return run.recipe.batch_size / max(operations * product, fewest_bytes * copy)


def work_of_a_step(run: Run) -> tuple[int, int]:
    """Operations of a step's products (two a multiply-add), and the fewest bytes that it must read and write.

    Each layer with weights multiplies three times, the first twice: its input needs no gradient. What goes into it
    and what comes out is moved five times: made, read by the next, read again backward, its gradient made and read.
    """
    model, batch, width = run.model, run.recipe.batch_size, run.precision.itemsize
    rows = layer_facts(model.variant, model.classes, model.channels, model.input)
    operations = moved = parameters = 0
    before = model.channels * model.input**2
    for number, row in enumerate(rows):
        size = int(np.prod(row.output))
        if row.macs:
            operations += 2 * row.macs * (3 if operations else 2)
            moved += 5 * (before * (number > 0) + size) + (2 * before if number == 0 else 0)
        parameters += row.parameters
        before = size
    # Weights: read twice and their gradient made and read in the step's precision; they and momentum updated.
    return batch * operations, batch * moved * width + parameters * (4 * width + 4 * 4)
