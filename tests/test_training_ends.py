"""What a run does at its edges: useless weights, a last epoch cut short, disks without locks, torch as it was."""

from __future__ import annotations

import errno
import shutil
import signal
import time
from types import SimpleNamespace

import filelock
import pytest
import torch

from alexnet.base import progress, run_files
from alexnet.base.errors import AlexNetError, Diverged
from alexnet.base.metrics import read
from alexnet.base.signals import StopRequest
from alexnet.engines.loading import load_classifier
from alexnet.training import loop
from alexnet.training.loop import train
from alexnet.training.recipe import resolve
from alexnet.training.restarts import recorded_run
from conftest import TINY


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("max_steps=1", r"is nan with the last weights, those of .* at step 1; train anew with a lower"),
        ("batch_size=64", "became nan at step 1; there is no checkpoint yet: train with a lower learning_rate"),
    ],
)
def test_a_run_whose_last_step_makes_its_weights_useless_is_no_success(tmp_path, folders, keys, said):
    """The loss of that step is finite still, and no step follows; the 48 pictures are one batch of 64."""
    with pytest.raises(Diverged, match=f"the loss on the validation pictures {said}"):
        train(folders, tmp_path / "run", None, [*TINY, "learning_rate=1e30", "warmup=0", "epochs=1", keys])
    assert "NaN" not in (tmp_path / "run" / run_files.METRICS).read_text()
    assert (tmp_path / "run" / run_files.LAST).exists() == keys.startswith("max")


@pytest.mark.usefixtures("slim")
def test_a_run_that_failed_before_its_first_checkpoint_goes_on_by_what_its_error_advises(tmp_path, folders):
    said: list[str] = []
    with pytest.raises(Diverged, match="there is no checkpoint yet: train with a lower learning_rate"):
        train(folders, tmp_path / "run", None, [*TINY, "learning_rate=1e30", "warmup=0"])
    sets = ["learning_rate=0.002", "max_steps=1"]
    assert train(folders, tmp_path / "run", sets=sets, resume=True, say=said.append).steps == 1
    assert "learning_rate is 0.002 now, and was 1e+30" in said
    with pytest.raises(AlexNetError, match="was started with learning_rate"):
        train(folders, tmp_path / "run", sets=["learning_rate=0.01"], resume=True)


@pytest.mark.usefixtures("slim")
def test_an_epoch_whose_checkpoint_was_lost_stands_once_in_the_metrics(tmp_path, folders, monkeypatch):
    """Its last step was saved before it was evaluated, as checkpoint_every has it; what it came to was not."""
    saved = loop.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", lambda run, *best: run.position.epochs or saved(run, *best))
        sets = [*TINY, "batch_size=24", "checkpoint_every=2", "max_steps=2"]
        train(folders, tmp_path / "run", None, sets)
    train(folders, tmp_path / "run", resume=True)
    lines = [(line["kind"], line["step"]) for line in read(tmp_path / "run" / run_files.METRICS)]
    assert lines == [("step", 1), ("step", 2), ("epoch", 2), ("final", 2)]


@pytest.mark.usefixtures("slim")
def test_how_far_a_run_goes_is_what_the_last_command_said_though_that_was_killed(tmp_path, folders, monkeypatch):
    train(folders, tmp_path / "run", None, [*TINY, "max_steps=1"])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", None)
        with pytest.raises(TypeError):
            train(folders, tmp_path / "run", sets=["max_steps=2"], resume=True)
    assert train(folders, tmp_path / "run", resume=True).steps == 2
    (tmp_path / "run" / run_files.RECIPE).unlink()
    assert recorded_run(tmp_path / "run")[0] == resolve("author_2012", [*TINY, "max_steps=2"])


@pytest.mark.usefixtures("slim")
def test_held_out_pictures_that_cannot_be_read_are_told_before_the_first_epoch(tmp_path, folders):
    root = shutil.copytree(folders, tmp_path / "data")
    for file in (root / "val").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(AlexNetError, match="none of 15 pictures to evaluate on can be read"):
        train(root, tmp_path / "run", None, TINY)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_steps_end_within_an_epoch_keeps_its_best_weights_where_it_stops_early(tmp_path, folders):
    said: list[str] = []
    sets = [*TINY, "stop_after=3", "max_steps=8", "batch_size=8"]
    train(folders, tmp_path / "run", None, sets, say=said.append)  # 6 steps an epoch
    best, last = (
        load_classifier(tmp_path / "run" / name).model.state_dict() for name in (run_files.BEST, run_files.LAST)
    )
    assert all(torch.equal(one, last[name]) for name, one in best.items())
    assert any("the weights are those of epoch 1" in line for line in said)


def test_the_pace_of_an_epoch_is_of_its_training_alone(tmp_path, folders, monkeypatch):
    """A clock on which evaluating takes a year."""
    late, evaluated = [0.0], loop._measure

    def measure(*given, **named):
        late[0] += 3e7
        return evaluated(*given, **named)

    monkeypatch.setattr(loop, "_measure", measure)
    for module in (loop, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0]))
    train(folders, tmp_path / "run", None, [*TINY, "epochs=3"])
    epochs = [line for line in read(tmp_path / "run" / run_files.METRICS) if line["kind"] == "epoch"]
    assert len(epochs) == 3
    assert all(48 / line["images_per_second"] < 1e6 for line in epochs)


def test_a_clock_that_moves_too_seldom_to_see_an_epoch_ends_no_run(tmp_path, folders, slim, monkeypatch):
    """Windows has moved time.monotonic every 15.6 ms, in which a probe's epoch fits."""
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    assert 0 < train(folders, tmp_path / "run", None, [*TINY, "epochs=1"]).images_per_second < 1e6
    lines = read(tmp_path / "run" / run_files.METRICS)
    assert all(line["images_per_second"] < 1e6 for line in lines if line["kind"] != "final")


def test_a_run_that_repeats_bit_for_bit_leaves_torch_as_it_was(tmp_path, folders):
    train(folders, tmp_path / "run", None, [*TINY, "max_steps=1", "deterministic=true"])
    assert not torch.are_deterministic_algorithms_enabled()


def test_handlers_of_signals_that_are_not_pythons_stay_as_they_are(monkeypatch):
    """None, as Python gives those that R or MPI has set, is nothing that it would take back."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", None)
    with StopRequest() as stop:
        assert not any(stop.counts())


def test_a_disk_without_locks_is_said_and_trained_on(tmp_path, folders, monkeypatch, caplog):
    def none(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    train(folders, tmp_path / "run", None, [*TINY, "max_steps=1"])
    train(folders, tmp_path / "run", None, resume=True)
    assert caplog.text.count("has no locks: let no other process write there meanwhile") == 2  # once a command


def test_a_crop_that_pictures_share_and_one_for_each_are_not_had_together(refused, folders, tmp_path):
    said = refused("train", folders, "--out", tmp_path / "run", "--set", "chunk=4", "--set", "crop_area=0.5")
    assert "chunk=4 shares a crop among pictures, and crop_area=0.5 draws one of its own size for each" in said
