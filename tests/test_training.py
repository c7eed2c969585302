"""The loop: it learns, it stops and goes on bit for bit, and it says what went wrong."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alexnet import evaluate, load
from alexnet.base import run_files
from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError, CannotWrite, Diverged, Interrupted
from alexnet.base.metrics import read
from alexnet.data.layouts.registry import find_data
from alexnet.reproduction.running import part
from alexnet.training import checkpoint, loop, plots
from alexnet.training import recipe as recipes
from alexnet.training.checkpoint import read_state
from alexnet.training.loop import train
from alexnet.training.recipe import resolve
from alexnet.training.restarts import open_run
from conftest import DEVICE, TINY, coloured, write_folders

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("slim")]

LAST = run_files.LAST


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / LAST)


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(monkeypatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal while the given step is computed."""
    real = loop._step

    def one_step(run, batch, epoch):
        if run.position.step + 1 == step:
            os.kill(os.getpid(), number)
        real(run, batch, epoch)

    monkeypatch.setattr(loop, "_step", one_step)


def test_no_process_waits_for_the_first_while_it_draws_the_pictures_of_the_run(folders, tmp_path, monkeypatch):
    """Which may take longer than a short timeout."""
    done: list[str] = []
    monkeypatch.setattr(plots, "save_all", lambda *given: done.append("drawn"))
    for name in ("sum", "gather", "collect", "of_first", "table", "exchange", "barrier"):
        call = getattr(World, name)
        monkeypatch.setattr(World, name, lambda *given, call=call, name=name: done.append(name) or call(*given))
    train(folders, tmp_path / "run", sets=[*TINY, "max_steps=1"])
    assert "gather" in done
    assert done[-1] == "drawn"


def test_a_run_learns_and_leaves_what_it_promises(tiny_run):
    lines = read(tiny_run / run_files.METRICS)
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert epochs[-1]["valid_top1_error"] <= 0.2
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert [line["epoch"] for line in epochs] == list(range(1, 7))
    assert lines[-1]["kind"] == "final"
    for name in (*run_files.NAMES, "curves.png", "filters.png"):
        assert (tiny_run / name).stat().st_size > 0, name
    assert resolve(str(tiny_run / run_files.RECIPE)) == resolve("author_2012", [*TINY, "epochs=6", "schedule=linear"])


def test_the_state_is_plain_data(tiny_run):
    state = torch.load(tiny_run / run_files.STATE, weights_only=True)
    assert state["step"] == 36
    assert state["classes"] == ["blue", "green", "red"]


def test_the_checkpoint_knows_size_mean_order_and_classes(tiny_run, folders):
    one = load(tiny_run)
    assert (one.preprocess.stored, one.preprocess.input, one.preprocess.order) == (32, 28, "RGB")
    assert one.classes == ["blue", "green", "red"]
    assert one.preprocess.mean.shape == (3, 32, 32)
    assert not one.model.training


