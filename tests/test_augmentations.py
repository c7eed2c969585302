"""Further augmentations against loops over pictures, whatever the number of processes, behind the one pass or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.data import augment, augment_fast, augmentations
from alexnet.data.augmentations import NAMED, Dice, Part, augmented, draw, named
from alexnet.data.preprocess import Preprocess
from alexnet.training.recipe import Recipe, override

CPU = torch.device("cpu")
COUNT, SIDE, CROP = 24, 16, 12
PICTURES = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=augment.generator(5), dtype=torch.uint8)
PREPROCESS = Preprocess(SIDE, CROP, "RGB", (57.0,), torch.full((3, SIDE, SIDE), 120.0))
STD, AXES = torch.tensor([30.0, 9.0, 4.0]), torch.linalg.qr(torch.rand(3, 3, generator=augment.generator(9)))[0]


def made(sets: dict, rows: range = range(COUNT), count: int = COUNT) -> torch.Tensor:
    recipe = override(Recipe(), sets)
    part = Part(np.array(rows), count, (0, 1, 2))
    drawn = draw(recipe, part, PREPROCESS, STD, AXES, recipe.colour_noise, CPU)
    return augmented(PICTURES[list(rows)], recipe, part, drawn)


def gray(before, after, amount):
    changed = (before != after).flatten(1).any(1)
    for picture, was in zip(after[changed], before[changed], strict=True):
        pixels = Image.fromarray(was.permute(1, 2, 0).numpy().astype(np.uint8)).convert("L")
        assert np.abs(picture.numpy() - np.asarray(pixels, float)).max() <= 1
    return changed


def brightness(before, after, amount):
    factors = (after / before).flatten(1).gather(1, before.flatten(1).argmin(1, keepdim=True))[:, :, None, None]
    assert ((factors >= 1 - amount) & (factors <= 1 + amount)).all()  # at each picture's darkest place, far from 255
    assert torch.allclose(after, (before * factors).clamp(max=255), rtol=1e-4, atol=1e-2)
    return (before != after).flatten(1).any(1)


def erase(before, after, amount):
    changed = (before != after).flatten(1).any(1)
    for picture, was in zip(after[changed], before[changed], strict=True):
        hole = (picture == 0).all(0)
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        side = len(rows)
        assert hole.sum() == side * len(columns) == side**2
        assert before.shape[-1] / 4 <= side <= before.shape[-1] / 2
        assert torch.equal(picture[:, ~hole], was[:, ~hole])
    return changed


LOOPS = {check.__name__: (check, share) for check, share in ((gray, 0.5), (brightness, 1.0), (erase, 0.5))}


@pytest.mark.parametrize("name", NAMED)
def test_each_named_step_is_that_of_a_loop_on_as_many_pictures_as_it_says(name):
    check, share = LOOPS[name]
    pictures = torch.rand(400, 3, 16, 16, generator=augment.generator(7)).mul(254).add(1).round()
    got = NAMED[name].act(pictures, 0.5, Dice(Part(np.arange(400), 400, (0, 0, 0)), 0, CPU))
    changed = check(pictures, got, 0.5)
    assert abs(changed.float().mean() - share) < 0.1


@pytest.mark.parametrize("text", ["", *NAMED, "gray, erase"])
@pytest.mark.parametrize("crop_area", [1.0, 0.5])
def test_processes_see_their_rows_of_the_same_batch_and_the_one_pass_changes_nothing(text, crop_area, monkeypatch):
    sets = {"augment": text, "crop_area": crop_area}
    whole = made(sets)
    assert torch.equal(torch.cat([made(sets, range(10)), made(sets, range(10, COUNT))]), whole)
    monkeypatch.setattr(augment_fast, "augmented", lambda *given: None)
    assert torch.equal(made(sets), whole)


@pytest.mark.parametrize("crop_area", [1.0, 0.5])
def test_without_crops_every_picture_is_its_middle(crop_area):
    plain = {"crops": False, "flips": False, "colour_noise": 0.0, "crop_area": crop_area}
    low = (SIDE - CROP) // 2
    middle = (PICTURES[:, :, low : low + CROP, low : low + CROP].float() - 120) / 57
    torch.testing.assert_close(made(plain), middle)


def test_the_one_pass_makes_all_up_to_the_scale_or_nothing():
    recipe, part = Recipe(), Part(np.arange(2), 2, (0, 0, 0))
    drawn = draw(recipe, part, PREPROCESS, STD, AXES, 0.1, CPU)

    def names(**keys) -> list[str]:
        return [name for name, _ in augmentations.steps(replace(recipe, **keys), part, drawn, CPU)]

    assert names(augment="erase,gray") == ["crops", "gray", "mean", "colour", "scale", "erase"]
    assert augment_fast.fused_steps(names()) == augment_fast.fused_steps(names(augment="erase")) == 4
    assert augment_fast.fused_steps(names(augment="gray")) == 0
    boxes = replace(drawn, boxes=torch.zeros(2, 4))
    assert augment_fast.fused_steps([name for name, _ in augmentations.steps(recipe, part, boxes, CPU)]) == 0


def test_amounts_are_given_by_name_and_what_is_none_is_refused():
    assert named("gray=0.5, erase") == (("gray", 0.5), ("erase", NAMED["erase"].amount))
    for wrong in ("gray=2", "gray=0", "gray=much", "gray,gray", "gray=nan"):
        with pytest.raises(AlexNetError, match="the amount more than 0 and 1 at most"):
            override(Recipe(), {"augment": wrong})
    with pytest.raises(AlexNetError, match="given 'greys', which is none of its steps; did you mean 'gray'"):
        override(Recipe(), {"augment": "greys"})
