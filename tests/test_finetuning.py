"""Fine-tuning and probing: what is kept, what learns, at which rate, and the report at the end."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import alexnet as package
from alexnet.base import run_files
from alexnet.base.metrics import read
from alexnet.data.layouts.registry import find_data
from alexnet.data.preprocess import Preprocess
from alexnet.networks.model import seeded_build
from alexnet.training import finetuning, optimizer, report, starting
from alexnet.training import recipe as recipes
from alexnet.weights.classifier import Classifier
from conftest import COLOURS, TINY, coloured
from narrow import redraw

pytestmark = pytest.mark.device

SETS = ["epochs=3", "batch_size=8", "precision=float32", "workers=1"]
WORDS = [word for one in SETS for word in ("--set", one)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two classes that the run has not seen, 24 and 8 pictures of mixed sizes and modes."""
    root = tmp_path_factory.mktemp("two")
    for name, colours, count in (("dark", ("blue", "red"), 24), ("light", ("green",), 8)):
        (root / name).mkdir()
        for n in range(count):
            picture = coloured(colours[n % len(colours)], 700 + n, (40 + n, 60 - n))
            picture = picture.convert("P") if n % 3 == 1 else picture
            picture.save(root / name / f"{n}.{'png' if n % 3 == 1 else 'jpg'}")
    return root


def state(run) -> dict[str, torch.Tensor]:
    return package.load(run).model.state_dict()


