"""Errors and loss against a loop over single pictures in float64."""

from __future__ import annotations

import copy
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from alexnet import evaluate
from alexnet.base.errors import AlexNetError
from alexnet.cli import run
from alexnet.data import labels
from alexnet.data.layouts.registry import Data, find_data
from alexnet.data.preprocess import Preprocess
from alexnet.inference import confusion, ensemble
from alexnet.inference.ensemble import fit_weights, search
from alexnet.inference.matching import columns
from alexnet.inference.scoring import count
from alexnet.networks.model import AlexNet, seeded_build
from alexnet.networks.variants import VARIANTS
from alexnet.weights.classifier import Classifier
from narrow import narrow, redraw

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def data() -> Data:
    """30 digits."""
    digits = find_data("digits")
    some = digits.split("valid").take(np.arange(30), "some")
    return Data(digits.path, digits.layout, digits.classes, {"valid": some})


@pytest.fixture(scope="module")
def untrained() -> Iterator[Classifier]:
    """Random weights for ten classes: errors near 90 and 50 %, which a mistake in counting would show. A narrow net, as
    the variant is while this file is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))
        mean = torch.full((1, 32, 32), 80.0)
        yield Classifier(drawn(3), Preprocess(32, 28, "L", (64.0,), mean), [str(n) for n in range(10)])


def drawn(seed: int, input: int = 28) -> AlexNet:
    model = seeded_build(seed, "alexnet32", 10, 1, input).eval()
    redraw(model, seed)
    return model


@pytest.mark.parametrize("batch_size", [7, 128])
def test_errors_and_loss_are_those_of_a_loop_in_float64(untrained, data, batch_size):
    split = data.split("valid")
    wrong1 = wrong5 = loss = 0.0
    wide = seeded_build(3, "alexnet32", 10, 1, 28).eval()
    wide.load_state_dict(untrained.model.state_dict())
    wide.double()
    for i, label in enumerate(split.labels.tolist()):
        with torch.no_grad():
            logits = wide(untrained.preprocess(split.read(i))[None].double())[0].numpy()
        ranked = np.argsort(-logits)
        wrong1 += ranked[0] != label
        wrong5 += label not in ranked[:5]
        loss += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    got = evaluate(untrained, data, batch_size=batch_size)
    n = len(split)
    assert 0.2 < wrong5 / n < 0.8
    assert (got.images, got.top1_error, got.top5_error) == (n, wrong1 / n, wrong5 / n)
    assert got.loss == pytest.approx(loss / n, rel=1e-5)


def test_top_five_of_fewer_than_six_classes_is_never_wrong():
    logits = torch.eye(3)
    n, wrong1, wrong5, _ = count(logits, torch.tensor([0, 2, 1])).tolist()
    assert (n, wrong1, wrong5) == (3, 2, 0)


# -- views and ensembles ----------------------------------------------------------------------------------------


def test_ten_views_are_the_corners_and_the_centre_and_their_mirrors():
    preprocess = Preprocess(256, 224, "RGB", (1.0,), torch.zeros(3, 256, 256))
    picture = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    views = list(preprocess.ten(picture))
    places = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]  # docs/facts.md 6
    for number, view in enumerate(views):
        y, x = places[number % 5]
        expected = picture[..., y : y + 224, x : x + 224]
        assert torch.equal(view, expected.flip(-1) if number >= 5 else expected)
    assert len(views) == 10


def test_ten_views_of_a_net_without_a_border_come_from_the_enlarged_picture():
    preprocess = Preprocess(28, 28, "L", (1.0,), torch.zeros(1, 28, 28))
    ramp = torch.arange(28.0).expand(1, 1, 28, 28)
    views = list(preprocess.ten(ramp))
    assert all(view.shape == (1, 1, 28, 28) for view in views)
    step = views[0][0, 0, 14, 10:18].diff().mean()
    assert step == pytest.approx(7 / 8, rel=1e-3)
    assert views[1][..., 10].mean() > views[0][..., 10].mean()


@pytest.fixture(scope="module")
def two(untrained, data) -> tuple[list[Classifier], np.ndarray]:
    """Two networks that differ in sizes and in the order of classes; their logits of ten views each in float64, written
    out: (2, pictures, 10, classes)."""
    other = Classifier(
        drawn(5, 26),
        Preprocess(32, 26, "L", (64.0,), torch.full((1, 32, 32), 60.0)),
        untrained.classes[::-1],
    )
    logits = []
    for one in (untrained, other):
        wide = seeded_build(0, "alexnet32", 10, 1, one.preprocess.input).eval()
        wide.load_state_dict(one.model.state_dict())
        wide.double()
        p = one.preprocess
        border, mean = p.stored - p.input, float(p.mean[0, 0, 0])
        for i in range(len(data.split("valid"))):
            pixels, views = p.pixels(data.split("valid").read(i)).double(), []
            for y, x in [(0, 0), (0, border), (border // 2, border // 2), (border, 0), (border, border)]:
                crop = (pixels[:, y : y + p.input, x : x + p.input] - mean) / 64
                views += [crop, crop.flip(2)]
            with torch.no_grad():
                found = wide(torch.stack(views)).numpy()
            logits.append(found[:, ::-1] if one is other else found)
    return [untrained, other], np.stack(logits).reshape(2, -1, 10, 10)


@pytest.mark.parametrize(
    ("sure", "weights"), [(1, (0.75, 0.25)), (1, (3, 1)), (1, (0, 2)), (100, (0.75, 0.25))], ids=str
)
def test_ten_views_and_ensembles_are_those_of_a_loop_in_float64(two, data, sure, weights):
    """Whatever the sum of the weights is; and of networks so sure that float32 has no such small probabilities."""
    models, logits = [copy.deepcopy(one.model) for one in two[0]], two[1] * sure
    with torch.no_grad():
        for model in models:
            model.fc8.weight *= sure
            model.fc8.bias *= sure
    members = [Classifier(model, one.preprocess, one.classes) for model, one in zip(models, two[0], strict=True)]
    wrong1 = wrong5 = loss = 0.0
    labels = data.split("valid").labels.tolist()
    for number, label in enumerate(labels):
        total = sum(
            weight / sum(weights) / 10 * np.exp(view - view.max()) / np.exp(view - view.max()).sum()
            for weight, views in zip(weights, logits[:, number], strict=True)
            for view in views
        )
        ranked = np.argsort(-total)
        wrong1 += ranked[0] != label
        wrong5 += label not in ranked[:5]
        loss -= np.log(total[label])
    got = evaluate(members, data, views=10, weights=weights)
    n = len(labels)
    assert (got.images, got.top1_error, got.top5_error) == (n, wrong1 / n, wrong5 / n)
    assert got.loss == pytest.approx(loss / n, rel=1e-5)


def test_an_ensemble_of_one_network_twice_is_that_network(untrained, data):
    once = evaluate(untrained, data)
    twice = evaluate([untrained, untrained], data)
    assert (once.top1_error, once.top5_error) == (twice.top1_error, twice.top5_error)
    assert once.loss == pytest.approx(twice.loss, rel=1e-5)


def test_views_and_weights_that_do_not_fit_are_refused(untrained, data):
    with pytest.raises(AlexNetError, match="it takes 1, 9, 10"):
        evaluate(untrained, data, views=5)
    with pytest.raises(AlexNetError, match="1 weight for 2 models; give one for each"):
        evaluate([untrained, untrained], data, weights=[1.0])
    for weights in ([0, 0], [math.nan, 1], [1, math.nan], [-1, 0.5], [2, -1], [math.inf, 1], [1e308, 1e308]):
        with pytest.raises(AlexNetError, match="give numbers from 0 up"):
            evaluate([untrained, untrained], data, weights=weights)
    with pytest.raises(AlexNetError, match="no MODEL was given"):
        evaluate([], data)
    assert evaluate([untrained, untrained], data, weights=[1e-320, 1e10]).loss == evaluate(untrained, data).loss
    stranger = Classifier(untrained.model, untrained.preprocess, [f"class {n}" for n in range(10)])
    with pytest.raises(AlexNetError, match="must know the same classes"):
        evaluate([untrained, stranger], data)


def test_nine_views_are_the_offsets_of_the_cifar_nets_without_mirrors():
    preprocess = Preprocess(32, 24, "RGB", (1.0,), torch.zeros(3, 32, 32))
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    places = [(y, x) for y in (0, 4, 8) for x in (0, 4, 8)]  # docs/facts.md 8
    views = list(preprocess.views(picture, 9))
    assert len(views) == 9
    for (y, x), view in zip(places, views, strict=True):
        assert torch.equal(view, picture[..., y : y + 24, x : x + 24])


# -- ties, tables and weights -------------------------------------------------------------------------------------


def test_tied_scores_share_the_credit_as_in_the_2012_code():
    scores = torch.randint(0, 4, (400, 9), generator=torch.Generator().manual_seed(0)).float().log_softmax(1)
    labels = torch.randint(0, 9, (400,), generator=torch.Generator().manual_seed(1))
    right = {1: 0.0, 5: 0.0}
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        better, equal = sum(x > row[label] for x in row), sum(x == row[label] for x in row)
        for places in right:  # the places left after the better ones, shared by the equal ones
            right[places] += min(1.0, max(0, places - better) / equal)
    n, wrong1, wrong5, _ = count(scores, labels, "fraction").tolist()
    assert (n - wrong1, n - wrong5) == pytest.approx((right[1], right[5]))
    assert count(scores, labels).tolist()[1] != wrong1


def test_without_ties_both_rules_agree():
    scores = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    labels = torch.arange(200) % 12
    assert count(scores, labels, "fraction").tolist() == pytest.approx(count(scores, labels).tolist())


def test_an_ensemble_may_call_the_same_classes_by_imagenets_names_and_by_wordnets_ids():
    ids = list(labels.imagenet())
    names = [labels.imagenet()[one] for one in ids]
    assert columns(names, ids) is None
    assert columns(names[::-1], ids).tolist() == list(range(999, -1, -1))
    with pytest.raises(AlexNetError, match="must know the same classes"):
        columns([*names[1:], "another"], ids)


def test_a_network_that_gives_no_numbers_is_right_about_nothing():
    assert count(torch.full((4, 9), math.nan), torch.arange(4), "fraction").tolist()[:3] == [4, 4, 4]


def test_errors_by_class_and_the_confusion_matrix_are_those_of_a_loop(untrained, data, tmp_path):
    split = data.split("valid")
    expected = np.zeros((10, 10), int)
    within5 = np.zeros(10)
    for i, label in enumerate(split.labels.tolist()):
        with torch.no_grad():
            ranked = untrained.model(untrained.preprocess(split.read(i))[None])[0].argsort(descending=True).tolist()
        expected[label, ranked[0]] += 1
        within5[label] += label in ranked[:5]
    evaluate(untrained, data, batch_size=7, per_class=tmp_path / "c.csv", confusion=tmp_path / "m.npy")
    evaluate(untrained, data, confusion=tmp_path / "m.csv")
    assert np.array_equal(np.load(tmp_path / "m.npy"), expected)
    header, *rows = csv.reader((tmp_path / "m.csv").read_text().splitlines())
    assert header == ["label", *untrained.classes]
    assert [[int(x) for x in row[1:]] for row in rows] == expected.tolist()
    for label, row in enumerate(csv.DictReader((tmp_path / "c.csv").read_text().splitlines())):
        total = expected[label].sum()
        assert (row["label"], int(row["images"])) == (str(label), total)
        assert float(row["top1_error"]) == pytest.approx(1 - expected[label, label] / total)
        assert float(row["top5_error"]) == pytest.approx(1 - within5[label] / total)


def test_outputs_that_cannot_be_are_refused_before_data_is_opened(untrained, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(confusion, "MOST", 2)
    with pytest.raises(AlexNetError, match="a confusion matrix of 10 classes is too large, up to 2 can be counted"):
        evaluate(untrained, tmp_path / "none", device="cpu", confusion=tmp_path / "c.csv")
    there = tmp_path / "there.csv"
    there.touch()
    said = refused("evaluate", "none", "none", tmp_path / "none", "--fit-weights", "--pictures", there)
    assert f"--pictures {there} exists already" in said


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_table_of_pictures_is_that_of_a_loop(untrained, data, tmp_path, suffix):
    split, file = data.split("valid"), tmp_path / f"t{suffix}"
    evaluate(untrained, data, device="cpu", batch_size=7, table=file)
    if suffix == ".csv":
        rows = list(csv.DictReader(file.read_text().splitlines()))
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pq.read_table(file).to_pylist()
    assert len(rows) == len(split)
    for i, row in enumerate(rows):
        with torch.no_grad():
            probabilities = untrained.model(untrained.preprocess(split.read(i))[None])[0].softmax(0)
        first = probabilities.argsort(descending=True)[:5].tolist()
        assert (row["file"], row["truth"]) == (split.name(i), str(split.labels[i]))
        assert [row[f"label{n}"] for n in range(1, 6)] == [str(index) for index in first]
        expected = [probabilities[index].item() for index in (*first, split.labels[i])]
        got = [float(row[key]) for key in (*(f"probability{n}" for n in range(1, 6)), "truth_probability")]
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_tables_are_refused_before_any_work_where_they_cannot_be_written(untrained, data, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(AlexNetError, match="exists already"):
        evaluate(untrained, data, per_class=tmp_path / "there.csv")
    with pytest.raises(AlexNetError, match=r"it writes .csv, .npy or .png"):
        evaluate(untrained, data, confusion=tmp_path / "m.txt")
    for one, other in (("table", "per_class"), ("table", "confusion"), ("per_class", "confusion")):
        with pytest.raises(AlexNetError, match=r"--[\w-]+ and --[\w-]+ were both given .*a.csv; give each a file"):
            evaluate(untrained, data, **{one: tmp_path / "a.csv", other: f"{tmp_path}/./a.csv"})


@pytest.mark.parametrize(("classes", "places"), [(20, 5), (4, 1)])  # of few classes, none is ever beyond the fifth
def test_fitted_weights_are_those_of_the_written_out_search(classes, places):
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (300,), generator=source)
    right = torch.nn.functional.one_hot(labels, classes)
    nets = [
        (torch.randn(300, classes, generator=source) + skill * right).softmax(1).double() for skill in (1.0, 0.2, 2.0)
    ]

    def wrong(weights):
        total = sum(w * net for w, net in zip(weights, nets, strict=True))
        return int(((total > total[range(300), labels, None]).sum(1) >= places).sum())

    weights = [0.5, 0.5, 0.5]
    for _ in range(5):  # docs/facts.md 6
        for number in range(3):
            tries = []
            for step in range(21):
                tries.append((wrong([step / 20 if n == number else w for n, w in enumerate(weights)]), step / 20))
            least = min(count for count, _ in tries)
            if least < wrong(weights):
                weights[number] = next(w for count, w in tries if count == least)
    got = search(torch.stack(nets), labels)
    assert wrong(got) == wrong(weights) < min(wrong([0.5] * 3), wrong([0, 1, 0]))
    assert got == pytest.approx(weights)


@pytest.mark.parametrize("skills", [(0, 4), (4, 0), (0, 4, 0), (0, 0, 4)])
def test_networks_that_know_nothing_leave_the_weight_to_one_that_does(skills):
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (200,), generator=source)
    nets = torch.stack([(3 - skill / 3) * torch.randn((200, 10), generator=source) for skill in skills])
    for net, skill in zip(nets, skills, strict=True):
        net[torch.arange(200), labels] += skill
    weights = search(nets.softmax(2), labels)
    total = sum(weight * net for weight, net in zip(weights, nets.softmax(2), strict=True))
    assert sum(weights) > 0
    assert (total.topk(5).indices == labels[:, None]).any(1).float().mean() > 0.95


def test_a_network_that_gives_no_numbers_gets_no_weight_and_spoils_no_other(untrained, data):
    lost = replace(untrained, model=drawn(4))
    lost.model.fc8.bias.data += math.nan
    assert fit_weights([untrained, lost], data) == [0.5, 0.0]
    alone, both = evaluate(untrained, data), evaluate([lost, untrained], data, weights=[0, 2])
    assert (both.top1_error, both.loss) == (alone.top1_error, alone.loss)


def test_fitting_weights_is_a_part_of_evaluation(untrained, data, tmp_path, capsys):
    from alexnet.base.files import write_whole
    from alexnet.weights import classifier

    files = []
    for number in range(2):
        contents = classifier.weights_bytes(drawn(number), untrained.preprocess, untrained.classes, "made for a test")
        files.append(str(tmp_path / f"{number}.safetensors"))
        write_whole(tmp_path / f"{number}.safetensors", lambda out, contents=contents: out.write(contents))
    expected = fit_weights(files, data)
    assert run(["evaluate", *files, "digits", "--fit-weights", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(0 <= w <= 1 for w in (*facts["weights"], *expected))
    assert run(["evaluate", files[0], "digits", "--fit-weights"]) == 2


def test_weights_are_fitted_by_the_engine_that_evaluates(monkeypatch, refused):
    def opened(*given, engine, batch_size, **more):
        raise AlexNetError(f"opened by {engine} for {batch_size}")

    monkeypatch.setattr(ensemble, "opened", opened)
    words = ["evaluate", "a", "b", "digits", "--fit-weights", "--engine", "openvino", "--batch-size", 7]
    assert "opened by openvino for 7" in refused(*words)
