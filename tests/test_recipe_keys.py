"""Every key of a recipe, at a value that is not its default, changes what it should: a row a key, in EFFECTS.

A row trains a few steps of a narrow alexnet32 on copies of one picture, a ramp, so that what came of a picture tells
where its crop was, whether it was mirrored and what was added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alexnet.base.device import choose_precision
from alexnet.base.errors import AlexNetError
from alexnet.base.metrics import read
from alexnet.data.dataset import Split
from alexnet.data.layouts.registry import Data
from alexnet.data.preprocess import Preprocess
from alexnet.data.statistics import IMAGENET_AXES, IMAGENET_STD
from alexnet.networks import layers as own
from alexnet.networks import model
from alexnet.networks.variants import VARIANTS
from alexnet.training import loop, optimizer
from alexnet.training import recipe as recipes
from alexnet.training.loop import train
from alexnet.training.recipe import KEYS
from alexnet.training.run import Run
from alexnet.weights.classifier import Classifier, weights_of
from alexnet.weights.formats import write
from conftest import DEVICE
from narrow import narrow, redraw

pytestmark = pytest.mark.device

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


@pytest.fixture
def watch(tmp_path, monkeypatch) -> Callable[..., Seen]:
    """Train with BASE and some keys over it, and keep what was seen."""
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


@pytest.mark.parametrize("key", KEYS)
def test_every_key_changes_what_it_should(key, watch, tmp_path, monkeypatch):
    assert key in EFFECTS, f"there is no row for the key {key}; write what it changes"
    given = {"watch": watch, "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    check = EFFECTS[key]
    check(**{name: given[name] for name in check.__code__.co_varnames[: check.__code__.co_argcount]})


def test_there_is_a_row_for_no_other_key():
    assert set(EFFECTS) == set(KEYS)


# -- the network and its pictures --------------------------------------------------------------------------------------


@effect
def variant(watch):
    assert (watch().run.model.conv1.stride, watch("variant=alexnet64").run.model.conv1.stride) == ((1, 1), (2, 2))


@effect
def adapt(watch):
    usual, adapted = watch().run, watch("input=20", "adapt=true").run
    assert (adapted.model.input, adapted.preprocess.stored) == (20, round(20 * SIDE / CROP))
    assert (usual.model.fc6.in_features, adapted.model.fc6.in_features) == (3 * 3 * 16, 2 * 2 * 16)


@effect
def channels(watch):
    seen = watch("channels=1")
    assert (seen.images[0].shape[1], seen.run.preprocess.order) == (1, "L")


@effect
def stored(watch):
    seen = watch("stored=44")
    slope = seen.pixels().diff(dim=2)[0].mean(1)
    assert torch.allclose(slope, SLOPES * 32 / 44, rtol=0.03)  # the same ramp over more columns


@effect
def input(watch):
    assert watch("input=24").images[0].shape == (4, 3, 24, 24)


@effect
def square(watch):
    wide = data(ramp(2 * SIDE))
    cut, whole = (watch(f"square={way}", of=wide).pixels()[0, 0] for way in ("crop", "squash"))
    assert float(cut[-1] - cut[0]) == pytest.approx(4 * (CROP - 1) / 2, abs=2)
    assert float(whole[-1] - whole[0]) == pytest.approx(4 * (CROP - 1), abs=3)


@effect
def valid(watch):
    seen = watch("valid=0.25")
    assert (len(seen.run.pictures), len(seen.run.held_out)) == (6, 2)


@effect
def folds(watch):
    seen = watch("folds=2")
    assert (len(seen.run.pictures), len(seen.run.held_out)) == (4, 4)


@effect
def fold(watch):
    held = []
    for number in (1, 2):
        split = watch("folds=2", f"fold={number}").run.held_out.split
        held.append({split.name(i) for i in range(len(split))})
    assert held[0] != held[1]


@effect
def activation(watch):
    kinds = [type(layer) for layer in watch("activation=tanh").run.model.children()]
    assert torch.nn.Tanh in kinds
    assert torch.nn.ReLU not in kinds


@effect
def ties(watch):
    kinds = [type(layer) for layer in watch("ties=all").run.model.children()]
    assert own.AllTiesMaxPool2d in kinds
    assert torch.nn.MaxPool2d not in kinds


@effect
def dropout(watch):
    seen = watch("dropout=0.25")
    assert [rate for _, rate in seen.run.model.dropouts.values()] == [0.25, 0.25]
    assert watch().of("step", "loss")[0] != pytest.approx(seen.of("step", "loss")[0], rel=1e-4)


# -- how long ----------------------------------------------------------------------------------------------------------


@effect
def epochs(watch):
    assert watch("epochs=3", "max_steps=0").of("epoch", "epoch") == [1, 2, 3]


@effect
def max_steps(watch):
    assert [watch(f"max_steps={n}").of("step", "step") for n in (1, 3)] == [[1], [1, 2, 3]]


@effect
def batch_size(watch):
    seen = watch("batch_size=3", "max_steps=3")
    assert [len(images) for images in seen.images] == [3, 3, 2]


@effect
def stop_after(watch):
    assert watch("learning_rate=0", "epochs=9", "max_steps=0", "stop_after=2").of("epoch", "epoch") == [1, 2, 3]


@effect
def stop_error(watch):
    runs = [watch("learning_rate=0", "max_steps=0", "epochs=3", *more) for more in ((), ("stop_error=0.9",))]
    assert [seen.of("epoch", "epoch") for seen in runs] == [[1, 2, 3], [1]]
    assert runs[1].of("epoch", "train_top1_error") == [0.5]


@effect
def checkpoint_every(watch):
    assert watch("checkpoint_every=1", "max_steps=2").saves - watch("max_steps=2").saves == 2


@effect
def log_every(watch):
    assert watch("log_every=2", "max_steps=4").of("step", "step") == [2, 4]


# -- where it begins and how it moves ----------------------------------------------------------------------------------


@effect
def seed(watch):
    one, other = watch(), watch("seed=1")
    assert one.orders[0] != other.orders[0]
    expected = model.seeded_build(1, "alexnet32", 2, 3, CROP).conv3.weight.detach()
    assert torch.equal(other.weights[0]["conv3.weight"], expected)


def near(got: Tensor, expected: Tensor, name: str = "") -> None:
    """Equal, but for how float32 rounds a weight."""
    assert expected.norm() > 1e-6, name
    assert (got - expected).norm() < 0.01 * expected.norm() + 1e-6, name


@effect
def learning_rate(watch):
    one, other = watch(), watch("learning_rate=0.003")
    for name in ("conv2.weight", "fc8.bias"):
        near(other.moved(name), 3 * one.moved(name), name)


@effect
def bias_rate(watch):
    one, other = watch(), watch("bias_rate=6")
    near(other.moved("fc8.bias"), 3 * one.moved("fc8.bias"))
    near(other.moved("fc8.weight"), one.moved("fc8.weight"))


@effect
def momentum(watch):
    one, other = watch(), watch("momentum=0.5")
    for name in ("conv3.weight", "fc8.weight", "fc8.bias"):
        near(other.moved(name, 1) - one.moved(name, 1), 0.5 * one.moved(name), name)


@effect
def weight_decay(watch):
    one, other = watch(), watch("weight_decay=2")
    near(other.moved("fc6.weight") - one.moved("fc6.weight"), -0.002 * one.weights[0]["fc6.weight"].double())
    near(other.moved("fc6.bias"), one.moved("fc6.bias"))


@effect
def bias_decay(watch):
    one, other = watch("weight_decay=2"), watch("weight_decay=2", "bias_decay=true")
    near(other.moved("fc6.bias") - one.moved("fc6.bias"), -0.004 * one.weights[0]["fc6.bias"].double())
    near(other.moved("fc6.weight"), one.moved("fc6.weight"))


def log_p(seen: Seen) -> Tensor:
    """Log probabilities of the first step's pictures in float64."""
    net = model.seeded_build(0, "alexnet32", 2, 3, CROP, {"dropout": 0.0}).double()
    with torch.no_grad():
        return net(seen.images[0].cpu().double()).log_softmax(1)


