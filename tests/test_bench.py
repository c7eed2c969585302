"""`alexnet bench`: its contract, and the work that its floor is computed from."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from alexnet.data.pictures import decode
from alexnet.networks.model import build
from alexnet.training.bench import made_up_data, work_of_a_step
from alexnet.training.recipe import resolve
from conftest import DEVICE

pytestmark = pytest.mark.device

SMALL = ("--set", "variant=alexnet32", "--set", "batch_size=8", "--set", "precision=float32")


def test_bench_prints_its_contract_and_a_table_for_people(alexnet):
    status, out, err = alexnet("bench", "--json", *SMALL)
    assert status == 0
    facts = json.loads(out.strip().splitlines()[-1])
    assert set(facts) == {
        *("variant", "device", "precision", "batch_size", "step", "loader", "both", "limit"),
        *("floor_images_per_second", "fraction_of_floor", "imagenet_90_epochs_hours"),
    }
    assert (facts["variant"], facts["device"], facts["precision"], facts["batch_size"]) == (
        *("alexnet32", DEVICE.type, "float32", 8),
    )
    step, loader, both = (facts[key]["images_per_second"] for key in ("step", "loader", "both"))
    assert min(step, loader, both) > 0
    assert facts["limit"] == ("step" if step <= loader else "loader")
    assert facts["fraction_of_floor"] == pytest.approx(step / facts["floor_images_per_second"])
    assert facts["imagenet_90_epochs_hours"] == pytest.approx(90 * 1_281_167 / both / 3600)
    assert f"the {facts['limit']} is the limit" in err


def test_bench_refuses_a_key_that_no_recipe_has(refused):
    assert "did you mean 'batch_size'" in refused("bench", "--set", "batchsize=8")


def test_operations_are_three_products_a_layer_less_the_gradient_of_the_pictures():
    with torch.device("meta"):
        model = build("alexnet2012")
    run = SimpleNamespace(model=model, recipe=resolve("author_2012"), precision=torch.bfloat16)
    operations, moved = work_of_a_step(run)
    conv1 = 55 * 55 * 96 * 3 * 11 * 11
    assert operations == 128 * 2 * (3 * 724_406_816 - conv1)  # 4.13 GFLOP a picture
    outputs = [96 * 55**2, 256 * 27**2, 2 * 384 * 13**2, 256 * 13**2, 2 * 4096, 1000]
    inputs = [96 * 27**2, 256 * 13**2, 2 * 384 * 13**2, 256 * 6**2, 2 * 4096]
    assert moved == 2 * 128 * (5 * (sum(outputs) + sum(inputs)) + 2 * 3 * 224**2) + 24 * 60_965_224


def test_made_up_pictures_are_photographs_in_size_and_differ():
    data = made_up_data(6, 3, (200, 150), distinct=4)
    split = data.split("train")
    assert len({split.read(i) for i in range(6)}) == 4
    assert decode(split.read(0), 3).size == (200, 150)
    gray = made_up_data(1, 1, (40, 30))
    assert len(gray.split("valid")) == 1
