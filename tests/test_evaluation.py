"""Errors and loss against a loop over single pictures in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet import evaluate
from alexnet.checkpoint import Classifier
from alexnet.data.layouts import find
from alexnet.evaluation import count
from alexnet.model import seeded_build
from alexnet.preprocess import Preprocess


@pytest.fixture(scope="module")
def untrained() -> Classifier:
    """Random weights for ten classes: errors near 90 and 50 %, which a mistake in counting would show."""
    model = seeded_build(3, "alexnet32", 10, 1, 28).eval()
    with torch.no_grad():
        model.fc8.weight *= 30
    mean = torch.full((1, 32, 32), 80.0)
    return Classifier(model, Preprocess(32, 28, "L", 64.0, mean), [str(n) for n in range(10)])


@pytest.mark.parametrize("batch_size", [7, 128])
def test_errors_and_loss_are_those_of_a_loop_in_float64(untrained, batch_size):
    split = find("digits").split("valid")
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
    got = evaluate(untrained, "digits", batch_size=batch_size, device="cpu")
    n = len(split)
    assert 0.2 < wrong5 / n < 0.8
    assert (got.images, got.top1_error, got.top5_error) == (n, wrong1 / n, wrong5 / n)
    assert got.loss == pytest.approx(loss / n, rel=1e-5)


def test_top_five_of_fewer_than_six_classes_is_never_wrong():
    logits = torch.eye(3)
    n, wrong1, wrong5, _ = count(logits, torch.tensor([0, 2, 1])).tolist()
    assert (n, wrong1, wrong5) == (3, 2, 0)