def first_labels(seen: Seen) -> Tensor:
    return torch.from_numpy(seen.run.pictures.split.labels[seen.orders[0][:4]])


@effect
def label_smoothing(watch):
    seen = watch("label_smoothing=0.3")
    logs, rows = log_p(seen), torch.arange(4)
    expected = -(0.7 * logs[rows, first_labels(seen)] + 0.3 * logs.mean(1)).mean()
    assert seen.of("step", "loss")[0] == pytest.approx(expected.item(), rel=1e-4)
    assert watch().of("step", "loss")[0] != pytest.approx(expected.item(), rel=1e-2)


@effect
def class_weights(watch):
    seen = watch("class_weights=true", of=data(labels=(0, 0, 0, 0, 0, 0, 1, 1)))
    labels = first_labels(seen)
    each = torch.tensor([8 / (2 * 6), 8 / (2 * 2)], dtype=torch.float64)[labels]
    expected = -(each * log_p(seen)[torch.arange(4), labels]).mean()
    assert seen.of("step", "loss")[0] == pytest.approx(expected.item(), rel=1e-4)


def trained(folder) -> str:
    """A file of weights of two other classes."""
    net = model.seeded_build(7, "alexnet32", 2, 3, CROP).eval()
    one = Classifier(net, Preprocess(SIDE, CROP, "RGB", (64.0,), torch.full((3, 1, 1), 90.0)), ["x", "y"])
    write(weights_of(one), folder / "model.safetensors")
    return str(folder / "model.safetensors")


