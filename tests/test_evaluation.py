"""Errors and loss against a loop over single pictures in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet import evaluate
from alexnet.checkpoint import Classifier
from alexnet.data.layouts import Data, find
from alexnet.errors import AlexNetError
from alexnet.evaluation import count
from alexnet.model import seeded_build
from alexnet.preprocess import Preprocess


@pytest.fixture(scope="module")
def data() -> Data:
    """30 digits."""
    digits = find("digits")
    some = digits.split("valid").take(np.arange(30), "some")
    return Data(digits.path, digits.layout, digits.classes, {"valid": some})


@pytest.fixture(scope="module")
def untrained() -> Classifier:
    """Random weights for ten classes: errors near 90 and 50 %, which a mistake in counting would show."""
    model = seeded_build(3, "alexnet32", 10, 1, 28).eval()
    with torch.no_grad():
        model.fc8.weight *= 30
    mean = torch.full((1, 32, 32), 80.0)
    return Classifier(model, Preprocess(32, 28, "L", (64.0,), mean), [str(n) for n in range(10)])


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
    got = evaluate(untrained, data, batch_size=batch_size, device="cpu")
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
    places = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]  # spec 6
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


def test_ten_views_and_ensembles_are_those_of_a_loop_in_float64(untrained, data):
    other = Classifier(
        seeded_build(5, "alexnet32", 10, 1, 26).eval(),
        Preprocess(32, 26, "L", (64.0,), torch.full((1, 32, 32), 60.0)),
        untrained.classes[::-1],  # the same classes in another order
    )
    with torch.no_grad():
        other.model.fc8.weight *= 30
    split, weights = data.split("valid"), (0.75, 0.25)
    members = []
    for one in (untrained, other):
        wide = seeded_build(0, "alexnet32", 10, 1, one.preprocess.input).eval()
        wide.load_state_dict(one.model.state_dict())
        members.append((wide.double(), one))
    wrong1 = wrong5 = loss = 0.0
    for i, label in enumerate(split.labels.tolist()):
        total = np.zeros(10)
        for (wide, one), weight in zip(members, weights, strict=True):
            p = one.preprocess
            pixels, border, mean = p.pixels(split.read(i)).double(), p.stored - p.input, float(p.mean[0, 0, 0])
            for y, x in [(0, 0), (0, border), (border // 2, border // 2), (border, 0), (border, border)]:
                crop = (pixels[:, y : y + p.input, x : x + p.input] - mean) / 64
                for view in (crop, crop.flip(2)):
                    with torch.no_grad():
                        answer = torch.softmax(wide(view[None])[0], 0).numpy()
                    total += weight / 10 * (answer[::-1] if one is other else answer)
        ranked = np.argsort(-total)
        wrong1 += ranked[0] != label
        wrong5 += label not in ranked[:5]
        loss -= np.log(total[label])
    got = evaluate([untrained, other], data, device="cpu", views=10, weights=weights)
    n = len(split)
    assert (got.images, got.top1_error, got.top5_error) == (n, wrong1 / n, wrong5 / n)
    assert got.loss == pytest.approx(loss / n, rel=1e-5)


def test_an_ensemble_of_one_network_twice_is_that_network(untrained, data):
    once = evaluate(untrained, data, device="cpu")
    twice = evaluate([untrained, untrained], data, device="cpu")
    assert (once.top1_error, once.top5_error) == (twice.top1_error, twice.top5_error)
    assert once.loss == pytest.approx(twice.loss, rel=1e-5)


def test_views_and_weights_that_do_not_fit_are_refused(untrained, data):
    with pytest.raises(AlexNetError, match="it takes 1 or 10"):
        evaluate(untrained, data, views=5)
    with pytest.raises(AlexNetError, match="1 weights were given for 2 models"):
        evaluate([untrained, untrained], data, weights=[1.0])
    stranger = Classifier(untrained.model, untrained.preprocess, [f"class {n}" for n in range(10)])
    with pytest.raises(AlexNetError, match="must know the same classes"):
        evaluate([untrained, stranger], data, device="cpu")
