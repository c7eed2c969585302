"""All claims in one go: the plan, its order and its words; stopped by the clock and gone on with; several at once."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from alexnet.base import run_files
from alexnet.base.errors import AlexNetError
from alexnet.reproduction import everything, measures, naming, planning, results, running
from alexnet.reproduction.claims import CLAIMS
from alexnet.reproduction.everything import Everything
from two_claims import SETS, two_claims

pytestmark = pytest.mark.usefixtures("slim")


@pytest.fixture
def two(monkeypatch) -> None:
    two_claims(monkeypatch)


def plan() -> list[planning.StudyPart]:
    return Everything(None, Path("nowhere")).parts()


def test_every_claim_has_its_seeds_once_and_its_first_before_any_has_a_second():
    found = Counter((part.claim.name, part.seeds) for part in plan())
    wanted = {
        (one.name, n) for one in CLAIMS.values() for n in range(2 if one.kind == "ensemble" else 1, one.seeds + 1)
    }
    assert found == Counter(wanted)
    seeds = [part.seeds for part in plan()]
    assert seeds == sorted(seeds)


def test_a_network_is_trained_once_for_all_the_claims_that_share_it():
    networks = [one for part in plan() for one in part.networks]
    assert len({(one.recipe, one.data, one.first) for one in networks}) == len(networks)
    base = [one for one in networks if one.arm == "as in 2012"]
    assert [one.recipe.seed for one in base] == [0, 1, 2, 3, 4]  # of ten claims, one with five seeds
    assert not any(one.arm.startswith("first") for one in networks)  # what pretrain starts from is one of these


def test_what_is_decided_for_the_least_arithmetic_comes_first():
    first = [part for part in plan() if part.seeds == 1]
    assert {part.claim.name for part in first if not part.work} == {"ten-views", "retrieval", "filters"}
    study = Everything(None, Path("nowhere")).study
    needs = {
        part.claim.name: {
            (one.recipe, one.data, one.first): one.work
            for one in planning._networks(study(part.claim, 1), lambda claim, name: planning.PICTURES[name])
        }
        for part in first
    }
    trained: set = set()
    for at, part in enumerate(first):
        left = [sum(work for key, work in needs[one.claim.name].items() if key not in trained) for one in first[at:]]
        assert left[0] == min(left) == pytest.approx(part.work)
        trained |= needs[part.claim.name].keys()


def test_the_list_says_epochs_time_at_a_rate_and_where_the_minutes_end(alexnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = alexnet("reproduce", "--list", "--rate", "20000", "--minutes", "15", "--seeds", "1")
    assert status == 0
    lines = out.splitlines()
    base = planning.multiply_adds("alexnet64")
    costs = [100_000 * 30, 50_000 * 140 * planning.multiply_adds("cifar10_18") / base]
    at = next(i for i, line in enumerate(lines) if line.startswith("headline"))
    before = lines[at - 1 - next(j for j, x in enumerate(lines[at - 1 :: -1]) if "done after" in x)]
    headline, other = (float(line.split()[-2]) for line in (lines[at], before))
    assert headline - other == pytest.approx(costs[0] / 20_000 / 60, abs=0.11)
    cifar = next(line for line in lines if line.startswith("cifar-18"))
    assert float(cifar.split()[-2]) == pytest.approx(costs[1] / 20_000 / 60, abs=0.06)
    end = lines.index("---- 15 min end here ----")
    after = next(line for line in lines[end:] if "done after" in line)
    assert float(after.split()[-2]) > 15
    assert "as in 2012, seed 0: alexnet64, 30 epochs of 100,000 pictures of tiny-imagenet" in out


@pytest.mark.parametrize(("quick", "seeds"), [(False, 1), (False, 5), (True, 1), (True, 2), (True, 4)])
def test_as_many_seeds_as_are_asked_for_are_planned_of_every_claim(quick, seeds):
    parts = Everything(None, Path("nowhere"), seeds=seeds, quick=quick).parts()
    most = {one.name: max((x.seeds for x in parts if x.claim is one), default=0) for one in CLAIMS.values()}
    assert most == {one.name: seeds if seeds > 1 or one.kind != "ensemble" else 0 for one in CLAIMS.values()}


def test_keys_that_a_claim_decides_itself_are_for_the_others():
    sets = ("learning_rate=0.5", "dropout=0.25", "variant=alexnet64", "epochs=2")
    work, told = Everything(None, Path("nowhere"), sets=sets), []
    taken = {one.name: work.study(one, 1).sets for one in CLAIMS.values()}
    assert taken.pop("relu-vs-tanh") == ("dropout=0.25", "epochs=2")
    assert taken.pop("lrn-cifar") == taken.pop("cifar-18") == ("learning_rate=0.5", "dropout=0.25", "epochs=2")
    assert taken.pop("dropout") == ("learning_rate=0.5", "variant=alexnet64", "epochs=2")
    assert set(taken.values()) == {sets}
    replace(work, say=told.append, sets=sets[:2]).left()
    both = [("relu-vs-tanh", "learning_rate"), ("dropout", "dropout")]
    assert told == [f"{name} decides {key} itself: --set is for the others" for name, key in both]
    with pytest.raises(AlexNetError, match="decides seed of its networks itself"):
        Everything(None, Path("nowhere"), sets=("seed=3",)).parts()


class Clock:
    """A timer that goes off as soon as a network has its first checkpoint."""

    def __init__(self, seconds: float, function) -> None:
        self.function, self.daemon = function, True

    def start(self) -> None:
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while not list(self.folder.glob(f"work/*/{run_files.STATE}")):
            time.sleep(0.005)
        self.function()

    def cancel(self) -> None:
        pass


@pytest.mark.slow
def test_the_clock_stops_it_within_a_network_and_the_same_command_goes_on_to_the_same_weights(
    place, tmp_path, monkeypatch, two
):
    sets = ("epochs=4", *SETS[1:])
    whole = Everything(place, tmp_path / "whole", seeds=1, sets=sets, device="cpu").run()
    assert whole == {"done": ["headline, 1 seed", "dropout, 1 seed"], "left": []}
    out = tmp_path / "cut"
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(everything.threading, "Timer", type("Here", (Clock,), {"folder": out}))
        cut = Everything(place, out, 0.5, seeds=1, sets=sets, device="cpu", say=told.append).run()
    assert cut["left"] == ["headline, 1 seed", "dropout, 1 seed"]
    assert any("time is over (0.5 min): saving" in line for line in told)
    assert "the same command goes on" in told[-1]
    assert Everything(place, out, seeds=1, sets=sets, device="cpu").run()["left"] == []
    weights = [
        {file.parent.name: file.read_bytes() for file in folder.glob("work/*/model.safetensors")}
        for folder in (tmp_path / "whole", out)
    ]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]
    again = Everything(place, out, seeds=1, sets=sets, device="cpu").run()
    assert again == {"done": [], "left": []}


def test_nothing_is_begun_after_the_time_where_a_network_has_outlived_it_by_its_last_step(place, tmp_path, two):
    work = Everything(place, tmp_path, seeds=1, sets=SETS, device="cpu")
    measured = everything.measure_claim

    def late(study):
        outcome = measured(study)
        work.over.set()  # as the clock does, whose signal the training has taken and had no step left to obey
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(everything, "measure_claim", late)
        assert work.run() == {"done": ["headline, 1 seed"], "left": ["dropout, 1 seed"]}


def test_what_another_process_is_at_work_on_is_left_to_it(place, tmp_path, monkeypatch, two):
    """The network that both claims share is held; of dropout's other arm this process takes care meanwhile."""
    fcntl = pytest.importorskip("fcntl")
    import os

    work = Everything(place, tmp_path, seeds=1, sets=SETS, device="cpu")
    study = work.study(CLAIMS["dropout"], 1)
    folder = naming.folder_of_network(tmp_path / "work", study.recipe(study.claim.arms[0], 0), study.data(), "", str)
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    trained: list[str] = []

    def freed(seconds: float) -> None:
        trained.extend(file.parent.name for file in tmp_path.glob("work/*/model.safetensors"))
        fcntl.flock(handle, fcntl.LOCK_UN)

    monkeypatch.setattr(everything, "time", type("Fake", (), {"sleep": staticmethod(freed)}))
    assert work.run()["left"] == []
    os.close(handle)
    assert len(trained) == 1
    assert folder.name not in trained


