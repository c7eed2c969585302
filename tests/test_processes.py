"""What only a process can show: torchrun, signals, kill -9, and imports that cost nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alexnet.base import run_files
from alexnet.base.files import write_whole
from alexnet.base.metrics import read
from alexnet.training import checkpoint
from alexnet.training.loop import train
from conftest import write_folders
from launched import ENVIRONMENT, SETS, command, losses, wait_for_step, with_sets
from together import Command, group

pytestmark = pytest.mark.cpu


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """48 + 15 pictures, of which two in training cannot be read; 8 steps an epoch."""
    root = tmp_path_factory.mktemp("data")
    write_folders(root / "train", 17)
    write_folders(root / "val", 5, first=100)
    (root / "train" / "red" / "3.png").write_bytes(b"")
    (root / "train" / "blue" / "4.png").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    result = train(data, out, sets=SETS[1::2])
    assert len(result.failed) == 2
    return out


def test_ctrl_c_ends_a_process_with_its_status_and_a_saved_run(data, tmp_path):
    process = Command(tmp_path, "train", data, "--out", tmp_path / "run", *with_sets("epochs=500"))
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.err
    err = process.err
    assert "Traceback" not in err
    assert "saved" in err.strip().splitlines()[-1]
    state = checkpoint.read_state(tmp_path / "run" / run_files.STATE)
    assert state["step"] == read(tmp_path / "run" / run_files.METRICS)[-1]["step"] >= 3


def test_two_processes_agree_on_the_step_at_which_they_stop_and_three_go_on_to_the_end_of_one(data, alone, tmp_path):
    """One of two gets the signal, and both save and leave. Batches of 2 at an epoch's end leave one of three without
    a picture."""
    two = group(2, tmp_path, "train", data, "--out", tmp_path / "parts", *SETS)
    wait_for_step(tmp_path / "parts", 2, two[0])
    two[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in two] == [143, 143]
    stopped = checkpoint.read_state(tmp_path / "parts" / run_files.STATE)["step"]
    assert len(losses(tmp_path / "parts")) == stopped < 16
    three = group(3, tmp_path, "train", data, "--out", tmp_path / "parts", "--resume")
    assert [process.wait() for process in three] == [1, 1, 1]  # two pictures cannot be read
    assert [process.err.count("red/3.png") for process in three] == [1, 0, 0]  # one process speaks
    assert len(losses(alone)) == 16
    assert losses(tmp_path / "parts") == pytest.approx(losses(alone), rel=1e-4)
    one, parts = (read(folder / run_files.METRICS)[-1] for folder in (alone, tmp_path / "parts"))
    assert one["images"] == parts["images"] == 15
    assert one["loss"] == pytest.approx(parts["loss"], rel=1e-3)


def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(data, tmp_path):
    sets = with_sets("checkpoint_every=2", "epochs=3")
    train(data, tmp_path / "whole", sets=sets[1::2])
    clock = random.Random(2012)
    for killed, step in enumerate((3, 13)):
        process = Command(tmp_path, "train", data, "--out", tmp_path / "parts", *sets, "--resume")
        wait_for_step(tmp_path / "parts", step, process)
        time.sleep(clock.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL, killed
        for name in (run_files.LAST, run_files.BEST):
            if (tmp_path / "parts" / name).exists():
                load_file(tmp_path / "parts" / name)  # whole, whenever the process died
    assert 2 <= checkpoint.read_state(tmp_path / "parts" / run_files.STATE)["step"] < 24
    assert train(data, tmp_path / "parts", resume=True).steps == 24
    for name in (run_files.LAST, run_files.BEST):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_import_and_help_load_no_torch_and_touch_nothing(tmp_path):
    program = (
        "import sys, alexnet; assert 'torch' not in sys.modules; from alexnet.cli import run; run(['--help']);"
        "run(['info']); assert not {'torch', 'numpy', 'PIL', 'pyarrow', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())


def test_a_signal_while_a_process_ends_is_no_traceback():
    """As torchrun sends one to the processes that have met the death of another."""
    program = (
        "import atexit, os, sys; from alexnet.cli import main; sys.argv = ['alexnet', 'info'];"
        "atexit.register(lambda: os.kill(os.getpid(), 15)); main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_training_imports_no_compiler(data, tmp_path):
    """It takes longer than many a training."""
    words = ["train", str(data), "--out", str(tmp_path / "run"), *SETS, "--set", "max_steps=1"]
    program = f"import sys; from alexnet.cli import run; run({words}); assert 'torch._dynamo' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_that_finds_no_room_is_one_sentence():
    with open("/dev/full", "w") as full:
        result = subprocess.run(command("info"), stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert (
        result.stderr
        == "alexnet: cannot write the output (No space left on device); free space, or send it elsewhere.\n"
    )
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("words", "status"), [("recipes | true", 0), ("--help | true", 0), ("info >&-", 2), ("info x 2>&-", 2)]
)
def test_an_output_that_nobody_reads_or_that_is_not_there_has_a_status_and_no_traceback(words, status):
    line = f"set -o pipefail; {sys.executable} -m alexnet {words}"
    result = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True)
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert ("no output to write to" in result.stderr) == (">&-" in words and "2>" not in words)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old")

    def half(out) -> None:
        out.write(b"ne")
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        write_whole(file, half)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