@pytest.mark.parametrize(("step", "precision"), [(2, "float32"), (6, "float32"), (9, "float32"), (9, "bfloat16")])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, folders, monkeypatch, precision, step):
    sets = [*TINY, f"precision={precision}", "log_every=4"]
    train(folders, tmp_path / "whole", None, sets)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted, match=f"stopped at step {step}, saved") as caught:
            train(folders, tmp_path / "parts", None, sets)
    assert caught.value.status == 130
    train(folders, tmp_path / "parts", resume=True)
    assert equal(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (
        [line for line in read(tmp_path / name / run_files.METRICS) if line["kind"] != "step"]
        for name in ("whole", "parts")
    )
    for a, b in zip(whole, parts, strict=True):
        for key in a.keys() - {"images_per_second"}:
            assert a[key] == pytest.approx(b[key], abs=1e-9), key


def test_sigterm_saves_and_says_143(tmp_path, folders, monkeypatch):
    stop_after(monkeypatch, 3, signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        train(folders, tmp_path / "run", None, TINY)
    assert caught.value.status == 143
    assert checkpoint.read_state(tmp_path / "run" / run_files.STATE)["step"] == 3


def test_a_signal_during_evaluation_saves_the_trained_epoch(tmp_path, folders, monkeypatch):
    train(folders, tmp_path / "whole", None, TINY)
    real = loop.measure

    def measure(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure", measure)
        with pytest.raises(Interrupted, match="stopped at step 6"):
            train(folders, tmp_path / "parts", None, TINY)
    train(folders, tmp_path / "parts", resume=True)
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_metrics_after_the_checkpoint_are_cut(tmp_path, folders, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            train(folders, run, None, TINY)
    with open(run / run_files.METRICS, "a") as file:
        file.write('{"kind": "step", "step": 5, "loss": 99}\n{"kind": "st')
    train(folders, run, resume=True)
    steps = [line["step"] for line in read(run / run_files.METRICS) if line["kind"] == "step"]
    assert steps == list(range(1, 13))
    assert 99 not in [line.get("loss") for line in read(run / run_files.METRICS)]


def test_two_equal_runs_are_equal_and_another_seed_is_not(tmp_path, folders):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(folders, tmp_path / name, None, [*TINY, "max_steps=3", f"seed={seed}"])
    assert equal(tmp_path / "a", tmp_path / "b")
    assert not equal(tmp_path / "a", tmp_path / "c")


def test_max_steps_stops_within_an_epoch_and_a_resumed_run_may_go_further(tmp_path, folders):
    result = train(folders, tmp_path / "parts", None, [*TINY, "max_steps=4"])
    assert (result.steps, result.epochs) == (4, 0)
    assert 0 <= result.top1_error <= 1
    result = train(folders, tmp_path / "parts", sets=["max_steps=0"], resume=True)
    assert (result.steps, result.epochs) == (12, 2)
    train(folders, tmp_path / "whole", None, TINY)
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_resuming_a_finished_run_changes_nothing(tmp_path, folders):
    run = tmp_path / "run"
    first = train(folders, run, None, TINY)
    before = weights(run)
    again = train(folders, run, resume=True)
    assert (again.steps, again.top1_error) == (first.steps, first.top1_error)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())
    assert [line["kind"] for line in read(run / run_files.METRICS)].count("final") == 1


def test_a_folder_that_holds_a_run_is_not_touched_without_resume(tmp_path, folders, tiny_run):
    before = {p.name: p.read_bytes() for p in tiny_run.iterdir()}
    with pytest.raises(AlexNetError, match="already holds a run"):
        train(folders, tiny_run, None, TINY)
    assert before == {p.name: p.read_bytes() for p in tiny_run.iterdir()}


def test_resume_on_an_empty_folder_starts_anew_and_says_so(tmp_path, folders):
    said: list[str] = []
    train(folders, tmp_path / "run", None, [*TINY, "max_steps=1"], resume=True, say=said.append)
    assert any("holds no run yet: starting anew" in line for line in said)


def test_a_run_without_a_checkpoint_starts_anew_with_its_recorded_recipe(tmp_path, folders):
    from alexnet.training.recipe import to_toml

    run = tmp_path / "run"
    run.mkdir()
    (run / run_files.RECIPE).write_text(to_toml(resolve("author_2012", [*TINY, "max_steps=2", "seed=5"])))
    said: list[str] = []
    assert train(folders, run, resume=True, say=said.append).steps == 2
    assert any("before its first checkpoint" in line for line in said)


def test_another_recipe_on_resume_is_refused_by_key_but_free_keys_are_not(tmp_path, folders):
    run = tmp_path / "run"
    train(folders, run, None, [*TINY, "max_steps=1"])
    with pytest.raises(AlexNetError, match=r"started with learning_rate = 0.002, now learning_rate = 0.5 was given"):
        train(folders, run, sets=["learning_rate=0.5"], resume=True)
    with pytest.raises(AlexNetError, match="started with variant = alexnet32"):
        train(folders, run, "author_2012", resume=True)
    result = train(folders, run, sets=["learning_rate=0.002", "epochs=1", "workers=1", "max_steps=0"], resume=True)
    assert (result.steps, result.epochs) == (6, 1)


def test_the_recipes_name_on_resume_changes_nothing_that_was_set_when_the_run_began(tmp_path, folders):
    run, own, said = tmp_path / "run", [one for one in TINY if not one.startswith("epochs")], []
    (tmp_path / "own.toml").write_text("variant = 'alexnet32'\nepochs = 7\n")
    sets = [*own[1:], "epochs=1", "max_steps=1"]
    train(folders, run, str(tmp_path / "own.toml"), sets)
    result = train(folders, run, str(tmp_path / "own.toml"), [*own[1:], "max_steps=2"], resume=True, say=said.append)
    assert result.steps == 2
    assert resolve(str(run / run_files.RECIPE)).epochs == 1
    assert "epochs stays 1, as the run has it; --set epochs=7 changes it" in said


def test_the_papers_schedule_ends_after_its_third_drop_and_stays_ended(tmp_path, folders):
    run = tmp_path / "run"
    sets = [*TINY, "epochs=30", "learning_rate=1e-9", "patience=1"]  # nothing is learnt: every epoch is a stall
    said: list[str] = []
    result = train(folders, run, "paper_2012", sets, say=said.append)
    assert result.epochs == 5
    assert any("stalled after the third drop" in line for line in said)
    epochs = [line for line in read(run / run_files.METRICS) if line["kind"] == "epoch"]
    assert [line["learning_rate"] for line in epochs] == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11, 1e-12])
    assert train(folders, run, resume=True).epochs == 5


def test_other_data_on_resume_is_refused(tmp_path, folders):
    run = tmp_path / "run"
    train(folders, run, None, [*TINY, "max_steps=1"])
    other = write_folders(tmp_path / "other", 4)
    with pytest.raises(AlexNetError, match="trained on 48 pictures of 3 classes"):
        train(other, run, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_by_step_and_keeps_the_checkpoint(tmp_path, folders):
    run = tmp_path / "run"
    train(folders, run, None, [*TINY, "max_steps=2"])
    state = checkpoint.read_state(run / run_files.STATE)
    state["model"]["fc8.bias"].fill_(math.inf)
    checkpoint.write_state(run / run_files.STATE, state)
    kept = {name: (run / name).read_bytes() for name in (LAST, run_files.STATE)}
    with pytest.raises(AlexNetError, match=r"the loss became (nan|inf) at step 3"):
        train(folders, run, sets=["max_steps=0"], resume=True)
    assert kept == {name: (run / name).read_bytes() for name in kept}


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_speaks_of_none(tmp_path, folders):
    with pytest.raises(Diverged, match=r"at step \d+; there is no checkpoint yet: train with a lower learning_rate"):
        train(folders, tmp_path / "run", None, [*TINY, "learning_rate=1e30"])


@pytest.fixture(scope="module")
def dozen(tmp_path_factory) -> Path:
    """Twelve classes of two noisy pictures."""
    root = tmp_path_factory.mktemp("dozen")
    for n in range(12):
        (root / f"class {n}").mkdir()
        for k in range(2):
            coloured("red", 10 * n + k).save(root / f"class {n}" / f"{k}.png")
    return root


@pytest.mark.parametrize(("sets", "epochs"), [((), [1]), (("warmup=2",), [3]), (("warmup=3",), [])])
def test_a_loss_that_stays_at_guessing_says_so_once_after_the_warm_up(tmp_path, dozen, capfd, sets, epochs):
    train(dozen, tmp_path / "run", None, [*TINY, "learning_rate=1e-9", "epochs=3", *sets], quiet=False)
    lines = [line for line in capfd.readouterr().err.splitlines() if re.match("epoch |the loss has stayed at ln", line)]
    said = [number for number, line in enumerate(lines) if line.startswith("the loss has stayed at ln(12) = 2.485")]
    assert said == epochs  # each stands after its epoch's line


def test_a_loss_near_guessing_of_few_classes_says_nothing(tmp_path, folders, capfd):
    train(folders, tmp_path / "run", None, [*TINY, "learning_rate=1e-9", "epochs=1"], quiet=False)
    assert "stayed at ln" not in capfd.readouterr().err


@pytest.mark.parametrize("recipe", ["finetune", "probe"])
def test_a_recipe_for_trained_layers_is_refused_on_initial_weights(refused, folders, tmp_path, recipe):
    words = ["train", folders, "--out", tmp_path / "run", "--recipe", recipe]
    assert "use alexnet finetune MODEL DATA" in refused(*words)
    assert not (tmp_path / "run").exists()
    trained = recipes.resolve(recipe, ["rate_below=1"])  # at one rate for all layers it trains from scratch
    assert open_run(tmp_path, trained, [], False, World(0, 1, torch.device("cpu")), print) == (trained, None)


@pytest.mark.parametrize("classes", [5, 6])
def test_there_is_no_top_five_of_five_classes_or_fewer(tmp_path, dozen, capfd, classes):
    data = part(find_data(dozen), classes, 2)
    said: list[str] = []
    train(data, tmp_path / "run", None, [*TINY, "epochs=1"], say=said.append, quiet=False)
    lines = [line for line in (*said, *capfd.readouterr().err.splitlines()) if "validation error top-1" in line]
    assert len(lines) == 2
    noted = read(tmp_path / "run" / run_files.METRICS)[-2:]
    values = [noted[0]["valid_top5_error"], noted[1]["top5_error"]]
    values += [evaluate(tmp_path / "run", data, device="cpu").top5_error]
    assert all(("top-5" in line) == (classes > 5) for line in lines)
    assert all((value is not None) == (classes > 5) for value in values)


def test_unreadable_pictures_are_left_out_of_training_and_named(tmp_path, folders):
    root = write_folders(tmp_path / "data", 8)
    (root / "red" / "0.png").write_bytes(b"")
    (root / "blue" / "7.png").write_text("no picture")
    result = train(root, tmp_path / "run", None, [*TINY, "batch_size=2"])
    assert [one["file"] for one in result.failed] == ["blue/7.png", "red/0.png"]


def test_the_loss_of_a_step_is_the_mean_over_its_pictures_in_float64(tmp_path, folders):
    """The first logged loss against a forward pass written out by hand."""
    import numpy as np

    from alexnet.data import augment
    from alexnet.data.loader import epoch_order
    from alexnet.networks.model import seeded_build

    run = tmp_path / "run"
    train(folders, run, None, [*TINY, "max_steps=1", "colour_noise=0"])
    logged = read(run / run_files.METRICS)[0]["loss"]
    split, mean = find_data(folders).split("train"), load(run).preprocess.mean
    rows = epoch_order(0, 0, len(split))[:8]
    draws = augment.draw(8, 4, True, torch.zeros(3), augment.generator(0, 0, 0, augment.CROPS))
    model = seeded_build(0, "alexnet32", 3, 3, 28).double().train()
    masks = augment.dropout_masks(model.dropouts, 8, np.arange(8), (0, 0, 0, augment.DROPOUT), DEVICE)
    losses = []
    model.requires_grad_(False)
    for i, row in enumerate(rows.tolist()):
        pixels = load(run).preprocess.pixels(split.read(row)).double()
        (top, left), flip = draws.offsets[i].tolist(), bool(draws.mirror[i])
        crop = pixels[:, top : top + 28, left : left + 28]
        crop = ((crop.flip(2) if flip else crop) - mean[:, 2:30, 2:30]) / 64
        logits = model(crop[None], {name: mask[i : i + 1].cpu() for name, mask in masks.items()})[0]
        losses.append(float(torch.logsumexp(logits, 0) - logits[split.labels[row]]))
    assert logged == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_the_final_error_is_that_of_evaluate(tmp_path, folders, tiny_run):
    final = read(tiny_run / run_files.METRICS)[-1]
    result = evaluate(tiny_run, folders)
    assert (final["top1_error"], final["images"]) == (result.top1_error, result.images)
    assert json.loads(json.dumps(result.facts())) == result.facts()


def test_training_goes_on_while_a_checkpoint_is_written_as_it_was_then(folders, tmp_path, monkeypatch):
    sets, steps, real, real_step = [*TINY, "max_steps=8"], [], checkpoint.write_state, loop._step

    def slow(path, state):
        deadline = time.monotonic() + 60
        while len(steps) < 8 and time.monotonic() < deadline:  # the first epoch has six
            time.sleep(0.01)
        real(path, state)
        if state["step"] == 6:
            kept.append((len(steps), read_state(path)))

    def step(run, *given):
        real_step(run, *given)
        steps.append(run.position.step)

    kept: list[tuple[int, dict]] = []
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_state", slow)
        patch.setattr(loop, "_step", step)
        train(folders, tmp_path / "run", sets=sets, device=str(DEVICE))
    train(folders, tmp_path / "alone", sets=[*TINY, "max_steps=6"], device=str(DEVICE))
    ((made, state),) = kept
    assert made == 8
    alone = read_state(tmp_path / "alone" / run_files.STATE)
    assert all(torch.equal(x, alone["model"][name]) for name, x in state["model"].items())


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_its_sentence(folders, tmp_path, monkeypatch):
    def full(path, state):
        raise CannotWrite(path, "no space")

    monkeypatch.setattr(checkpoint, "write_state", full)
    with pytest.raises(CannotWrite, match="no space"):
        train(folders, tmp_path / "run", sets=list(TINY), device=str(DEVICE))