def test_a_result_of_more_seeds_stays_until_there_are_as_many(place, tmp_path, two, monkeypatch):
    monkeypatch.setattr(planning, "CLAIMS", {"dropout": CLAIMS["dropout"]})
    Everything(place, tmp_path, seeds=2, sets=SETS, device="cpu").run()
    before = results.read(tmp_path / "dropout", CLAIMS["dropout"])
    told: list[str] = []
    assert before["identity"] == running.Study(CLAIMS["dropout"], place, tmp_path, 1).identity()
    again = Everything(place, tmp_path, seeds=2, sets=SETS[::-1], device="cpu")
    assert again.left() == []
    file = tmp_path / "dropout" / results.RESULT
    file.write_text(json.dumps({key: value for key, value in before.items() if key != "identity"}))  # as older ones
    Everything(place, tmp_path, seeds=1, sets=SETS, device="cpu", say=told.append).run()
    assert "identity" not in results.read(tmp_path / "dropout", CLAIMS["dropout"])
    assert f"{tmp_path / 'dropout'} holds 2 seeds: it stays until there are as many of these" in told
    Everything(place, tmp_path, seeds=2, sets=SETS, device="cpu").run()
    assert results.read(tmp_path / "dropout", CLAIMS["dropout"]) == before
    for file in (other := Path(shutil.copytree(place, tmp_path / "other"))).rglob("*.png"):
        Image.open(file).save(file, "JPEG", quality=75)  # other bytes under the same names
    assert len(replace(again, place=other, found={}, known={}).left()) == 2


