"""What a recipe's keys of length, weights, rates and schedule change: rows of test_recipe_keys.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alexnet.networks import model
from watched import CROP, Seen, data, effect, near, trained

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
