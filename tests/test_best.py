"""Which epoch's weights are used: said where a better one is kept, chosen by --weights, marked in the report."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import alexnet as package
from alexnet.base import run_files
from alexnet.data.layouts.registry import find_data
from alexnet.networks.variants import VARIANTS
from alexnet.training import loop
from alexnet.training import recipe as recipes
from alexnet.training.report import write
from alexnet.training.run import keep_best
from conftest import TINY, coloured, write_folders
from narrow import narrow
from together import threads


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of narrow nets with validation errors as told: RUN/last goes on to its last epoch, RUN/kept stops early."""
    root = tmp_path_factory.mktemp("best")
    write_folders(root / "data", 6)
    real = loop._measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
        for name, errors, sets in (
            ("last", [0.4, 0.2, 0.3], ()),
            ("even", [0.4, 0.2, 0.2], ()),
            ("kept", [0.4, 0.2, 0.3], ("stop_after=1",)),
        ):
            told, said = [*errors, 0.35], []
            patch.setattr(loop, "_measure", lambda *a, t=told, **k: replace(real(*a, **k), top1_error=t.pop(0)))
            loop.train(root / "data", root / name, None, [*TINY, "epochs=3", *sets], say=said.append)
            (root / f"{name}.txt").write_text("\n".join(said))
        patch.setattr(loop, "_measure", real)
        yield root


def test_best_holds_the_weights_of_the_lowest_validation_error(slim, tmp_path, monkeypatch):
    errors, seen, real = [0.4, 0.1, 0.3, 0.2, 0.2], [], loop._measure
    write_folders(tmp_path / "data", 6)

    def told(run, *given, **more):
        seen.append({name: x.clone() for name, x in run.evaluated[0].state_dict().items()})
        return replace(real(run, *given, **more), top1_error=errors[len(seen) - 1])

    monkeypatch.setattr(loop, "_measure", told)
    loop.train(tmp_path / "data", tmp_path / "run", None, [*TINY, "epochs=4"])
    best = load_file(tmp_path / "run" / run_files.BEST)
    same = [all(torch.equal(x, best[name]) for name, x in one.items()) for one in seen[:4]]
    assert same == [False, True, False, False]


def test_processes_that_do_not_see_the_run_keep_its_best_weights_too(runs, tmp_path):
    """As on machines that share no disk: half of the pictures would be judged by other weights."""
    shutil.copytree(runs / "last", tmp_path / "0")

    def kept(world):
        model = package.load(runs / "last").model
        place = {"position": SimpleNamespace(since=1, epochs=3, step=6), "steps_per_epoch": 2}
        told = keep_best(SimpleNamespace(world=world, folder=tmp_path / str(world.rank), model=model, **place), str)
        return told, model.fc8.weight

    best = load_file(runs / "last" / run_files.BEST)["fc8.weight"]
    assert [(told, torch.equal(weight, best)) for told, weight in threads(2, kept)] == [(2, True)] * 2


BETTER = "epoch 2 had the lowest validation error, 20.00 % (epoch 3, the last: 30.00 %)"


def test_a_run_says_at_its_end_and_when_evaluated_that_an_earlier_epoch_was_better(alexnet, runs):
    for name, expected in (("last", True), ("even", False), ("kept", False)):
        said = (runs / f"{name}.txt").read_text()
        assert (BETTER in said) == ("had the lowest" in said) == expected, name
        for words in ([runs / name], [runs / name, "--weights", "last"], [runs / name, "--weights", "best"]):
            _, out, _ = alexnet("evaluate", *words, runs / "data")
            assert (BETTER in out) == ("had the lowest" in out) == (expected and len(words) == 1), words


def test_best_and_last_are_the_runs_two_files_for_every_command(alexnet, runs, tmp_path):
    run, data = runs / "last", runs / "data"
    picture = tmp_path / "a.png"
    coloured("red", 77).save(picture)
    weights = {
        name: package.load(run / file) for name, file in (("best", "best.safetensors"), ("last", "model.safetensors"))
    }
    assert not torch.equal(weights["best"].model.fc8.weight, weights["last"].model.fc8.weight)
    for name, one in weights.items():
        out = json.loads(alexnet("predict", run, picture, "--weights", name, "--json")[1].splitlines()[-1])
        said = {c["label"]: c["probability"] for c in out["results"][0]["classes"]}
        expected = {c.label: c.probability for c in one.predict(picture)[0].classes}
        assert said == pytest.approx(expected)
        alexnet("features", run, picture, "--weights", name, "--output", tmp_path / f"{name}.npy", "--layer", "fc8")
        logits = np.load(tmp_path / f"{name}.npy")[0]
        assert logits == pytest.approx(next(iter(one.features([picture], "fc8"))).values["fc8"], rel=1e-4, abs=1e-6)
        loss = json.loads(alexnet("evaluate", run, data, "--weights", name, "--json")[1].splitlines()[-1])["loss"]
        assert loss == pytest.approx(package.evaluate(one, data, device="cpu").loss)
        words = ["--set", "max_steps=1", "epochs=1", "precision=float32", "--weights", name]
        alexnet("finetune", run, data, "--out", tmp_path / f"f{name}", *words)
        alexnet("train", data, "--out", tmp_path / f"t{name}", "--recipe", "finetune", "--set", f"weights={run}",
                "variant=alexnet32", *words[1:])  # fmt: skip
        for made in (tmp_path / f"f{name}", tmp_path / f"t{name}"):
            text = (made / run_files.RECIPE).read_text()
            assert recipes.from_toml(text, "").weights == str(
                run / f"{'best' if name == 'best' else 'model'}.safetensors"
            )