@effect
def weights(watch, tmp_path):
    file = trained(tmp_path)
    seen = watch(f"weights={file}")
    old = model.seeded_build(7, "alexnet32", 2, 3, CROP).state_dict()
    assert torch.equal(seen.weights[0]["fc7.weight"], old["fc7.weight"])
    assert not torch.equal(seen.weights[0]["fc8.weight"], old["fc8.weight"])


@effect
def rate_below(watch, tmp_path):
    file = trained(tmp_path)
    one, other = watch(f"weights={file}"), watch(f"weights={file}", "rate_below=0.25")
    near(other.moved("fc7.weight"), 0.25 * one.moved("fc7.weight"))
    near(other.moved("fc8.weight"), one.moved("fc8.weight"))


# -- the schedule: the rates that the optimiser had at each of the steps, two an epoch ---------------------------------


def history(watch, *sets: str, group: str = "weight", epochs: int = 2) -> list[float]:
    """The group's rates / the rate at the start."""
    seen = watch("max_steps=0", f"epochs={epochs}", f"schedule_epochs={epochs}", *sets)
    at_start = 0.001 * (2 if group.endswith("bias") else 1)
    return [rates[group] / at_start for rates in seen.rates]


@effect
def schedule(watch):
    assert history(watch, "schedule=linear") == pytest.approx([1, 0.75, 0.5, 0.25])
    cosine = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert history(watch, "schedule=cosine") == pytest.approx(cosine)


@effect
def warmup(watch):
    assert history(watch, "warmup=2") == pytest.approx([0, 0.25, 0.5, 0.75], abs=1e-6)


@effect
def schedule_epochs(watch):
    seen = watch("max_steps=0", "epochs=2", "schedule_epochs=4", "drops=2")
    assert [rates["weight"] for rates in seen.rates] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


@effect
def drops(watch):
    assert history(watch, "drops=0.5,1.5") == pytest.approx([1, 0.1, 0.1, 0.01])
    assert history(watch, "drops=0.5,1.5", group="bias") == pytest.approx([1, 1, 1, 1])


@effect
def drop_factor(watch):
    assert history(watch, "drops=1", "drop_factor=0.25") == pytest.approx([1, 1, 0.25, 0.25])


@effect
def bias_drops(watch):
    assert history(watch, "bias_drops=1", group="bias") == pytest.approx([1, 1, 0.1, 0.1])
    assert history(watch, "bias_drops=1") == pytest.approx([1, 1, 1, 1])


