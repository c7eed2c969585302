"""Processes on hosts whose network has a speed and loses packets: what they make is what they make on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet.base import run_files
from conftest import write_folders
from hosts import missing
from launched import losses, with_sets
from several import Said, several
from test_several import PATCHES, files, plain

pytestmark = [pytest.mark.cpu, pytest.mark.slow]

WAYS = ("data", "hybrid", "towers")
RUN = with_sets("epochs=1", "max_steps=3")
UNDRAWN = {**PATCHES, "alexnet.training.plots.PICTURES": {}}
LINK = ("300mbit", 0.01)


@pytest.fixture
def data(tmp_path) -> Path:
    if reason := missing():
        pytest.skip(reason)
    write_folders(tmp_path / "set" / "train", 9)
    write_folders(tmp_path / "set" / "val", 3, first=100)
    return tmp_path / "set"


def made(out: Path, jobs: dict[int, dict[str, list]], **network) -> dict[int, dict[str, list[Said]]]:
    """What so many processes say to the commands of each name, OUT in which is a folder."""
    out.mkdir()
    words = {
        size: {name: [str(word).replace("OUT", str(out)) for word in one] for name, one in table.items()}
        for size, table in jobs.items()
    }
    return several(out, words, UNDRAWN, **network)


def test_a_training_over_hosts_is_bit_for_bit_that_of_as_many_processes_on_one_machine(data, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    words = {way: ["train", data, "--out", f"OUT/{way}", *RUN, f"parallel={way}"] for way in WAYS}
    jobs = {2: {"towers": words.pop("towers")}, 3: words}
    made(here, jobs)
    for table in made(there, jobs, hosts=(3, *LINK)).values():
        for way, said in table.items():
            assert [one.status for one in said] == [0] * len(said), said[0].err
            assert len(losses(there / way)) == 3
            assert losses(there / way) == losses(here / way)
            assert (there / way / run_files.LAST).read_bytes() == (here / way / run_files.LAST).read_bytes()


def test_commands_over_hosts_are_those_of_one_process_without_a_shared_disk(data, tiny_run, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    jobs = {
        "evaluate": ["evaluate", tiny_run, data, "--batch-size", "2", "--pictures", "OUT/p.csv", "--json"],
        "pack": ["pack", data, "OUT/packRANK", "--size", "32", "--json"],
    }
    one, three = made(here, {1: jobs})[1], made(there, {3: jobs}, hosts=(3, *LINK))[3]
    for name in jobs:
        assert [said.status for said in three[name]] == [0] * 3, three[name][0].err
        assert plain(three[name][0].out, there) == plain(one[name][0].out, here)
    assert (there / "p.csv").read_bytes() == (here / "p.csv").read_bytes()
    assert files(there / "pack0") == files(here / "pack0")
    assert not (there / "pack1").exists()


def test_a_host_whose_link_is_cut_ends_all_after_the_time_limit_with_one_sentence_and_status(data, tmp_path):
    out = tmp_path / "there"
    jobs = {3: {"cut": ["train", data, "--out", "OUT/cut", *RUN, "timeout=4"]}}
    said = made(out, jobs, hosts=(3, *LINK), cuts={"cut": (2, 2)})[3]["cut"]
    assert [one.status for one in said] == [2] * 3
    sentence = "alexnet: another of the 3 processes has not answered for 4 s; what was saved is whole: start all of"
    assert said[0].err.strip().splitlines()[-1].startswith(sentence)
    assert len(losses(out / "cut")) == 2
