"""Top-1 and top-5 error and loss of a split: the same function in the training loop and on the command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.checkpoint import Classifier, load
from alexnet.data.layouts import Data, Split, find
from alexnet.data.loader import Pictures, batches
from alexnet.distributed import World, start
from alexnet.errors import AlexNetError
from alexnet.preprocess import Preprocess
from alexnet.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """Errors as fractions, loss in nats a picture, over `images` pictures; unreadable ones are in `failed`."""

    images: int
    top1_error: float
    top5_error: float
    loss: float
    seconds: float
    images_per_second: float
    failed: list[dict[str, str]] = field(default_factory=list)

    def facts(self) -> dict:
        """As plain data, without the list of failures."""
        facts = asdict(self)
        del facts["failed"]
        return facts


def evaluate(
    model: str | Path | Classifier,
    data: str | Path | Data,
    split: str = "valid",
    batch_size: int = 128,
    workers: int = 0,
    device: str = "auto",
    say: Callable[[str], object] = lambda text: None,
    quiet: bool = True,
) -> Evaluation:
    """Errors of a model (run folder, file of weights or loaded) on a split of DATA, one central view, in float32.

    Under torchrun each picture is still counted exactly once.
    """
    with start(device) as world:
        quiet = quiet or not world.first
        classifier = model if isinstance(model, Classifier) else load(model, world.device)
        found = data if isinstance(data, Data) else find(data)
        if world.first:
            say(found.summary())
        chosen = match_classes(found, found.split(split), classifier.classes)
        pictures = Pictures(chosen, classifier.preprocess.stored, classifier.preprocess.channels, workers)
        try:
            result = measure(classifier.model, classifier.preprocess, pictures, batch_size, world, quiet=quiet)
        finally:
            pictures.close()
    assert result is not None  # nothing asked it to stop
    return result


def match_classes(data: Data, split: Split, classes: list[str]) -> Split:
    """The split with labels in the model's order of classes; names unknown to the model are an error."""
    if data.classes == classes:
        return split
    position = {name: index for index, name in enumerate(classes)}
    used = {data.classes[i] for i in np.unique(split.labels)}
    unknown = sorted(used - position.keys())
    if unknown:
        raise AlexNetError(
            f"{data.path} has classes that the model does not know ({', '.join(unknown[:5])}"
            f"{' and more' if len(unknown) > 5 else ''}); it knows {len(classes)}, such as {', '.join(classes[:3])}: "
            "give data of those classes, or another model."
        )
    table = np.array([position.get(name, -1) for name in data.classes], np.int64)
    return Split(split.origin, table[split.labels], split.read, split.name)


@torch.no_grad()
def measure(
    model: nn.Module,
    preprocess: Preprocess,
    pictures: Pictures,
    batch_size: int,
    world: World,
    autocast: torch.dtype = torch.float32,
    stopped: Callable[[], bool] = lambda: False,
    quiet: bool = True,
) -> Evaluation | None:
    """Evaluate the readable pictures, each exactly once over all processes; None if `stopped` said so."""
    began = time.monotonic()
    training = model.training
    model.eval()
    sums: Tensor | float = 0.0  # pictures, wrong in the first place, not in the first five, loss
    positions = np.arange(len(pictures))
    try:
        with Progress("evaluating", len(pictures), quiet=quiet) as progress:
            for batch in batches(pictures, positions, batch_size, world):
                if stopped():
                    return None
                if len(batch.labels):
                    images = preprocess.central(batch.pictures.to(world.device, non_blocking=True))
                    images = preprocess.normalise(images).contiguous(memory_format=torch.channels_last)
                    labels = batch.labels.to(world.device, non_blocking=True)
                    with torch.autocast(world.device.type, autocast, enabled=autocast != torch.float32):
                        logits = model(images)
                    sums = sums + count(logits.float(), labels)
                progress.update(batch.size)
    finally:
        model.train(training)
    # A process that had no picture sums zeros.
    total = torch.zeros(4, dtype=torch.float64) + (sums.cpu() if isinstance(sums, Tensor) else sums)
    images, wrong1, wrong5, loss = world.sum(total).tolist()
    if not images:
        raise AlexNetError(f"none of the {len(pictures):,} pictures to evaluate on can be read; check them.")
    seconds = time.monotonic() - began
    failed = pictures.failures(world)
    errors = wrong1 / images, wrong5 / images, loss / images
    return Evaluation(int(images), *errors, seconds, images / seconds, failed)


def count(logits: Tensor, labels: Tensor) -> Tensor:
    """Pictures, wrong in the first place, not among the first five, summed loss: float64 (4,) on the logits' device.

    Ties go to the class that torch.topk puts first.
    """
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hit = top == labels[:, None]
    # float64 only where the device has it: Apple's GPUs do not.
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    loss = F.cross_entropy(logits, labels, reduction="none").to(wide).sum()
    right = torch.stack([hit[:, 0].sum(), hit.any(1).sum()]).to(wide)
    n = torch.full((1,), len(labels), dtype=wide, device=logits.device)
    return torch.cat([n, n - right[:1], n - right[1:], loss[None]])
