"""Every key of a recipe, at a value that is not its default, changes what it should: a row a key, in EFFECTS.

Rows about length, weights, rates and schedule stand in effects_on_learning.py; what all of them see, in watched.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import effects_on_learning  # whose rows this makes
from alexnet.base.device import choose_precision
from alexnet.base.errors import AlexNetError
from alexnet.base.metrics import read
from alexnet.data.statistics import IMAGENET_AXES, IMAGENET_STD
from alexnet.networks import layers as own
from alexnet.networks import model
from alexnet.networks.variants import VARIANTS
from alexnet.training import loop, optimizer
from alexnet.training import recipe as recipes
from alexnet.training.loop import train
from alexnet.training.recipe import KEYS
from conftest import DEVICE
from narrow import narrow
from watched import CROP, EFFECTS, SIDE, SLOPES, Seen, begin, data, effect, ramp, trained, watching

pytestmark = pytest.mark.device


@pytest.fixture
def watch(tmp_path, monkeypatch) -> Callable[..., Seen]:
    """Train with BASE and some keys over it, and keep what was seen."""
    return watching(tmp_path, monkeypatch)


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


def test_a_picture_counts_as_much_as_its_class_says_smoothed_or_not(watch):
    seen = watch("class_weights=true", "label_smoothing=0.3", of=data(labels=(0, 0, 0, 0, 0, 0, 1, 1)))
    logs, labels = effects_on_learning.log_p(seen), effects_on_learning.first_labels(seen)
    each = torch.tensor([8 / (2 * 6), 8 / (2 * 2)], dtype=torch.float64)[labels]
    expected = -(each * (0.7 * logs[torch.arange(4), labels] + 0.3 * logs.mean(1))).mean()
    assert seen.of("step", "loss")[0] == pytest.approx(expected.item(), rel=1e-4)


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


@effect
def reshuffle(watch):
    anew, kept = (watch("max_steps=0", *more).orders for more in ((), ("reshuffle=false",)))
    assert kept[0] == kept[1] == anew[0] != anew[1]


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
