"""Sinks get every number that metrics.jsonl has, once, also from a run that stopped and went on; none changes or ends a
run. TensorBoard's files are read back; the services are stand-ins that keep what they were told.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

from alexnet.base.errors import AlexNetError
from alexnet.base.metrics import read
from alexnet.networks import model
from alexnet.networks.variants import VARIANTS
from alexnet.training import recipe as recipes
from alexnet.training import sinks
from alexnet.training.loop import train
from narrow import narrow
from watched import BASE, begin, data

STEPS = [*BASE, "epochs=2", "max_steps=0", "checkpoint_every=1"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
    monkeypatch.setattr(model, "initialise", begin)


def numbers(folder) -> dict:
    """What a sink should have been told: kind and name with step, and value."""
    return {
        (f"{line['kind']}/{name}", line["step"]): value
        for line in read(folder / "metrics.jsonl")
        for name, value in line.items()
        if name not in ("kind", "step") and type(value) in (int, float)
    }


def on_tensorboard(folder) -> dict:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = [(tag, one) for tag in found.Tags()["scalars"] for one in found.Scalars(tag)]
    assert len({(tag, one.step) for tag, one in scalars}) == len(scalars)
    return {(tag, one.step): one.value for tag, one in scalars}


def halfway(out, *sets) -> None:
    """A run of which the state after its first epoch is kept, which then goes on from there."""
    train(data(), out, None, [*STEPS, "epochs=1", *sets])
    train(data(), out, None, [*sets, "epochs=2"], resume=True)


def test_tensorboard_has_what_metrics_jsonl_has_after_a_resume_too(tmp_path):
    halfway(tmp_path, "sinks=tensorboard")
    wanted = numbers(tmp_path)
    got = on_tensorboard(tmp_path)
    assert {key for key in got if not key[0].startswith("final")} >= {k for k in wanted if not k[0].startswith("final")}
    assert all(got[key] == pytest.approx(value, rel=1e-5) for key, value in wanted.items())


class Told:
    """A stand-in for both services: what it was told, and under which names."""

    def __init__(self):
        self.lines, self.names, self.ended = {}, [], 0

    def take(self, facts, step):
        self.lines |= {(name, step): value for name, value in facts.items()}

    def init(self, id, resume, name, dir, config):
        self.names.append(id)
        return SimpleNamespace(log=lambda facts, step: self.take(facts, step), finish=self.end_run)

    def start_run(self, run_id, run_name):
        self.names.append(run_id or "made")
        return SimpleNamespace(info=SimpleNamespace(run_id="made"))

    def log_params(self, recipe):
        self.recipe = recipe

    def log_metrics(self, facts, step):
        self.take(facts, step)

    def end_run(self):
        self.ended += 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_gets_every_number_under_one_name_and_is_closed(name, tmp_path, monkeypatch):
    told = Told()
    monkeypatch.setitem(sys.modules, name, told)
    told.__spec__ = None
    halfway(tmp_path, f"sinks={name}")
    assert numbers(tmp_path).items() <= {k: pytest.approx(v, rel=1e-5) for k, v in told.lines.items()}.items()
    assert told.names[0] == told.names[1]
    assert told.ended == 2


def test_a_sink_changes_no_weight_and_may_come_on_resume_and_one_that_fails_ends_no_run(tmp_path, monkeypatch):
    class Broken(Told):
        def log_metrics(self, facts, step):
            raise ConnectionError("the line is down")

    told, said = Broken(), []
    told.__spec__ = None
    monkeypatch.setitem(sys.modules, "mlflow", told)
    halfway(tmp_path / "plain")
    train(data(), tmp_path / "with", None, [*STEPS, "epochs=1"])
    train(data(), tmp_path / "with", None, ["sinks=mlflow", "epochs=2"], resume=True, say=said.append)
    plain, other = (load_file(tmp_path / run / "model.safetensors") for run in ("plain", "with"))
    assert all((plain[key] == other[key]).all() for key in plain)
    lines = [line for line in said if "figures" in line]
    assert lines == ["mlflow gets no more of this run's figures (the line is down); metrics.jsonl has them all"]


def test_what_is_not_installed_or_unknown_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AlexNetError, match="which is not installed: pip install tensorboard, or leave it out"):
        train(data(), tmp_path / "run", None, [*STEPS, "sinks=tensorboard"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(AlexNetError, match="given 'tensorbord', which is none of them; did you mean 'tensorboard'"):
        recipes.resolve("digits", ["sinks=tensorbord"])