def test_finetune_learns_new_classes_and_writes_a_report(alexnet, tiny_run, two, tmp_path):
    run = tmp_path / "run"
    status, out, _ = alexnet("finetune", tiny_run, two, "--out", run, *WORDS, "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 0
    assert facts["epochs"] == 3
    one = package.load(run)
    before = package.load(tiny_run)
    assert one.classes == ["dark", "light"]
    assert one.preprocess.facts() == before.preprocess.facts()
    torch.testing.assert_close(one.preprocess.mean, before.preprocess.mean)  # the features were made for it
    moved = (one.model.conv1.weight - before.model.conv1.weight).norm() / before.model.conv1.weight.norm()
    assert 0 < moved < 0.1  # it began at the old weights, and learned
    assert recipes.from_toml((run / "recipe.toml").read_text(), "").weights == str(tiny_run)
    assert json.loads(alexnet("evaluate", run, two, "--json")[1])["top1_error"] == facts["top1_error"] == 0.0
    text = (run / report.NAME).read_text()
    assert f"alexnet finetune {tiny_run} {two} --out {run} --set epochs=3" in text
    assert "0.00 % error" in text


def test_layers_below_learn_at_their_share_of_the_rate():
    """One update of a network with equal gradients: every layer moves by its rate."""
    recipe = recipes.resolve("finetune", ["momentum=0", "weight_decay=0", "warmup=0", "rate_below=0.25", "bias_rate=2"])
    model = seeded_build(0, "alexnet32", 2, 3, 28)
    update = optimizer.build_optimizer(model, recipe)
    optimizer.set_rates(update, optimizer.rates(recipe, 0.0, optimizer.Plateau()))
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(update)
    for name, x in model.named_parameters():
        expected = 0.01 * (1 if name.startswith("fc8") else 0.25) * (2 if name.endswith("bias") else 1)
        torch.testing.assert_close(before[name] - x, torch.full_like(x, expected), rtol=1e-3, atol=1e-7)


def test_a_probe_moves_the_last_layer_alone_and_is_as_good_as_logistic_regression(alexnet, tiny_run, two, tmp_path):
    run = tmp_path / "probe"
    words = ["--recipe", "probe", "--set", "epochs=40", "stop_after=0", *SETS[1:]]
    assert alexnet("finetune", tiny_run, two, "--out", run, *words)[0] == 0
    before, after = state(tiny_run), state(run)
    assert all(torch.equal(x, before[name]) for name, x in after.items() if not name.startswith("fc8"))
    data, one = find_data(two), package.load(tiny_run)
    rows = {}
    for name, split in data.splits.items():
        values = one.features([split.read(i) for i in range(len(split))], "relu7")
        rows[name] = np.stack([v.values["relu7"] for v in values]), split.labels
    judge = LogisticRegression(max_iter=1000, class_weight="balanced").fit(*rows["train"])
    mine = package.evaluate(run, two, split="train")
    assert mine.top1_error <= 1 - judge.score(*rows["train"]) + 1 / 29
    said = read(run / run_files.METRICS)
    assert said[-1]["top1_error"] == package.evaluate(run, two).top1_error
    assert said[-1]["loss"] == pytest.approx(package.evaluate(run, two).loss, rel=1e-4)


def test_a_probe_says_which_keys_change_nothing(tiny_run, two, tmp_path):
    said: list[str] = []
    sets = [*SETS, "max_steps=1", "augment=gray", "crops=true", "crop_area=0.5", "flips=true", "colour_noise=0.1"]
    package.finetune(tiny_run, two, tmp_path / "one", "probe", sets, say=said.append)
    told = "of the central crop: crops, crop_area, flips, colour_noise, augment changes nothing"
    assert any(line.endswith(told) for line in said)
    package.finetune(tiny_run, two, tmp_path / "two", "probe", [*SETS, "max_steps=1", "flips=false"], say=said.append)
    assert sum("changes nothing" in line for line in said) == 1


def test_a_probe_decodes_and_computes_each_picture_once(tiny_run, two, tmp_path, monkeypatch):
    from alexnet.training import probing

    seen = []
    whole = probing.outputs
    monkeypatch.setattr(probing, "outputs", lambda m, images, *a: seen.append(len(images)) or whole(m, images, *a))
    package.finetune(tiny_run, two, tmp_path / "run", "probe", SETS)
    assert sum(seen) == 32


@pytest.mark.parametrize("recipe", ["finetune", "probe"])
def test_a_stopped_run_goes_on_to_the_same_weights(alexnet, slim, folders, two, tmp_path, recipe, refused):
    begun = tmp_path / "begun"
    package.train(folders, begun, None, [*TINY, "max_steps=1"])
    words = ["finetune", begun, two, "--recipe", recipe, *WORDS, "--set", "stop_after=0", "--set", "seed=4"]
    assert alexnet(*words, "--out", tmp_path / "whole")[0] == 0
    assert alexnet(*words, "--out", tmp_path / "cut", "--set", "max_steps=5")[0] == 0
    again = ["finetune", begun, two, "--out", tmp_path / "cut", "--resume"]
    other = shutil.copytree(begun, tmp_path / "other")
    assert "was started from MODEL" in refused("finetune", other, two, "--out", tmp_path / "cut", "--resume")
    other = {"finetune": "probe", "probe": "finetune"}[recipe]
    assert "the run was started with" in refused(*words, "--out", tmp_path / "cut", "--resume", "--recipe", other)
    (tmp_path / "cut" / run_files.RECIPE).unlink()
    assert alexnet(*again, "--set", "max_steps=0")[0] == 0
    assert f"--out {tmp_path / 'cut'} --set max_steps=0 --resume</pre>" in (tmp_path / "cut" / report.NAME).read_text()
    without = [f"--set={one}" for one in (*SETS, "stop_after=0", "seed=4") if not one.startswith("epochs")]
    status, out, _ = alexnet(*again, "--recipe", recipe, *without)
    assert (status, "epochs stays" in out) == (0, True)
    runs = [recipes.from_toml((tmp_path / name / "recipe.toml").read_text(), "") for name in ("whole", "cut")]
    assert runs[0].epochs == runs[1].epochs
    for name, x in state(tmp_path / "whole").items():
        assert torch.equal(x, state(tmp_path / "cut")[name]), name


@pytest.fixture
def begun(slim, folders, tmp_path):
    """A run whose layers were changed."""
    package.train(folders, tmp_path / "begun", None, [*TINY, "max_steps=1", "activation=tanh", "dropout=0.3"])
    return tmp_path / "begun"


def test_keys_of_a_recipe_file_that_the_model_decides_are_named_and_set_ones_count(begun, folders, tmp_path):
    mine, said = tmp_path / "my.toml", []
    mine.write_text('dropout = 0.2\nchannels = 1\nsquare = "squash"\nmax_steps = 1\nprecision = "float32"\n')
    package.finetune(begun, folders, tmp_path / "run", str(mine), ["square=squash"], say=said.append)
    assert "dropout is 0.3 by MODEL, not 0.2; --set dropout=0.2 changes it" in said
    assert [line.split()[0] for line in said if "by MODEL" in line] == ["channels", "dropout"]
    chosen = recipes.resolve(str(tmp_path / "run" / run_files.RECIPE))
    assert (chosen.dropout, chosen.activation, chosen.square, chosen.max_steps) == (0.3, "tanh", "squash", 1)


def test_layers_that_compute_otherwise_than_the_weights_were_trained_with_are_said(begun, folders, tmp_path):
    for sets, changed in (((), ["dropout", "activation"]), (("activation=tanh", "dropout=0.3"), [])):
        said: list[str] = []
        sets = [*TINY, "max_steps=1", f"weights={begun}", *sets]
        package.train(folders, tmp_path / f"run{len(changed)}", None, sets, say=said.append)
        told = [line for line in said if "and was" in line]
        assert [line.split()[0] for line in told] == changed


def test_fine_tuning_starts_from_one_network(refused, folders, tmp_path):
    words = "finetune", "tiny", folders, "--out", tmp_path / "run", "--set", "weights=other"
    assert "--set weights=other was given beside MODEL " in refused(*words)


def test_early_stopping_ends_the_run_with_its_best_weights(tiny_run, two, tmp_path):
    """A rate that is far too high makes later epochs worse; the best one's weights are what stays."""
    sets = [*SETS, "epochs=30", "stop_after=3", "learning_rate=0.02", "rate_below=1", "flips=false", "seed=2"]
    said: list[str] = []
    result = package.finetune(tiny_run, two, tmp_path / "run", "finetune", sets, say=said.append)
    epochs = [line for line in read(tmp_path / "run" / run_files.METRICS) if line["kind"] == "epoch"]
    errors = [line["valid_top1_error"] for line in epochs]
    best = errors.index(min(errors))
    assert result.epochs == len(errors) == best + 4 < 30
    assert result.top1_error == min(errors)
    assert "the validation error has stalled for 3 epochs: done" in said
    assert f"the weights are those of epoch {best + 1}, whose validation error is lowest" in said
    assert (tmp_path / "run" / run_files.LAST).read_bytes() == (tmp_path / "run" / run_files.BEST).read_bytes()


def test_class_weights_make_every_class_count_as_much():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = starting.class_weights(labels, 4)
    sums = [float(weights[labels[labels == c]].sum()) for c in (0, 1, 3)]
    assert sums == pytest.approx([2.5] * 3)
    logits = torch.randn(10, 4, dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), weights.double(), reduction="sum")
    each = [-logits[i].log_softmax(0)[c] for i, c in enumerate(labels.tolist())]
    by_class = [np.mean([float(e) for e, c in zip(each, labels, strict=True) if c == k]) for k in (0, 1, 3)]
    assert float(loss) == pytest.approx(2.5 * sum(by_class))


