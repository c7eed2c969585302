"""Commands by two and three processes: every file and every line is that of one process, byte for byte."""

from __future__ import annotations

import json
import random
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from conftest import coloured, once, write_folders
from several import Said, heard, several

pytestmark = [pytest.mark.cpu, pytest.mark.slow]  # test_turns.py does the same with threads

SMALL = 8 * 32 * 32 * 3  # bytes of a pack's file
PATCHES = {
    "alexnet.data.packs.job.SHARD": {"raw": SMALL, "jpeg": SMALL},
    "alexnet.data.checking.CHUNK": 4,
    "alexnet.data.packs.sending.PIECE": 1000,
}  # fmt: skip


THREE = ("evaluate", "csv", "two", "check", "jpeg")  # commands that three processes do too


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """train/ and val/ with 51 + 15 pictures, of which two cannot be read and some are there twice, and more/."""
    return once(tmp_path_factory, "data-of-several", _write)


def _write(root: Path) -> None:
    write_folders(root / "set" / "train", 17)
    write_folders(root / "set" / "val", 5, first=100)
    train = root / "set" / "train"
    (train / "red" / "3.png").write_bytes(b"")
    (root / "set" / "val" / "blue" / "104.png").write_text("no picture")
    shutil.copy(train / "red" / "5.png", train / "red" / "50.png")
    shutil.copy(train / "red" / "6.png", train / "green" / "60.png")
    shutil.copy(train / "blue" / "7.png", root / "set" / "val" / "blue" / "105.png")
    (root / "more").mkdir()
    with tarfile.open(root / "more" / "some.tar", "w") as archive:
        for number in range(7):
            coloured("green", 300 + number).save(root / "one.png")
            archive.add(root / "one.png", f"in/{number}.png")
    for rank in range(2):
        write_folders(root / f"machine{rank}", 2 + rank)
    (root / "machine0" / "red" / "1.png").unlink()
    write_folders(root / "only0", 1)
    (root / "file0").mkdir()
    (root / "file1").touch()
    for rank, shards in enumerate((2, 1)):
        (root / f"shards{rank}").mkdir()
        for shard in range(shards):
            with tarfile.open(root / f"shards{rank}" / f"train-{shard}.tar", "w") as archive:
                for number, (label, colour) in enumerate([("0", "red"), ("1", "blue")] * 6):
                    coloured(colour, 400 + number).save(root / "one.png")
                    (root / "one.cls").write_text(label)
                    archive.add(root / "one.png", f"{number}.png")
                    archive.add(root / "one.cls", f"{number}.cls")


def commands(data: Path, model: Path, out: Path) -> dict[str, list[Any]]:
    """A table of commands, whose outputs are in `out`."""
    out.mkdir()
    seen, four = [data / "set" / "train", data / "more" / "some.tar", data / "none.png"], ["--batch-size", "4"]
    tables = [x for name in ("pictures", "per-class", "confusion") for x in (f"--{name}", out / f"{name}.csv")]
    table = {
        "evaluate": ["evaluate", model, data / "set", "--split", "all", "--json", *four, *tables],
        "views": ["evaluate", model, data / "set", "--views", "10", "--ties", "fraction", *four],
        "predict": ["predict", model, *seen, *four, "--json"],
        "text": ["predict", model, *seen, "--topk", "2", *four],
        "csv": ["predict", model, *seen, *four, "--output", out / "predicted.csv"],
        "features": ["features", model, *seen, *four, "--layer", "conv5", "--output", out / "f.npy", "--json"],
        "two": ["features", model, *seen, *four, "--layer", "fc7", "--layer", "fc8", "--output", out / "g.safetensors"],
        "index": ["index", model, *seen, out / "index", *four],
        "check": ["check", data / "set", "--full", "--json"],
        "sample": ["check", data / "set"],
        "raw": ["pack", data / "set", out / "raw", "--size", "32", "--json"],
        "jpeg": ["pack", data / "set", out / "jpeg", "--size", "32", "--encoding", "jpeg"],
        "apart": ["pack", data / "set", out / "apartRANK", "--size", "32", "--json"],
        "verify": ["check", out / "raw", "--full", "--json"],
        "exists": ["pack", data / "set", out / "raw"],
        "no model": ["evaluate", data / "nothing", data / "set"],
        "no folder": ["features", model, data / "set", "--output", data / "nothing" / "f.npy"],
    }
    return {name: [*map(str, words)] for name, words in table.items()}


