"""The examples at small size: they learn, their scores are right on answers made by hand, and they draw."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import detection
import scenes
import segmentation


def test_scenes_have_boxes_around_the_pixels_of_their_shapes():
    for seed in range(20):
        one = scenes.scene(seed, 64)
        assert one.picture.shape == (3, 64, 64)
        assert len(one.boxes) == len(one.labels) >= 1
        for box, label in zip(one.boxes.int().tolist(), one.labels.tolist(), strict=True):
            x0, y0, x1, y1 = box
            inside = one.pixels[y0 : y1 + 1, x0 : x1 + 1]
            assert (inside == label).float().mean() > 0.4
            assert set(inside.unique().tolist()) <= {0, label}
        total = sum(float((box[2] - box[0] + 1) * (box[3] - box[1] + 1)) for box in one.boxes)
        assert (one.pixels > 0).sum() <= total


def boxes(*rows: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """Answers: x0, y0, x1, y1, label, score."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


def test_average_precision_of_answers_made_by_hand():
    there = scenes.Scene(
        torch.zeros(3, 64, 64),
        torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 50]]),
        torch.tensor([1, 2]),
        torch.zeros(64, 64),
    )
    right, second = (0, 0, 10, 10, 1, 0.9), (30, 30, 50, 50, 2, 0.8)
    cases = [
        ([right, second], 1.0),
        ([right], 0.5),
        ([right, (30, 30, 50, 50, 1, 0.8)], 0.5),  # the wrong class
        ([right, (0, 0, 10, 10, 1, 0.95)], 0.5),  # found twice: one counts
        ([(60, 60, 64, 64, 1, 0.95), right, second], 2 / 3),  # wrong and surest: best precision after it is 2/3
        ([(0, 0, 10, 4, 1, 0.9)], 0.0),  # an overlap of 0.4
        ([], 0.0),
    ]
    for rows, expected in cases:
        assert detection.average_precision([boxes(*rows)], [there]) == pytest.approx(expected)


def test_segmentation_learns_the_scenes(tmp_path):
    torch.manual_seed(0)
    net = segmentation.build(None)
    before = segmentation.mean_iou(net, 8, 32)
    said: list[str] = []
    segmentation.train(net, 12, 32, 4, said.append)
    assert float(said[-1].split()[-1]) < float(said[0].split()[-1])
    assert segmentation.mean_iou(net, 8, 32) > before
    segmentation.draw(net, str(tmp_path / "a.png"), 32, 2)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (128, 192)


def test_detection_trains_and_answers(tmp_path):
    torch.manual_seed(0)
    net = detection.build(None, 64)
    weight = net.backbone.conv1.weight.clone()
    said: list[str] = []
    detection.train(net, 4, 64, 2, said.append)
    assert not torch.equal(net.backbone.conv1.weight, weight)  # gradients reach the first layer
    assert "loss_box_reg" in said[-1]
    some = [scenes.scene(seed, 64) for seed in range(2)]
    answers = detection.found_in(net, some)
    assert 0 <= detection.average_precision(answers, some) <= 1
    detection.draw(answers, some, str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (576, 288)
