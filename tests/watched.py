"""A few steps of training, watched: a narrow alexnet32 on copies of one picture, a ramp, so that what came of a picture
tells where its crop was, whether it was mirrored and what was added. And the table of what a recipe's keys change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alexnet.base.metrics import read
from alexnet.data.dataset import Split
from alexnet.data.layouts.registry import Data
from alexnet.data.preprocess import Preprocess
from alexnet.networks import model
from alexnet.networks.variants import VARIANTS
from alexnet.training import loop
from alexnet.training.loop import train
from alexnet.training.run import Run
from alexnet.weights.classifier import Classifier, weights_of
from alexnet.weights.formats import write
from narrow import narrow, redraw

SIDE, CROP = 32, 28  # of alexnet32's stored pictures and of what it sees
SLOPES = torch.tensor([4.0, 3.0, 2.0])  # grey levels a column
BASE = (
    *("variant=alexnet32", "max_steps=2", "batch_size=4", "precision=float32", "log_every=1", "workers=1"),
    *("learning_rate=0.001", "crops=false", "flips=false", "colour_noise=0", "dropout=0", "momentum=0"),
    *("weight_decay=0", "schedule_epochs=2", "epochs=2", "drops=", "bias_drops=", "conv1_slow=0", "conv1_frozen=0"),
)


def ramp(width: int = SIDE, height: int = SIDE) -> Image.Image:
    columns = torch.arange(width)[:, None] * SLOPES * SIDE / width
    return Image.fromarray(columns.repeat(height, 1, 1).to(torch.uint8).numpy())


def data(picture: Image.Image | None = None, labels: tuple[int, ...] = (0, 1, 0, 1, 0, 1, 0, 1), classes=None) -> Data:
    """Eight pictures to learn from, two steps, and four held out."""
    chosen = picture or ramp()

    def split(labels: tuple[int, ...]) -> Split:
        return Split("made", np.array(labels), lambda i: chosen, lambda i: f"{i}.png")

    return Data("made", "made", classes or ["a", "b"], {"train": split(labels), "valid": split((0, 1, 0, 1))})


@dataclass
class Seen:
    """What a run did, step by step."""

    said: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)  # as the network took them
    weights: list[dict[str, Tensor]] = field(default_factory=list)  # before each step, and after the last
    rates: list[dict[str, float]] = field(default_factory=list)
    orders: list[list[int]] = field(default_factory=list)
    types: list[torch.dtype] = field(default_factory=list)  # of the logits
    saves: int = 0
    lines: list[dict] = field(default_factory=list)
    deterministic: bool = False

    @property
    def run(self) -> Run:
        return self.runs[0]

    def of(self, kind: str, key: str) -> list:
        return [line[key] for line in self.lines if line["kind"] == kind]

    def moved(self, name: str, step: int = 0) -> Tensor:
        return (self.weights[step + 1][name] - self.weights[step][name]).double()

    def pixels(self, step: int = 0) -> Tensor:
        """The first row of each picture in grey levels, before noise: (n, C, width)."""
        preprocess = self.run.preprocess
        mean = preprocess.mean if preprocess.mean.shape[-1] == 1 else preprocess.central(preprocess.mean)
        return (self.images[step].cpu() * preprocess.scale[0] + mean.cpu())[:, :, 0]


def begin(net: model.AlexNet) -> None:
    """Weights that let gradients through at this width, by torch's generator."""
    redraw(net, int(torch.randint(1 << 31, ())))


def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """What trains with BASE and some keys over it, and gives what was seen."""
    for name in ("alexnet32", "alexnet64"):
        monkeypatch.setitem(VARIANTS, name, narrow(name))
    monkeypatch.setattr(model, "initialise", begin)

    def run(*sets: str, of: Data | None = None) -> Seen:
        seen, folder = Seen(), tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        step, augmented, order, save = loop._step, loop._augmented, loop.epoch_order, loop.save_checkpoint

        def one_step(run, batch, epoch):
            if not seen.runs:
                seen.runs.append(run)
                last = run.model.get_submodule(run.model.logits)
                last.register_forward_hook(lambda layer, given, y: seen.types.append(y.dtype))
                seen.weights.append({k: w.detach().cpu().clone() for k, w in run.model.named_parameters()})
            seen.deterministic = torch.are_deterministic_algorithms_enabled()
            step(run, batch, epoch)
            seen.rates.append({group["name"]: group["lr"] for group in run.optimizer.param_groups})
            seen.weights.append({k: w.detach().cpu().clone() for k, w in run.model.named_parameters()})

        def crops(*given):
            found = augmented(*given)
            seen.images.append(found[0].detach().clone())
            return found

        def saved(*given):
            seen.saves += 1
            save(*given)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_step", one_step)
            patch.setattr(loop, "_augmented", crops)
            patch.setattr(
                loop, "epoch_order", lambda *given: seen.orders.append(order(*given).tolist()) or order(*given)
            )
            patch.setattr(loop, "save_checkpoint", saved)
            train(of or data(), folder, None, [*BASE, *sets], say=seen.said.append)
        seen.lines = read(folder / "metrics.jsonl")
        return seen

    return run


EFFECTS: dict[str, Callable] = {}


def effect(check: Callable) -> Callable:
    EFFECTS[check.__name__] = check
    return check


def near(got: Tensor, expected: Tensor, name: str = "") -> None:
    """Equal, but for how float32 rounds a weight."""
    assert expected.norm() > 1e-6, name
    assert (got - expected).norm() < 0.01 * expected.norm() + 1e-6, name


def trained(folder) -> str:
    """A file of weights of two other classes."""
    net = model.seeded_build(7, "alexnet32", 2, 3, CROP).eval()
    one = Classifier(net, Preprocess(SIDE, CROP, "RGB", (64.0,), torch.full((3, 1, 1), 90.0)), ["x", "y"])
    write(weights_of(one), folder / "model.safetensors")
    return str(folder / "model.safetensors")