def test_an_ensemble_takes_the_best_of_each_and_numbers_beside(alexnet, runs):
    words = ["evaluate", runs / "last", runs / "kept", runs / "data", "--weights", "best", "--weights", "0.25,0.75"]
    facts = json.loads(alexnet(*words, "--json")[1].splitlines()[-1])
    files = [runs / name / run_files.BEST for name in ("last", "kept")]
    expected = package.evaluate(files, runs / "data", device="cpu", weights=[0.25, 0.75])
    assert facts["loss"] == pytest.approx(expected.loss)


def test_a_choice_of_weights_where_there_is_none_is_refused(refused, runs, tmp_path):
    assert "MODEL tiny is none; leave it out" in refused("predict", "tiny", "x.png", "--weights", "best")
    assert "has no best.safetensors; give a folder" in refused("evaluate", tmp_path, runs / "data", "--weights", "best")
    words = ["train", runs / "data", "--out", tmp_path / "run", "--weights", "best"]
    assert "name it with --set weights=RUN" in refused(*words)
    assert "it takes best, last, or numbers" in refused("evaluate", "tiny", runs / "data", "--weights", "first")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("last", "The weights are those of the last epoch, 3. By the error on the 3 held-out pictures (the other "
                 "tenth), epoch 2 was the best, 20.00 %: its weights are best.safetensors"),
        ("even", "The weights are those of the last epoch, 3."),
        ("kept", "The weights are those of epoch 2 of 3, chosen by the lowest error on the 3 held-out pictures (the "
                 "other tenth), 20.00 %. As these pictures chose it"),
    ],
)  # fmt: skip
def test_the_report_says_which_epoch_was_chosen_by_which_pictures(runs, name, said):
    text = write(runs / name, find_data(runs / "data")).read_text()
    assert f"<p>{said}" in text


@pytest.mark.draws
def test_the_curves_mark_the_epoch(runs, monkeypatch):
    from matplotlib.axes import Axes

    from alexnet.training import plots

    seen = []
    real = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: seen.append((a, k.get("label", ""))) or real(self, *a, **k))
    for kept, label in ((None, "lowest: epoch 2, 20.00 %"), (3, "weights kept: epoch 3, 30.00 %")):
        plots.draw_curves(SimpleNamespace(folder=runs / "last"), kept)
        (points,) = [arguments for arguments, text in seen if text == label]
        assert points[:2] == ([kept or 2], [pytest.approx(30 if kept else 20)])


def test_names_of_any_kind_go_through_training_evaluation_and_the_report(alexnet, refused, runs, tmp_path):
    classes = ["caf\udce9", "a\nb", '<i>"x",y']
    for number, name in enumerate(classes):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(3):
            coloured("red", 10 * number + n).save(tmp_path / "data" / name / f"\udce9 <{n}>\n.png")
    run, data = tmp_path / "run", tmp_path / "data"
    words = ["--set", "max_steps=1", "epochs=1", "precision=float32", "valid=0.5"]
    assert alexnet("finetune", runs / "last", data, "--out", run, *words)[0] == 0
    text = (run / "report.html").read_text("utf-8")
    assert r"<td>caf\xe9<td>" in text
    assert r"<td>a\nb<td>" in text
    assert "<td>&lt;i&gt;&quot;x&quot;,y<td>" in text
    assert not re.search("<i>|<0>|<1>|<2>", text)
    tables = {"--per-class": "c.csv", "--confusion": "m.csv", "--pictures": "p.csv"}
    given = [x for option, file in tables.items() for x in (option, tmp_path / file)]
    assert alexnet("evaluate", run, data, *given)[0] == 0
    for file in tables.values():
        contents = (tmp_path / file).read_bytes()
        assert rb"caf\xe9" in contents
        assert b'"<i>""x"",y"' in contents
    for kind in ("jsonl", "parquet"):
        assert alexnet("evaluate", run, data, "--pictures", tmp_path / f"p.{kind}", "--split", "all")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("ascii").splitlines()]
    assert {line["truth"] for line in lines} == {r"caf\xe9", *classes[1:]}
    assert r"--out /x/\xe9 is not plain text" in refused("train", data, "--out", Path("/x/\udce9"))