@effect
def conv1_slow(watch):
    assert history(watch, "conv1_slow=1", group="conv1.weight") == pytest.approx([1, 1, 0.1, 0.1])
    assert history(watch, "conv1_slow=1", group="conv1.bias") == pytest.approx([1, 1, 1, 1])


@effect
def conv1_frozen(watch):
    seen = watch("max_steps=0", "conv1_frozen=1", "momentum=0.9", "crops=true")
    assert seen.moved("conv1.weight", 1).any()
    for step in (2, 3):
        assert not seen.moved("conv1.weight", step).any()
        assert not seen.moved("conv1.bias", step).any()
        assert seen.moved("conv2.weight", step).any()


@effect
def patience(watch):
    sets = "schedule=plateau", "learning_rate=1e-9"  # nothing is learnt: each epoch after the first is a stall
    falls = {n: watch("max_steps=0", "epochs=4", *sets, f"patience={n}").of("epoch", "learning_rate") for n in (1, 2)}
    assert falls[1] == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11])
    assert falls[2] == pytest.approx([1e-9, 1e-9, 1e-9, 1e-10])


# -- augmentation ------------------------------------------------------------------------------------------------------


def starts(pixels: Tensor) -> list[int]:
    """The first column of each picture's crop; the ramp is 4 a column in red."""
    return (pixels[:, 0].amin(1) / SLOPES[0]).round().int().tolist()


@effect
def crops(watch):
    assert starts(watch().pixels()) == [2] * 4
    seen = watch("crops=true", "batch_size=8")
    assert len(set(starts(seen.pixels()))) > 1
    assert set(starts(seen.pixels())) <= set(range(SIDE - CROP + 1))


@effect
def crop_area(watch):
    seen = watch("crops=true", "crop_area=0.3", "batch_size=8", "max_steps=1")
    widths = seen.pixels()[:, 0, 4:-4].diff(dim=1).mean(1) / SLOPES[0] * CROP  # of the box that became the crop
    assert widths.max() - widths.min() > 2
    assert (widths >= (0.3 * 0.75) ** 0.5 * SIDE - 2).all()
    assert (widths <= SIDE + 1).all()


@effect
def chunk(watch):
    sets = "crops=true", "flips=true", "batch_size=8", "max_steps=1"
    alone, together = (watch(*sets, *more).pixels() for more in ((), ("chunk=4",)))
    assert all(len(together[first : first + 4].unique(dim=0)) == 1 for first in (0, 4))
    assert len(alone[:4].unique(dim=0)) > 1


@effect
def flips(watch):
    rising = watch("flips=true", "batch_size=8", "max_steps=1").pixels()[:, 0].diff(dim=1).mean(1) > 0
    assert 0 < int(rising.sum()) < 8
    assert (watch().pixels()[:, 0].diff(dim=1) > 0).all()


@effect
def augment(watch):
    plain, seen = watch(), watch("augment=gray=1, erase=1")
    assert (seen.pixels()[:, 0] == seen.pixels()[:, 1]).all()
    assert (plain.pixels()[:, 0] != plain.pixels()[:, 1]).any()
    assert ((seen.images[0] == 0).all(1).flatten(1).sum(1) > 0).all()  # a square of the mean
    with pytest.raises(AlexNetError, match="given 'grey', which is none of its steps; did you mean 'gray'"):
        watch("augment=grey")


def shifts(seen: Seen, step: int = 0) -> Tensor:
    """What was added to each picture's colours: (n, 3)."""
    plain = SLOPES[:, None] * (torch.arange(CROP) + 2)
    return (seen.pixels(step) - plain).double().mean(2)


@effect
def colour_noise(watch):
    assert shifts(watch()).abs().max() < 1
    seen = watch("batch_size=8", "max_steps=1", "colour_noise=0.5")
    found = seen.run.statistics
    axis = found.colour_axes[int(found.colour_std.argmax())].double().cpu()  # the one that a ramp has
    added = 1.5 * shifts(seen)
    assert (added - (added @ axis)[:, None] * axis).abs().max() < 2
    assert 0.3 < (added @ axis).std() / (0.5 * found.colour_std.max().item()) < 2