@pytest.mark.parametrize("fails", ["figure", "page"])
def test_a_result_whose_figure_or_page_cannot_be_made_leaves_the_one_before(place, tmp_path, monkeypatch, fails):
    study = running.Study(CLAIMS["headline"], place, tmp_path, 1, sets=SETS)
    outcome = measures.measure_claim(study)
    results.write(study, outcome)
    before = {file.name: file.read_bytes() for file in (tmp_path / "headline").iterdir()}

    def broken(*_):
        raise RuntimeError("no font")

    at, name = (results.figures, "save_figure") if fails == "figure" else (results, "page")
    monkeypatch.setattr(at, name, broken)
    with pytest.raises(RuntimeError, match="no font"):
        results.write(study, replace(outcome, notes=["another"]))
    assert {file.name: file.read_bytes() for file in (tmp_path / "headline").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--all"], "--all needs pictures; give --data DIR"),
        (["towers", "--all", "--data", "."], "--all is of all claims; leave towers out"),
        (["towers", "--data", ".", "--minutes", "3"], "--minutes, --together and --rate are of --all"),
        (["towers", "--data", ".", "--together", "auto"], "--minutes, --together and --rate are of --all"),
        (["--all", "--data", ".", "--rate", "3"], "--rate is of --list; add it, or leave --rate out"),
        (["--list", "--together", "2"], "--together and --device are for what is trained, and --list trains nothing"),
        (
            ["--list", "--together", "auto"],
            "--together and --device are for what is trained, and --list trains nothing",
        ),
        (["--list", "--all", "--device", "cpu"], "--together and --device are for what is trained, and --list trains"),
        (["--all", "--data", "nowhere"], "--data nowhere does not exist"),
        (["--all", "--data", ".", "--together", "0"], "--together was given '0'; it takes a number of processes, 1 to"),
        (
            ["--all", "--data", ".", "--together", "all"],
            "was given 'all'; it takes a number of processes, 1 to 999",
        ),
    ],
)
def test_bad_input_is_one_sentence(refused, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused("reproduce", *words)


def test_the_page_opens_with_a_figure_and_says_of_each_claim_what_how_and_what_it_means(alexnet, tmp_path):
    from PIL import Image

    root = Path(__file__).parents[1]
    for folder in (root / "results").glob("*/result.json"):
        target = tmp_path / "results" / folder.parent.name
        target.mkdir(parents=True)
        for name in (results.RUNS, results.RESULT):
            (target / name).write_bytes((folder.parent / name).read_bytes())
    status, _, _ = alexnet("reproduce", "--report", tmp_path / "page.md", "--out", tmp_path / "results")
    assert status == 0
    page = (tmp_path / "page.md").read_text()
    assert page.splitlines()[2] == "![the paper's claims: its figures and ours](page.png)"
    with Image.open(tmp_path / "page.png") as figure:
        assert min(figure.size) > 400
    for facts in (json.loads(file.read_text()) for file in (tmp_path / "results").glob("*/result.json")):
        claim = CLAIMS[facts["claim"]]
        assert f"{claim.text} {claim.how} It means: " in page
