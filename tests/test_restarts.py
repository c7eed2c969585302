"""Runs whose processes torchrun starts again: whose folder it is, what is said, and the same end after any kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.base.metrics import read
from alexnet.base.run_files import BEST, LAST, METRICS, RECIPE, STATE
from alexnet.training import checkpoint, loop
from alexnet.training import run as run_
from alexnet.training.checkpoint import read_state
from alexnet.training.loop import train
from alexnet.training.restarts import LOCK, WRITER
from conftest import write_folders
from elastic import children
from launched import ENVIRONMENT, SETS, losses, wait_for_step, with_sets
from together import group

pytestmark = pytest.mark.cpu


class Killed(BaseException):
    """What ends a process without asking it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folders(tmp_path_factory.mktemp("restarts") / "data", 8)


@pytest.mark.parametrize("cut", ["state.pt", "best.safetensors", "model.safetensors"])
def test_a_run_killed_while_it_writes_its_first_checkpoint_goes_on_to_the_same_end(tmp_path, data, monkeypatch, cut):
    """At the end of an epoch, when there are best weights too; `cut` is the file before which it is killed."""
    sets = ["variant=alexnet32", "batch_size=8", "epochs=2", "colour_noise=0"]
    train(data, tmp_path / "whole", None, sets, device="cpu")

    def killed(write):
        def one(path, *given):
            if path.name == cut:
                raise Killed
            write(path, *given)

        return one

    with monkeypatch.context() as patch:
        patch.setattr(run_, "write_bytes", killed(run_.write_bytes))
        patch.setattr(checkpoint, "write_state", killed(checkpoint.write_state))
        with pytest.raises(Killed):
            train(data, tmp_path / "run", None, sets, device="cpu")
    assert not (tmp_path / "run" / cut).exists()
    train(data, tmp_path / "run", resume=True, device="cpu")
    for name in (LAST, BEST):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_best_weights_are_those_of_a_state_that_a_kill_kept_them_from_following(tmp_path, data, slim, monkeypatch):
    """Three steps an epoch, each better than the one before; the second one's checkpoint is cut before its weights."""
    sets = ["variant=alexnet32", "batch_size=8", "epochs=2", "colour_noise=0"]
    measured = loop._measure

    def falling(run, *given, **named):
        return replace(measured(run, *given, **named), top1_error=1 / (2 + run.position.epochs))

    def killed(path, contents):
        if path.name == BEST and path.exists():
            raise Killed
        path.write_bytes(contents)

    monkeypatch.setattr(loop, "_measure", falling)
    train(data, tmp_path / "whole", None, sets, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(run_, "write_bytes", killed)
        with pytest.raises(Killed):
            train(data, tmp_path / "run", None, sets, device="cpu")
    assert read_state(tmp_path / "run" / STATE)["step"] == 6
    train(data, tmp_path / "run", resume=True, device="cpu")
    for name in (LAST, BEST):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_best_weights_stay_where_the_last_ones_were_moved_away(tmp_path, data, slim):
    run, sets = tmp_path / "run", ["variant=alexnet32", "batch_size=8", "colour_noise=0"]  # three steps an epoch
    train(data, run, None, [*sets, "max_steps=4"], device="cpu")
    before = (run / BEST).read_bytes()
    (run / LAST).unlink()
    train(data, run, resume=True, device="cpu")
    assert (run / LAST).exists()
    assert (run / BEST).read_bytes() == before


@pytest.mark.parametrize("kept", [LAST, BEST])
def test_weights_without_a_state_are_not_trained_over(tmp_path, data, tiny_run, kept):
    run = tmp_path / "run"
    run.mkdir()
    for name in (kept, RECIPE, METRICS, WRITER):
        shutil.copy(tiny_run / name, run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(AlexNetError, match=f"holds {kept} and no state.pt, .*--set weights={run} to start from those"):
        train(data, run, resume=True)
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """Train as a worker of a job of torchrun, which dies at a step; what it said."""

    def go(job: str | None, restarts: int = 0, dies: int = 0, **options) -> list[str]:
        said: list[str] = []
        with monkeypatch.context() as patch:
            if job is not None:
                patch.setenv("TORCHELASTIC_RUN_ID", job)
                patch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
                patch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
            step = loop._step

            def dying(run, *given) -> None:
                step(run, *given)
                if dies and run.position.step == dies:
                    raise Killed

            patch.setattr(loop, "_step", dying)
            sets = [*SETS[1::2], "checkpoint_every=2"]
            train(data, tmp_path / options.pop("out", "run"), sets=sets, say=said.append, **options)
        return said

    return go


def test_a_worker_that_is_started_again_goes_on_and_ends_as_a_run_left_alone(run, tmp_path):
    run(None, out="whole")
    with pytest.raises(Killed):
        run("a job", dies=5)
    assert len(losses(tmp_path / "run")) == 4  # the fifth was not yet noted
    said = run("a job", restarts=1)
    line = "torchrun has started the processes again (restart 1 of 3), 1 now: the run goes on from its last checkpoint"
    assert said[0] == line
    assert [one for one in said if "torchrun" in one] == [line]
    assert "going on at step 4" in "\n".join(said)
    for name in (LAST, BEST):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_machine_that_comes_or_goes_counts_as_no_restart_and_is_said(run, tmp_path):
    with pytest.raises(Killed):
        run("a job", dies=3)
    file = tmp_path / "run" / WRITER
    file.write_text(json.dumps({**json.loads(file.read_text()), "processes": 3}))
    said = run("a job")
    assert said[0] == (
        "torchrun has started the processes again, 1 now (before: 3): the run goes on from its last checkpoint"
    )


@pytest.mark.parametrize(
    ("first", "second", "restarts"),
    [("a job", "another", 1), ("none", "none", 0), (None, "a job", 2), ("a job", None, 0)],
)  # fmt: skip
def test_another_jobs_run_is_left_alone_without_resume(run, tmp_path, first, second, restarts):
    with pytest.raises(Killed):
        run(first, dies=3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(AlexNetError, match="already holds a run"):
        run(second, restarts)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_job_without_a_name_is_known_by_its_process_after_a_restart(run, tmp_path):
    with pytest.raises(Killed):
        run("none", dies=3)
    assert "restart 1 of 3" in run("none", restarts=1)[0]


def test_a_second_writer_is_refused_while_the_first_one_lives(run, tmp_path):
    with pytest.raises(Killed):
        run(None, dies=3)
    with filelock.FileLock(tmp_path / "run" / LOCK):
        with pytest.raises(AlexNetError, match=r"is being written by another run, process \d+ on .+; wait until"):
            run(None, resume=True)
        assert read_state(tmp_path / "run" / STATE)["step"] == 2
    run(None, resume=True)


# -- real processes ---------------------------------------------------------------------------------------------------


def workers(run: Path) -> list[int]:
    """The processes of a run: the one that writes, and those with the same parent."""
    try:
        writer = json.loads((run / WRITER).read_text())["process"]
        parent = int(Path(f"/proc/{writer}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return []
    return children(parent)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="there is no /proc to find the workers in")
@pytest.mark.parametrize("processes", [3])
def test_killed_at_random_twice_a_run_ends_as_one_left_alone(data, tmp_path, processes):
    """kill -9 of any worker at any moment; of three processes too every bit is the same."""
    kills, dice = 2, random.Random(processes)
    sets = with_sets("checkpoint_every=2", "epochs=20", "max_steps=20")

    def start(out: Path) -> subprocess.Popen:
        words = [str(Path(__file__).with_name("elastic.py")), processes, kills, "train", data, "--out", out, *sets]
        environment = {**ENVIRONMENT, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        return subprocess.Popen([sys.executable, *map(str, words)], env=environment, stdout=subprocess.PIPE, text=True)

    whole = group(processes, tmp_path, "train", data, "--out", tmp_path / "whole", *sets)
    process, run = start(tmp_path / "run"), tmp_path / "run"
    for number in range(kills):
        wait_for_step(run, dice.randint(1, 4) + 5 * number, process)
        time.sleep(dice.uniform(0, 0.3))
        while not (there := workers(run)):  # between two starts there are none
            time.sleep(0.02)
        os.kill(dice.choice(there), signal.SIGKILL)
        while workers(run) and process.poll() is None:  # until torchrun has ended the others
            time.sleep(0.02)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out.count("torchrun has started the processes again") == kills
    assert [one.wait() for one in whole] == [0] * processes, whole[0].err
    for name in (LAST, BEST):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    kinds = [[(line["kind"], line["step"]) for line in read(one / METRICS)] for one in (run, tmp_path / "whole")]
    assert kinds[0] == kinds[1]
    assert losses(run) == losses(tmp_path / "whole")


def below(parent: int) -> list[int]:
    """All processes that a process, or one of those, has started."""
    return [one for child in children(parent) for one in (child, *below(child))]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="there is no /proc to find the workers in")
def test_machines_that_come_and_go_leave_order_and_losses_as_they_are(data, tmp_path):
    """Three agents of torchrun meet as three machines would: one comes late, and one is gone with all its processes."""
    sets = with_sets("checkpoint_every=2", "epochs=20", "max_steps=20")
    train(data, tmp_path / "alone", sets=sets[1::2])
    run, until, port = tmp_path / "run", tmp_path / "until", random.Random(os.getpid()).randint(20_000, 60_000)
    until.write_text("5")
    # Torchrun's own store, which it would otherwise share with the workers, has no address for who comes later.
    shared = {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {**ENVIRONMENT, **shared, "MEETING": f"localhost:{port}", "UNTIL": str(until)}

    def machine(name: str) -> subprocess.Popen:
        words = [str(Path(__file__).with_name("elastic.py")), 1, 3, "train", data, "--out", run, *sets]
        env = {**environment, "HOST": str(int(name == "machine0"))}  # which stays to the end
        with open(tmp_path / name, "w") as said:
            return subprocess.Popen([sys.executable, *map(str, words)], env=env, stdout=said, stderr=said)

    def wait_for(text: str) -> None:
        end = time.monotonic() + 200
        while text not in "".join(file.read_text() for file in tmp_path.glob("machine*")):
            assert time.monotonic() < end, text
            assert machines[0].poll() is None
            time.sleep(0.1)

    machines = [machine("machine0"), machine("machine1")]
    try:
        wait_for_step(run, 4, machines[0])
        machines.append(machine("machine2"))
        wait_for("3 now (before: 2)")
        until.write_text("11")
        wait_for_step(run, 10, machines[0])
        for one in (machines[1].pid, *below(machines[1].pid)):
            os.kill(one, signal.SIGKILL)
        until.write_text("20")
        wait_for("2 now (before: 3)")
        assert [machines[at].wait(300) for at in (0, 2)] == [0, 0]
    finally:
        for one in machines:
            for number in below(one.pid):
                os.kill(number, signal.SIGKILL)
            one.kill()
            one.wait()
    kinds = [[(line["kind"], line["step"]) for line in read(one / METRICS)] for one in (run, tmp_path / "alone")]
    assert kinds[0] == kinds[1]
    assert losses(run) == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("still", [0, 1])
def test_a_process_that_stands_still_ends_the_others_after_the_time_limit(data, tmp_path, still):
    """Whichever it is: where the first is stuck the second says so."""
    sets = with_sets("timeout=4", "epochs=500", "max_steps=400")
    two = group(2, tmp_path, "train", data, "--out", tmp_path / "run", *sets)
    wait_for_step(tmp_path / "run", 2, two[0])
    two[still].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert two[1 - still].wait(60) == 2
    assert time.monotonic() - began < 30
    two[still].kill()
    two[still].wait()
    err = two[1 - still].err
    assert "another of the 2 processes has not answered for 4 s" in err.strip().splitlines()[-1]