@pytest.fixture(scope="session")
def made(data, tiny_run, tmp_path_factory) -> dict[int, tuple[Path, dict[str, list[Said]]]]:
    """What one, two and three processes make, and what they say."""
    root = once(tmp_path_factory, "several", lambda root: _make(data, tiny_run, root))
    return {size: (root / f"out{size}", said) for size, said in heard(root).items()}


def _make(data: Path, tiny_run: Path, root: Path) -> None:
    root.mkdir()
    shutil.copytree(tiny_run, root / "half0")
    jobs = {size: commands(data, tiny_run, root / f"out{size}") for size in (1, 2, 3)}
    jobs[3] = {name: jobs[3][name] for name in THREE}
    jobs[2] |= {
        "elsewhere": ["predict", tiny_run, data / "machineRANK"],
        "unseen": ["predict", tiny_run, data / "set" / "val", data / "machineRANK" / "red" / "1.png"],
        "other data": ["evaluate", tiny_run, data / "machineRANK", "--split", "all"],
        "no such data": ["check", data / "onlyRANK", "--full"],
        "stdin": ["predict", tiny_run, "-"],
        "auto": ["evaluate", tiny_run, data / "set", "--engine", "auto"],
        "other shards": ["evaluate", tiny_run, data / "shardsRANK", "--split", "all"],
        "train elsewhere": ["train", data / "machineRANK", "--out", root / "run"],
        "train shards": ["train", data / "shardsRANK", "--out", root / "run"],
        "run apart": ["train", data / "set", "--out", root / "halfRANK", "--resume"],
        "cannot write": ["pack", data / "set", data / "fileRANK" / "pack"],
        "no towers": ["train", data / "set", "--out", root / "run", "--set", "variant=cifar10_18", "parallel=towers"],
        "not split": ["train", data / "set", "--out", root / "run", "--set", "variant=alexnet_bn", "parallel=hybrid"],
    }
    jobs[3] |= {
        "three towers": ["train", data / "set", "--out", root / "run", "--set", "variant=alexnet32", "parallel=towers"],
    }
    several(root, jobs, PATCHES)


# Commands that are killed, and the file that is there when all is done.
KILLED = {
    "evaluate": "pictures.csv", "csv": "predicted.csv", "two": "g.safetensors", "features": "f.npy",
    "index": "index/about.json", "check": "", "raw": "raw/pack.json", "apart": "apart0/pack.json",
}  # fmt: skip


@pytest.fixture(scope="session")
def killed(data, tiny_run, made, tmp_path_factory) -> tuple[Path, dict[str, tuple[list[Said], list[str], list[Said]]]]:
    """Of two processes one is killed at a random moment, and both are started again: what was said and was there."""
    root = once(tmp_path_factory, "several-killed", lambda root: _kill(data, tiny_run, made[2][1], root))
    first, again = (heard(root / name)[2] for name in ("first", "again"))
    there = json.loads((root / "there.json").read_text())
    return root / "out", {name: (first[name], there, again[name]) for name in KILLED}


def _kill(data: Path, tiny_run: Path, two: dict[str, list[Said]], root: Path) -> None:
    for folder in (root, root / "first", root / "again"):
        folder.mkdir()
    jobs = commands(data, tiny_run, root / "out")
    jobs = {name: jobs[name] for name in KILLED}
    dice = random.Random(18)
    deaths = {name: (dice.randrange(2), dice.randint(2, max(2, two[name][0].made - 1))) for name in KILLED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(root / "cache"))
        several(root / "first", {2: jobs}, PATCHES, deaths, restarts=0)
        there = [file for name, file in KILLED.items() if file and (root / "out" / file).exists()]
        (root / "there.json").write_text(json.dumps(there))
        several(root / "again", {2: jobs}, PATCHES, restarts=1)


