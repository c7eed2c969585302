"""Processes on hosts whose network has a speed and loses packets: what they make is what they make on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet.base import run_files
from conftest import once, write_folders
from hosts import missing
from launched import losses, with_sets
from several import heard, several
from test_several import PATCHES, files, plain

pytestmark = [pytest.mark.cpu, pytest.mark.slow]

WAYS = {"data": 3, "hybrid": 3, "towers": 2}  # and how many processes
RUN = with_sets("epochs=1", "max_steps=3")
UNDRAWN = {**PATCHES, "alexnet.training.plots.PICTURES": {}}


@pytest.fixture(scope="session")
def made(tiny_run, tmp_path_factory) -> Path:
    """What commands have made and said: `here` on one machine, `there` on hosts, of which one is `cut` off at last."""
    if reason := missing():
        pytest.skip(reason)
    return once(tmp_path_factory, "hosts", lambda root: _make(tiny_run, root))


def _make(model: Path, root: Path) -> None:
    data, jobs = root / "set", {size: dict[str, list]() for size in (1, 2, 3)}
    write_folders(data / "train", 9)
    write_folders(data / "val", 3, first=100)
    for out, size in ((root / "here", 1), (root / "there", 3)):
        out.mkdir()
        asked = ["evaluate", model, data, "--batch-size", "2", "--pictures", out / "p.csv", "--json"]
        jobs[size][f"{out.name} evaluate"] = asked
        jobs[size][f"{out.name} pack"] = ["pack", data, out / "packRANK", "--size", "32", "--json"]
        for way, processes in WAYS.items():
            jobs[processes][f"{out.name} {way}"] = ["train", data, "--out", out / way, *RUN, f"parallel={way}"]
    jobs[3]["cut"] = ["train", data, "--out", root / "cut", *RUN, "timeout=4"]
    here = [name for table in jobs.values() for name in table if name.startswith("here ")]
    several(root, jobs, UNDRAWN, hosts=(3, "300mbit", 0.01), cuts={"cut": (2, 2)}, here=here)


@pytest.mark.parametrize("way", WAYS)
def test_a_training_over_hosts_is_bit_for_bit_that_of_as_many_processes_on_one_machine(made, way):
    here, there = made / "here" / way, made / "there" / way
    said = heard(made)[WAYS[way]][f"there {way}"]
    assert [one.status for one in said] == [0] * len(said), said[0].err
    assert len(losses(there)) == 3
    assert losses(there) == losses(here)
    assert (there / run_files.LAST).read_bytes() == (here / run_files.LAST).read_bytes()


def test_commands_over_hosts_are_those_of_one_process_without_a_shared_disk(made):
    here, there = made / "here", made / "there"
    said = heard(made)
    for name in ("evaluate", "pack"):
        (one,), three = said[1][f"here {name}"], said[3][f"there {name}"]
        assert [each.status for each in three] == [0] * 3, three[0].err
        assert plain(three[0].out, there) == plain(one.out, here)
    assert (there / "p.csv").read_bytes() == (here / "p.csv").read_bytes()
    assert files(there / "pack0") == files(here / "pack0")
    assert not (there / "pack1").exists()


def test_a_host_whose_link_is_cut_ends_all_after_the_time_limit_with_one_sentence_and_status(made):
    said = heard(made)[3]["cut"]
    assert [one.status for one in said] == [2] * 3
    sentence = "alexnet: another of the 3 processes has not answered for 4 s; what was saved is whole: start all of"
    assert said[0].err.strip().splitlines()[-1].startswith(sentence)
    assert len(losses(made / "cut")) == 2
