"""Files are written whole or not at all: a full disk or a folder that may not be written is one sentence.

A limit on the size of files stands for the full disk: what writes past it gets the system's error, in Python, in torch
and in OpenVINO alike.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alexnet.base import files, run_files
from alexnet.base.errors import AlexNetError, CannotWrite
from alexnet.base.metrics import read

SMALL = ["variant=cifar10_18", "epochs=2", "batch_size=16", "log_every=1", "precision=float32", "workers=1"]
LONGER = ["epochs=3", *(one for one in SMALL if not one.startswith("epochs"))]


@contextmanager
def no_file_beyond(size: int):
    """Within, no file can grow past `size` bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory) -> Path:
    """A run of two epochs of a small net."""
    from alexnet import train

    out = tmp_path_factory.mktemp("small") / "run"
    train(folders, out, "author_2012", SMALL)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OUTPUTS = {
    # what is written: the command, the size beyond which nothing can be written, what may be left to go on with
    "a table as CSV": ("predict RUN PICTURES --output OUT.csv", 600, ""),
    "a table as JSON": ("predict RUN PICTURES --output OUT.jsonl", 600, ""),
    "a table as parquet": ("predict RUN PICTURES --output OUT.parquet", 600, ""),
    "features as .npy": ("features RUN PICTURES --layer conv1 --output OUT.npy", 90_000, "OUT.npy.part"),
    "features as .h5": ("features RUN PICTURES --layer conv3 --output OUT.h5", 265_000, "OUT.h5.part"),
    "features as parquet": ("features RUN PICTURES --layer conv3 --output OUT.parquet", 246_500, "OUT.parquet.part"),
    "an index": ("index RUN PICTURES OUT --layer conv1", 90_000, "OUT.part"),
    "a pack": ("pack DATA OUT --size 64", 90_000, "OUT"),
    "safetensors": ("convert RUN OUT.safetensors", 90_000, ""),
    "an .onnx": ("export RUN OUT --format onnx", 90_000, ""),
    "an .xml": ("export RUN OUT --format openvino", 90_000, ""),
    "a .pt2": ("export RUN OUT --format pt2", 90_000, ""),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing_half_written(refused, folders, run, tmp_path, what):
    words, size, left = OUTPUTS[what]
    places = {"RUN": run, "DATA": folders, "PICTURES": folders / "val"}
    command = [places.get(word, str(tmp_path / word) if word.startswith("OUT") else word) for word in words.split()]
    before = contents(run)
    with no_file_beyond(size):
        said = refused(*command)
    assert said.startswith(f"alexnet: cannot write {tmp_path / 'OUT'}")
    assert "(File too large); " in said
    if left:
        assert "goes on" in said or "--resume" in said
    assert [path.name for path in tmp_path.iterdir()] == [left] * bool(left)
    assert not [name for name in contents(tmp_path) if name.endswith(".part")]
    assert contents(run) == before


def test_training_on_a_disk_that_fills_up_keeps_its_checkpoint_and_goes_on_when_there_is_room(
    alexnet, refused, folders, tmp_path
):
    assert alexnet("train", folders, "--out", tmp_path / "run", "--set", *LONGER)[0] == 0
    whole = contents(tmp_path / "run")
    part = tmp_path / "part"
    assert alexnet("train", folders, "--out", part, "--set", *LONGER, "max_steps=6")[0] == 0
    before = contents(part)
    sizes = {name: len(before[name]) for name in (run_files.LAST, run_files.STATE)}
    assert sizes[run_files.LAST] < sizes[run_files.STATE]
    for size in (2000, sizes[run_files.LAST] - 1, sizes[run_files.LAST] + 1, sizes[run_files.STATE] - 1):
        with no_file_beyond(size):
            said = refused("train", folders, "--out", part, "--resume", "--set", "max_steps=0")
        assert "(File too large); what was saved before is whole: free space, then go on with --resume." in said
        assert not [name for name in contents(part) if name.endswith(".part")]
        load_file(part / run_files.LAST)
        assert contents(part)[run_files.STATE] == before[run_files.STATE]
    assert alexnet("train", folders, "--out", part, "--resume", "--set", "max_steps=0")[0] == 0
    assert contents(part)[run_files.LAST] == whole[run_files.LAST]
    lines = [
        [x for x in read(folder / run_files.METRICS) if x["kind"] == "step"] for folder in (part, tmp_path / "run")
    ]
    assert [x["loss"] for x in lines[0]] == [x["loss"] for x in lines[1]]


def test_a_folder_that_loses_its_permission_in_mid_run_is_one_sentence(refused, folders, tmp_path, monkeypatch):
    real = os.replace

    def replace(source, target):
        if Path(target).name == run_files.STATE:
            raise PermissionError(13, "Permission denied", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    said = refused("train", folders, "--out", tmp_path / "run", "--set", *SMALL)
    assert f"cannot write {tmp_path / 'run' / run_files.STATE} (Permission denied); what was saved before" in said


def test_several_files_are_put_in_their_places_together_or_not_at_all(tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    def full(file) -> None:
        file.write(b"some")
        raise OSError(28, "No space left on device")

    with pytest.raises(CannotWrite, match=r"cannot write .*/b \(No space left on device\); free space or give another"):
        files.write_all({tmp_path / "a": lambda file: file.write(b"new"), tmp_path / "b": full})
    assert contents(tmp_path) == {"a": b"old"}
    files.write_all({tmp_path / "a": lambda file: file.write(b"new"), tmp_path / "b": lambda file: file.write(b"b")})
    assert contents(tmp_path) == {"a": b"new", "b": b"b"}


def test_an_error_that_is_not_of_the_disk_stays_what_it_is(tmp_path):
    def wrong(file) -> None:
        try:
            raise FileNotFoundError(2, "No such file or directory")
        except FileNotFoundError:
            raise ValueError("a mistake") from None

    with pytest.raises(ValueError, match="a mistake"):
        files.write_whole(tmp_path / "a", wrong)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_half_written_is_removed_when_it_goes_on(alexnet, folders, tmp_path):
    out = tmp_path / "run"
    assert alexnet("train", folders, "--out", out, "--set", *SMALL, "max_steps=1")[0] == 0
    (out / f".{run_files.STATE}.4711.part").write_bytes(b"half")
    assert alexnet("train", folders, "--out", out, "--resume")[0] == 0
    assert not list(out.glob(".*.part"))


@pytest.mark.parametrize("variable", ["", "ALEXNET_CACHE", "XDG_CACHE_HOME"])
def test_without_a_home_folder_one_sentence_says_where_to_name_another(monkeypatch, variable):
    for name in ("HOME", "ALEXNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    if variable:
        monkeypatch.setenv(variable, "/there")
        assert files.cache_folder().parts[:2] == ("/", "there")
        return
    with pytest.raises(AlexNetError, match="no home folder to keep a cache in; set ALEXNET_CACHE"):
        files.cache_folder()
