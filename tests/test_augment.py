"""Augmentation against loops, and draws that do not depend on the number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet.data.augment import (
    Draws,
    add_colour,
    crop_and_mirror,
    crop_boxes,
    draw,
    draw_boxes,
    dropout_masks,
    generator,
)
from alexnet.data.preprocess import Preprocess

CPU = torch.device("cpu")


def pictures(count: int = 5, channels: int = 3, side: int = 9) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, side, side), generator=generator(1), dtype=torch.uint8)


def test_crops_and_mirrors_are_those_of_a_loop():
    x = pictures()
    draws = draw(5, 4, True, torch.zeros(3), generator(3))
    assert draws.mirror.any()
    assert not draws.mirror.all()
    got = crop_and_mirror(x, draws, 5)
    for i, ((top, left), mirrored) in enumerate(zip(draws.offsets.tolist(), draws.mirror.tolist(), strict=True)):
        window = x[i, :, top : top + 5, left : left + 5]
        assert torch.equal(got[i], window.flip(2) if mirrored else window)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_offsets_reach_both_borders_and_no_further():
    offsets = draw(4000, 32, True, torch.zeros(3), generator(0)).offsets
    assert (offsets.min(), offsets.max()) == (0, 32)  # 33 x 33 places, docs/facts.md 5.3
    counts = torch.bincount(offsets.flatten(), minlength=33)
    assert counts.min() > 180  # 242 expected at each


def test_without_flips_nothing_is_mirrored():
    assert not draw(100, 4, False, torch.zeros(3), generator(0)).mirror.any()


def test_colour_noise_is_one_shift_a_picture_along_the_axes():
    axes = torch.linalg.qr(torch.randn(3, 3, generator=generator(5)))[0]
    draws = Draws(torch.zeros(2, 2), torch.zeros(2), torch.tensor([[10.0, 0, 0], [1.0, 2.0, 3.0]]))
    x = pictures(2).float()
    got = add_colour(x, draws, axes, 0.1)
    for i in range(2):
        shift = sum(draws.colour[i, k] * axes[k] for k in range(3))
        torch.testing.assert_close(got[i], (x[i] + shift[:, None, None]) / 1.1)


def test_colour_shifts_have_the_spread_of_the_data():
    std = torch.tensor([12.0, 3.7, 2.0])
    spread = draw(20_000, 0, True, std, generator(2)).colour.std(0)
    torch.testing.assert_close(spread, std, rtol=0.03, atol=0)


# Of ImageNet's training set, in grey levels: standard deviations along the principal axes of RGB (docs/facts.md 5.4).
IMAGENET_STD = (121.780, 37.094, 19.721)
IMAGENET_AXES = ((-0.56351, -0.57618, -0.59200), (-0.71258, -0.02354, 0.70120), (0.41796, -0.81698, 0.39731))


def test_colour_noise_of_100_000_pictures_has_the_covariance_of_the_paper():
    count, std, axes = 100_000, np.array(IMAGENET_STD), np.array(IMAGENET_AXES)
    draws = draw(count, 0, False, 0.1 * torch.tensor(IMAGENET_STD), generator(7))
    got = add_colour(torch.zeros(count, 3, 1, 1), draws, torch.tensor(IMAGENET_AXES), 0.1).flatten(1).double().numpy()
    expected = sum((0.1 * std[k] / 1.1) ** 2 * np.outer(axes[k], axes[k]) for k in range(3))
    np.testing.assert_allclose(np.sqrt(np.diag(expected)), [6.73, 6.55, 7.00], atol=0.005)  # as published
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / count)  # of a normal's estimate
    assert (np.abs(np.cov(got.T) - expected) < 4 * spread).all()
    assert (np.abs(got.mean(0)) < 4 * np.sqrt(np.diag(expected) / count)).all()
    along = got @ axes.T * 1.1 / (0.1 * std)  # back to the draws: three independent standard normals
    assert np.abs((along**4).mean(0) - 3).max() < 4 * np.sqrt(96 / count)


def test_draws_depend_on_every_part_of_their_key():
    def offsets(*key: int) -> torch.Tensor:
        return draw(50, 30, True, torch.zeros(3), generator(*key)).offsets

    first = offsets(0, 1, 2, 1)
    assert torch.equal(first, offsets(0, 1, 2, 1))
    for key in ((1, 1, 2, 1), (0, 2, 2, 1), (0, 1, 3, 1), (0, 1, 2, 2)):
        assert not torch.equal(first, offsets(*key))


def test_a_process_takes_its_rows_of_masks_drawn_for_the_whole_batch():
    layers = {"drop6": (40, 0.5), "drop7": (40, 0.2)}
    whole = dropout_masks(layers, 10, np.arange(10), (0, 1, 2), CPU)
    part = dropout_masks(layers, 10, np.array([2, 3, 7]), (0, 1, 2), CPU)
    for name, (_, rate) in layers.items():
        assert torch.equal(part[name], whole[name][[2, 3, 7]])
        assert abs(whole[name].mean() - (1 - rate)) < 0.08
    assert not torch.equal(whole["drop6"], dropout_masks(layers, 10, np.arange(10), (0, 1, 3), CPU)["drop6"])


def test_the_means_central_crop_is_subtracted_wherever_the_crop_lies():
    mean = torch.arange(3 * 8 * 8, dtype=torch.float32).reshape(3, 8, 8)
    preprocess = Preprocess(8, 4, "RGB", (2.0,), mean)
    crops = pictures(2, side=8)[:, :, :4, :4]
    torch.testing.assert_close(preprocess.normalise(crops), (crops.float() - mean[:, 2:6, 2:6]) / 2)
    assert torch.equal(preprocess.central(mean), mean[:, 2:6, 2:6])


def test_a_chunk_of_pictures_shares_crop_and_mirror_but_not_colour():
    draws = draw(100, 32, True, torch.ones(3), generator(3), chunk=32)
    for first in range(0, 100, 32):
        some = slice(first, first + 32)
        assert len(draws.offsets[some].unique(dim=0)) == len(draws.mirror[some].unique()) == 1
        assert len(draws.colour[some].unique(dim=0)) == len(draws.colour[some])
    assert len(draws.offsets.unique(dim=0)) == 4
    one = draw(100, 32, True, torch.ones(3), generator(3))
    assert len(one.offsets.unique(dim=0)) > 90


def test_boxes_lie_within_the_picture_and_have_the_area_that_was_asked_for():
    boxes = draw_boxes(20_000, 256, 0.08, generator(4))
    top, left, height, width = boxes.unbind(1)
    assert min(top.min(), left.min()) == 0
    assert max((top + height).max(), (left + width).max()) == 256
    share = height * width / 256**2
    assert share.min() > 0.075
    assert share.median() == pytest.approx(0.5, abs=0.05)  # a little lower: large boxes fit less often
    ratio = (width / height)[share < 0.5]
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert ratio.log().mean() == pytest.approx(0, abs=0.01)


def test_a_box_enlarged_is_what_torchvision_makes_of_it():
    from torchvision.transforms.v2 import functional

    x = pictures(3, side=32)
    boxes = torch.tensor([[0.0, 0, 32, 32], [3, 5, 12, 16], [8, 2, 20, 15]])
    mirror = torch.tensor([False, True, False])
    got = crop_boxes(x, boxes, mirror, 28)
    for i in range(3):
        top, left, height, width = boxes[i].int().tolist()
        # Beyond the box's edge torchvision repeats it, while the whole picture is there for us: compare inside.
        expected = functional.resized_crop(x[i].float(), top, left, height, width, [28, 28], antialias=False)
        expected = expected.flip(-1) if mirror[i] else expected
        torch.testing.assert_close(got[i][:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=0, atol=1e-3)
