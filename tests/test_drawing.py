"""Networks, maps and heat as pictures: drawn to scale, scaled together, in order; and each layer in words."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from alexnet.inference.inside import drawing, explained, maps, network_svg
from alexnet.inference.moving import reading
from alexnet.inference.moving.annotating import Film, annotated
from alexnet.inference.prediction import ClassProbability
from alexnet.networks.shapes import layer_facts
from alexnet.networks.variants import VARIANTS
from conftest import needs
from narrow_classifier import made, picture

CROSSINGS = {
    "alexnet2012": ["conv3", "fc6", "fc7", "fc8"],
    "alexnet2012_apart": ["fc8"],
    "alexnet2012_conv6": ["conv3", "conv6", "fc6", "fc7", "fc8"],
    "alexnet2012_no_conv3": ["fc6", "fc7", "fc8"],
    "bvlc_alexnet": ["norm1", "norm2", "conv3", "fc6", "fc7", "fc8"],
    "alexnet_owt": [],
    "cifar10_13": [],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_is_drawn_to_scale_with_every_layer_once(name):
    plan = VARIANTS[name]
    svg = network_svg.network_svg(plan, plan.classes, 3, plan.input)
    root = ElementTree.fromstring(svg)
    groups = {g.get("data-layer"): g for g in elements(root, "g") if g.get("data-layer")}
    assert list(groups) == ["input", *(record.name for record in plan.layers)]
    shapes = {row.name: row.output for row in layer_facts(plan, plan.classes, 3, plan.input)}
    drawn: dict[str, list[tuple[float, float]]] = {"pixels": [], "maps": [], "units": []}
    for layer, shape in shapes.items():
        faces = [r for r in elements(groups[layer], "rect") if r.get("class") != "hit"]
        width, height = float(faces[0].get("width", 0)), float(faces[0].get("height", 0))
        if len(shape) == 3:
            drawn["pixels"].append((height, shape[1]))
            if groups[layer].get("class") in ("layer conv", "layer pool", "layer local"):
                drawn["maps"].append((width, shape[0] / len(faces)))
        else:
            drawn["units"].append((height, shape[0] / len(faces)))
        assert groups[layer].get("role") == "button"
    for what, found in drawn.items():
        largest = max(found)
        for size, count in found:
            wanted = max(network_svg.LEAST, largest[0] * count / largest[1])
            assert size == pytest.approx(wanted, abs=0.11), what
    if name in CROSSINGS:
        crossing = [layer for layer, g in groups.items() if "which see each other" in (g.get("aria-label") or "")]
        assert crossing == CROSSINGS[name]


def elements(root: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")


def test_a_formula_computes_what_the_layer_does():
    """Those of LRN and the within-map norm, with the numbers that stand in them, on one value each."""
    one = made("alexnet2012")
    said = {row.name: row for row in explained.explained(one.model)}
    found = maps.activations(one, picture(), ["conv1", "norm1", "relu2", "norm2", "norm2b"])
    k, alpha, size, beta = re.search(r"\((\S+) \+ (\S+)/(\d+) .*\)\^([\d.]+),", said["norm1"].formula).groups()
    c, y, x = 9, 3, 4
    near = found["conv1"][c - 2 : c + 3, y, x].astype(np.float64)
    wanted = found["conv1"][c, y, x] / (float(k) + float(alpha) / int(size) * (near**2).sum()) ** float(beta)
    assert found["norm1"][c, y, x] == pytest.approx(wanted, rel=1e-4)
    square = found["norm2"][c, y - 2 : y + 3, x - 2 : x + 3].astype(np.float64)
    assert "0.001/5²" in said["norm2b"].formula
    wanted = found["norm2"][c, y, x] / (1 + 0.001 / 25 * (square**2).sum()) ** 0.75
    assert found["norm2b"][c, y, x] == pytest.approx(wanted, rel=1e-4)
    assert said["conv1"].formula.startswith("y[f, i, j] = b[f] + Σ w[f, c, u, v] · x[c, 4i + u, 4j + v]")
    assert all(row.formula and row.paper for name in VARIANTS for row in explained.explained(made(name).model))


def test_maps_on_a_sheet_are_scaled_together_and_stand_in_order():
    values = np.zeros((3, 2, 2), np.float32)
    values[1], values[2, 0, 0] = 4, 2
    sheet = drawing.map_sheet(values, maps.brightest_first(values))
    tile, gap = drawing.SMALL, 1
    assert sheet.shape == (tile + 2 * gap, 3 * (tile + gap) + gap)
    firsts = [sheet[gap, gap + number * (tile + gap)] for number in range(3)]
    assert firsts == [255, 128, 0]
    heat_map = drawing.heat(np.array([[-1.0, 0, 1]]), True)[0].astype(int)
    assert heat_map[0][2] > heat_map[0][0]  # blue below zero
    assert heat_map[2][0] > heat_map[2][2]  # red above
    beneath = np.full((1, 3, 3), 100, np.uint8)
    assert drawing.overlay(beneath, np.array([[0.0, 0, 1]]), False)[0, 0].tolist() == [100] * 3


# -- on films -------------------------------------------------------------------------------------------------


def test_names_are_written_and_bars_are_as_long_as_their_probabilities():
    classes = [ClassProbability("a", 0, 0.75), ClassProbability("b" * 90, 1, 0.25)]
    drawn = np.asarray(annotated(Image.new("RGB", (400, 300), "black"), classes)).astype(int)
    size = min(300 // 22, 400 // 26)
    row = drawn[size // 4 + 3]
    assert np.argmin(row[:, 2] > 100) == pytest.approx(0.75 * 16 * size, abs=2)


def test_an_annotated_film_has_every_frame_at_its_time_with_the_classes_written_on_it(alexnet, tiny_run, tmp_path):
    needs("av")
    from films import FRAMES, RATE, frames, of_opencv, write

    clip, film = write(tmp_path / "clip.mp4", frames()), tmp_path / "out.mp4"
    status, out, err = alexnet("predict", tiny_run, clip, "--annotate", film, "--every", 5)
    assert status == 0, err
    assert "without sound" in out
    assert sorted(tmp_path.iterdir()) == [clip, film]
    wanted, found = of_opencv(clip), of_opencv(film)
    assert len(found) == FRAMES
    times = [frame.time for frame in reading.opened(str(film))]
    assert times == pytest.approx([n / RATE for n in range(FRAMES)], abs=2e-3)
    for before, after in zip(wanted, found, strict=True):
        apart = np.abs(before.astype(int) - after).mean(-1)
        assert apart[-10:, -10:].mean() < 8  # as it was in the other corner
        assert apart[:20, :40].mean() > 20
    assert "exists already" in alexnet("predict", tiny_run, clip, "--annotate", film)[2]


def test_pictures_of_other_sizes_are_fitted_into_the_film(alexnet, tiny_run, tmp_path):
    needs("av")
    from films import of_opencv

    (tmp_path / "in").mkdir()
    Image.new("RGB", (96, 72), "red").save(tmp_path / "in" / "0.png")
    for number, size in enumerate([(400, 300), (300, 300), (30, 10)], 1):
        Image.new("RGB", size, "blue").save(tmp_path / "in" / f"{number}.png")
    status, _, err = alexnet("predict", tiny_run, tmp_path / "in", "--annotate", tmp_path / "a.mp4", "--topk", 1)
    assert status == 0, err
    for frame, (width, height) in zip(of_opencv(tmp_path / "a.mp4")[1:], [(96, 72), (72, 72), (96, 32)], strict=True):
        blue = frame[..., 2] > 128
        blue[:24] = False  # where the class is written
        rows, columns = (np.flatnonzero(blue.any(axis)) for axis in (1, 0))
        assert np.ptp(columns) + 1 == pytest.approx(width, abs=3)
        assert rows.max() + 1 == pytest.approx((72 + height) / 2, abs=3)


def test_without_one_frame_that_can_be_read_no_film_is_written_and_the_true_sentence_said(refused, tiny_run, tmp_path):
    needs("av")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0.jpg").write_bytes(b"broken")
    said = refused("predict", tiny_run, tmp_path / "frames", "--annotate", tmp_path / "out.mp4")
    assert "none of 1 moving pictures can be read" in said
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_what_a_killed_command_left_of_a_film_goes_with_the_next(alexnet, tiny_run, tmp_path, ending):
    needs("av")
    from films import FRAMES, frames, of_opencv, write

    path, clip = tmp_path / f"a{ending}", write(tmp_path / "clip.mp4", frames())
    with Film(path, 12) as film:
        film.add(reading.Frame(0, 0.0, frames(1)[0]), [])
        left = film.part.with_name(film.part.name.replace(str(os.getpid()), "4194305"))
        left.write_bytes(b"the half of a film")
    path.unlink()
    assert alexnet("predict", tiny_run, clip, "--annotate", path, "--every", 24)[0] == 0
    assert sorted(tmp_path.iterdir()) == [path, clip]
    assert len(of_opencv(path)) == FRAMES
