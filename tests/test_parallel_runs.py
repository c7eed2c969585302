"""Runs divided among real processes: the files, losses and bytes of one process, and a way that changes at --resume."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.networks import traffic
from alexnet.networks.variants import VARIANTS
from alexnet.training.checkpoint import read_state
from alexnet.training.loop import train
from conftest import write_folders
from launched import losses
from together import processes

pytestmark = [pytest.mark.cpu, pytest.mark.slow]  # test_parallel.py does the same with threads

SETS = (
    *("variant=alexnet32", "epochs=3", "batch_size=7", "learning_rate=0.002", "precision=float32", "log_every=1"),
    *("workers=1", "max_steps=20", "dropout=0.5"),
)


def run(data: Path, out: Path, *sets: str, resume: bool = False) -> list[str] | str:
    """What a training says, or the sentence that refuses it."""
    said: list[str] = []
    try:
        train(data, out, sets=[*SETS, *sets], resume=resume, device="cpu", say=said.append)
    except AlexNetError as error:
        return str(error)
    return said


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """48 + 6 pictures, of which two in training cannot be read; 7 steps an epoch."""
    root = tmp_path_factory.mktemp("data")
    write_folders(root / "train", 16)
    write_folders(root / "val", 2, first=100)
    (root / "train" / "red" / "3.png").write_bytes(b"")
    (root / "train" / "blue" / "4.png").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "alone"
    run(data, out)
    return out


def test_a_run_that_changes_its_way_and_its_processes_is_that_of_one_process(data, alone, tmp_path):
    out = tmp_path / "run"
    two, other = processes(2, run, data, out, "parallel=towers", "max_steps=9")
    assert not other, "one process speaks"
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in alone.iterdir())
    one = going_on(data, out, "max_steps=12")
    assert "parallel=towers: one process alone has the whole network" in one
    hybrid = processes(3, going_on, data, out, "parallel=hybrid")[0]
    assert len(losses(alone)) == 20
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)
    weights, expected = load_file(out / run_files.LAST), load_file(alone / run_files.LAST)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (weights[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), name
    states = [read_state(folder / run_files.STATE)["optimizer"]["state"] for folder in (out, alone)]
    assert {i: x["momentum_buffer"].shape for i, x in states[0].items()} == {
        i: x["momentum_buffer"].shape for i, x in states[1].items()
    }
    size = (VARIANTS["alexnet32"], 3, 3, 28)
    forward = sum(talk.first + talk.second for talk in traffic.towers(*size))
    (told,) = [re.search(r"sent each other ([0-9,]+) kB a picture", line) for line in two if "each other" in line]
    assert told
    assert int(told[1].replace(",", "")) == round(2 * 4 * forward / 1000)
    assert any(re.search(r"the 3 processes sent [0-9.]+ MB a step, with parallel=data [0-9.]+ MB", x) for x in hybrid)


def going_on(data: Path, out: Path, *sets: str) -> list[str] | str:
    return run(data, out, *sets, resume=True)


def test_what_cannot_be_divided_is_refused_by_one_sentence_in_every_process_before_anything_is_written(data, tmp_path):
    for size, sets, sentence in (
        (3, ("parallel=towers",), "is for two processes, one a tower, or one for both, and there are 3; start two"),
        (2, ("parallel=towers", "variant=cifar10_18"), "none of its layers is in two groups"),
        (2, ("parallel=hybrid", "compile=true"), "cannot be had together with compile=true"),
    ):
        said = processes(size, run, data, tmp_path / "run", *sets)
        assert len(set(said)) == 1
        assert sentence in said[0]
        assert not (tmp_path / "run").exists()