@pytest.mark.parametrize("name", KILLED)
def test_a_command_whose_process_is_killed_and_started_again_is_that_of_one_process(made, killed, name):
    out, (first, there, again) = killed[0], killed[1][name]
    assert sorted(said.status for said in first) == [-9, 2]
    lost = next(said for said in first if said.status == 2)
    assert "another of the 2 processes has ended" in lost.err.strip().splitlines()[-1]
    assert KILLED[name] not in there, "a file under its own name that is not whole"
    (one,) = made[1][1][name]
    assert [said.status for said in again] == [one.status] * 2, again[0].err
    assert plain(again[0].out, out) == plain(one.out, made[1][0])
    whole = sum(said.made for said in made[2][1][name])
    assert whole - sum(said.made for said in again) >= 2 * (min(said.made for said in first) - 1) > 0
    expected, found = files(made[1][0]), files(out)
    assert {file: expected[file] for file in found} == found


def plain(text: str, out: Path) -> str:
    """Without times, with the same names of folders, and without what several processes alone say."""
    text = "".join(line for line in text.splitlines(True) if "is not seen by" not in line)
    text = re.sub(r'("seconds"|"images_per_second"): [\d.e+-]+', r"\1", text)
    return re.sub(r"[\d,]+ images/s", "images/s", text).replace(str(out), "OUT").replace(str(out.parent), "OUT")


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("size", [2, 3])
def test_every_file_is_that_of_one_process_byte_for_byte(made, size):
    one, several = files(made[1][0]), files(made[size][0])
    assert len(several) > 15
    assert size == 3 or list(one) == list(several)
    assert [name for name in several if one[name] != several[name]] == []
    assert sum(name.startswith("apart0/train-0") for name in several) > 5 or size == 3


@pytest.mark.parametrize("size", [2, 3])
def test_the_first_process_says_what_one_would_and_the_others_nothing(made, size):
    for name in made[size][1].keys() & made[1][1].keys():
        (one,), (first, *others) = made[1][1][name], made[size][1][name]
        assert [said.status for said in (first, *others)] == [one.status] * size, (name, first.err)
        assert plain(first.out, made[size][0]) == plain(one.out, made[1][0]), name
        assert plain(first.err, made[size][0]) == plain(one.err, made[1][0]), name
        assert [(said.out, said.err) for said in others] == [("", "")] * len(others), name


OTHER = "process 1 of 2 has found other pictures than the first, or in another order; give every"
DATA = "process 1 of 2 sees another DATA than the first; give every machine the same files"


@pytest.mark.parametrize(
    ("size", "name", "wanted"),
    [
        (2, "elsewhere", OTHER), (2, "unseen", OTHER), (2, "other data", DATA), (2, "other shards", DATA),
        (2, "no such data", "process 1 of 2, on "), (2, "train elsewhere", DATA), (2, "train shards", DATA),
        (2, "run apart", "process 1 of 2 sees another RUN than the first; give every machine the same files"),
        (2, "cannot write", "(Not a directory); give a PACK that every machine may write"),
        (2, "stdin", "one process alone can read stdin; give names of files, folders or patterns under torchrun"),
        (2, "auto", "--engine auto is tried in one process; name torch, onnx or openvino under torchrun"),
        (2, "no towers", "cannot be trained by two processes with a tower each: none of its layers is in two groups"),
        (2, "not split", "cannot be trained with its fully connected layers split by units: its norm1 is batch"),
        (3, "three towers", "parallel=towers is for two processes, one a tower, or one for both, and there are 3;"),
    ],
)  # fmt: skip
def test_what_machines_cannot_do_together_is_one_sentence_and_one_status(made, size, name, wanted):
    first, *others = made[size][1][name]
    assert [said.status for said in (first, *others)] == [2] * size
    assert wanted in first.err.strip().splitlines()[-1]
    assert "Traceback" not in first.err + "".join(said.err for said in others)
    assert [said.err for said in others] == [""] * len(others)
    assert not (made[size][0].parent / "run").exists()