@effect
def colour_noise_off(watch):
    seen = watch("max_steps=0", "colour_noise=0.5", "colour_noise_off=1")
    spread = [float(shifts(seen, step).std(0).max()) for step in range(4)]
    assert min(spread[:2]) > 1 > 1e-3 > max(spread[2:])


def test_imagenets_own_colours_are_used_for_its_classes(watch):
    from alexnet.data import labels

    seen = watch(of=data(classes=labels.names(1000)))
    assert seen.run.statistics.colour_std.tolist() == pytest.approx(list(IMAGENET_STD))
    assert torch.allclose(seen.run.statistics.colour_axes, torch.tensor(IMAGENET_AXES))


# -- how it is computed ------------------------------------------------------------------------------------------------


@effect
def precision(watch):
    assert watch("precision=bfloat16").types[:2] == [torch.bfloat16] * 2
    assert watch().types[:2] == [torch.float32] * 2
    assert watch("precision=auto").types[:2] == [choose_precision(DEVICE)[0]] * 2


@effect
def lars(watch):
    seen = watch("lars=0.1")
    rate = seen.rates[0]["weight"]
    for name in ("conv2.weight", "fc7.weight"):
        share = float(seen.moved(name).norm() / seen.weights[0][name].double().norm())
        assert share == pytest.approx(0.1 * rate, rel=1e-4), name
    assert torch.equal(seen.moved("fc8.bias"), watch().moved("fc8.bias"))


@effect
def parallel(watch):
    """With one process it is said that nothing is divided; test_parallel_runs.py has several."""
    for way in ("towers", "hybrid"):
        assert f"parallel={way}: one process alone has the whole network" in watch(f"parallel={way}").said


@effect
def compile(watch, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda net: compiled.append(net) or net)
    seen = watch("compile=true")
    assert compiled == [seen.run.model]
    assert "layers: plain, fused by torch.compile, as asked" in seen.said


@effect
def deterministic(watch):
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(False)
        assert not watch().deterministic
        assert watch("deterministic=true").deterministic
    finally:
        torch.use_deterministic_algorithms(before)


@effect
def workers(watch):
    assert watch("workers=3").run.pictures.workers == 3


@effect
def timeout(watch, monkeypatch):
    waits, start = [], loop.process_group
    monkeypatch.setattr(loop, "process_group", lambda device, seconds: waits.append(seconds) or start(device, seconds))
    watch()
    watch("timeout=7.5")
    assert waits == [600.0, 7.5]


@effect
def sinks(watch, monkeypatch):
    from alexnet.training import sinks

    given = []
    listed = sinks.SinkEntry(lambda *given: None, "", "json", "")
    monkeypatch.setitem(sinks.SINKS, "mine", listed)
    monkeypatch.setattr(sinks, "Guarded", lambda name, *rest: given.append(name) or Silent())
    watch("sinks=mine")
    assert given == ["mine"]


class Silent:
    def add(self, *given) -> None: ...
    def close(self) -> None: ...


@effect
def neighbours(watch):
    assert sorted(watch("neighbours=4").orders[0]) == list(range(8))
    assert watch("neighbours=4").orders[0] != watch().orders[0]


def test_a_recipe_has_no_key_without_a_meaning():
    assert set(KEYS) == set(recipes.Recipe.__dataclass_fields__)
    assert all(key.meaning for key in KEYS.values())


@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_takes_two_steps(name, tmp_path, monkeypatch):
    for each in VARIANTS:
        monkeypatch.setitem(VARIANTS, each, narrow(each))
    sets = ["batch_size=4", "max_steps=2", "log_every=1", "workers=1"]
    recipe = recipes.resolve(name)
    if recipe.rate_below != 1:
        monkeypatch.setattr(model, "initialise", begin)
        sets += [f"weights={trained(tmp_path)}", "variant=alexnet32"]
    result = train(data(), tmp_path / "run", name, sets)
    losses = [line["loss"] for line in read(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "step"]
    assert (result.steps, len(losses)) == (2, 2)
    assert np.isfinite(losses).all()
    assert optimizer.rates(recipe, 0.0, optimizer.Plateau())
