"""Processes on hosts whose network has a speed and loses packets: what they make is what they make on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet.base import run_files
from conftest import write_folders
from hosts import missing
from several import Said, several
from test_processes import SETS, losses
from test_several import PATCHES, files, plain

pytestmark = [pytest.mark.cpu, pytest.mark.slow]

WAYS, COMMANDS = ("data", "hybrid", "towers"), ("evaluate", "pack")
RUN = (*SETS, "--set", "epochs=1", "max_steps=3")
UNDRAWN = {**PATCHES, "alexnet.training.plots.PICTURES": {}}
LINK = ("300mbit", 0.01)


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory) -> dict[str, tuple[Path, dict[int, dict[str, list[Said]]]]]:
    """What one, two and three processes make on one machine, and two and three on a host each."""
    if reason := missing():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("hosts")
    data, here, there = root / "set", root / "here", root / "there"
    write_folders(data / "train", 9)
    write_folders(data / "val", 3, first=100)
    jobs = {}
    for out, pack in ((here, here / "pack0"), (there, there / "packRANK")):
        out.mkdir()
        words = {way: ["train", data, "--out", out / way, *RUN, f"parallel={way}"] for way in WAYS}
        words["cut"] = ["train", data, "--out", out / "cut", *RUN, "timeout=4"]
        words["evaluate"] = ["evaluate", tiny_run, data, "--batch-size", "2", "--pictures", out / "p.csv", "--json"]
        words["pack"] = ["pack", data, pack, "--size", "32", "--json"]
        jobs[out] = words
    alone = {1: chosen(jobs[here], *COMMANDS), 2: chosen(jobs[here], "towers"), 3: chosen(jobs[here], *WAYS[:2])}
    apart = {2: chosen(jobs[there], "towers"), 3: chosen(jobs[there], *WAYS[:2], *COMMANDS, "cut")}
    return {
        "here": (here, several(here, alone, UNDRAWN)),
        "there": (there, several(there, apart, UNDRAWN, hosts=(3, *LINK), cuts={"cut": (2, 2)})),
    }


def chosen(table: dict[str, list], *names: str) -> dict[str, list]:
    return {name: table[name] for name in names}


@pytest.mark.parametrize("way", WAYS)
def test_a_training_over_hosts_is_bit_for_bit_that_of_as_many_processes_on_one_machine(made, way):
    (here, _), (there, said) = made["here"], made["there"]
    size = 2 if way == "towers" else 3
    assert [one.status for one in said[size][way]] == [0] * size, said[size][way][0].err
    assert len(losses(there / way)) == 3
    assert losses(there / way) == losses(here / way)
    assert (there / way / run_files.LAST).read_bytes() == (here / way / run_files.LAST).read_bytes()


def test_commands_over_hosts_are_those_of_one_process_without_a_shared_disk(made):
    (here, one), (there, three) = made["here"], made["there"]
    for name in COMMANDS:
        assert [said.status for said in three[3][name]] == [0] * 3, three[3][name][0].err
        assert plain(three[3][name][0].out, there) == plain(one[1][name][0].out, here)
    assert (there / "p.csv").read_bytes() == (here / "p.csv").read_bytes()
    assert files(there / "pack0") == files(here / "pack0")
    assert not (there / "pack1").exists()


def test_a_host_whose_link_is_cut_ends_all_after_the_time_limit_with_one_sentence_and_status(made):
    out, said = made["there"]
    assert [one.status for one in said[3]["cut"]] == [2] * 3
    sentence = "alexnet: another of the 3 processes has not answered for 4 s; what was saved is whole: start all of"
    assert said[3]["cut"][0].err.strip().splitlines()[-1].startswith(sentence)
    assert len(losses(out / "cut")) == 2