@pytest.mark.parametrize("scale", [(64.0,), (58.0, 57.0, 61.0)])
def test_one_channel_gives_of_gray_what_three_gave(slim, tmp_path, scale):
    old = Preprocess(32, 28, "RGB", scale, torch.tensor([140.0, 110.0, 90.0])[:, None, None])
    three = seeded_build(1, "alexnet32", 2, 3, 28)
    redraw(three)
    file = tmp_path / "three.safetensors"
    Classifier(three, old, ["a", "b"]).save(file)
    gray = recipes.override(finetuning.recipe_for(str(file), "finetune"), {"channels": 1})
    one, new = starting.begin(gray, 2)
    picture = coloured("blue", 3).convert("L")
    before, after = (net.eval()(how(picture)[None], until="conv1").detach() for net, how in ((three, old), (one, new)))
    edge = three.conv1.padding[0]  # what pads is a mean, and three are not one
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(after[inside], before[inside], rtol=1e-4, atol=1e-4)


def test_more_channels_share_the_weights_of_the_old_ones():
    weight = torch.randn(8, 3, 5, 5)
    seven = starting.adapt_channels(weight, 7)
    assert seven.shape == (8, 7, 5, 5)
    for old, new in ((0, [0, 3, 6]), (1, [1, 4]), (2, [2, 5])):
        torch.testing.assert_close(seven[:, new].sum(1), weight[:, old])
    torch.testing.assert_close(starting.adapt_channels(weight, 3), weight)


def test_finetune_with_gray_pictures(alexnet, tiny_run, two, tmp_path):
    words = ["--out", tmp_path / "gray", *WORDS, "--set", "channels=1", "--set", "max_steps=1"]
    assert alexnet("finetune", tiny_run, two, *words)[0] == 0
    assert package.load(tmp_path / "gray").preprocess.order == "L"


def test_the_report_stands_alone_and_shows_the_surest_mistakes_first(tiny_run, tmp_path):
    """Labels that are wrong on purpose: green pictures among the red ones."""
    for name in COLOURS:
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(10):
            coloured("green" if name == "red" and n < 4 else name, 900 + n).save(tmp_path / "data" / name / f"{n}.png")
    run = shutil.copytree(tiny_run, tmp_path / "a<b")
    data = find_data(tmp_path / "data")
    everything = type(data)(data.path, data.layout, data.classes, {"valid": data.split("all")})
    one = package.load(run)
    judged = report.judge(one, everything.split("valid"))
    assert judged.confusion.sum() == 30
    assert judged.confusion[2, 1] == 4
    assert judged.confusion.trace() == 26
    assert all(m.taken_for == 1 and m.label == 2 for m in judged.mistakes)
    margins = [m.probability - m.own for m in judged.mistakes]
    assert margins == sorted(margins, reverse=True)
    text = report.write(run, everything, "cpu", ["alexnet", "x y"]).read_text()
    assert "<h1>a&lt;b</h1>" in text
    assert "alexnet &#x27;x y&#x27;" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text
    pictures = [base64.b64decode(x) for x in re.findall(r"base64,([^\"]+)", text)]
    assert len(pictures) == 2 + 4  # curves, matrix, mistakes
    for contents in pictures:
        with Image.open(io.BytesIO(contents)) as picture:
            picture.load()


def test_finetuning_refusals(refused, tiny_run, two, folders, tmp_path):
    out = ["--out", tmp_path / "run"]
    single = tmp_path / "single"
    for name, count in (("a", 4), ("b", 1)):
        (single / name).mkdir(parents=True)
        for n in range(count):
            coloured("red", n).save(single / name / f"{n}.png")
    assert "has one picture of b; give two or more" in refused("finetune", tiny_run, single, *out)
    assert "does not exist" in refused("finetune", tmp_path / "none", two, *out)
    assert "did you mean 'probe'" in refused("finetune", tiny_run, two, *out, "--recipe", "prob")
    assert "the recipe's variant is alexnet64" in refused("finetune", tiny_run, two, *out, "--set", "variant=alexnet64")
    assert "already holds a run" in refused("finetune", tiny_run, folders, "--out", tiny_run)
