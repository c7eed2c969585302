"""The table of every command that knows a network, in each precision, by every variant: its cells, and where each is.

A cell is a check of this file, or another test that goes through all variants. Networks are narrow; the kinds that
differ are asked at once, their relatives by `make slow`, each for one form of weights in an .onnx; cells that take
seconds ask, there, the kinds alone, and those of an export the ones with a layer of another sort.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

import alexnet as package
from alexnet.cli.base import commands
from alexnet.inference import exporting
from alexnet.networks.variants import VARIANTS
from alexnet.serving.models import Models, Served
from alexnet.training import bench
from alexnet.weights import formats
from alexnet.weights.classifier import weights_of
from conftest import encoded, last_json, needs
from narrow import narrow
from narrow_classifier import CLASSES, made, picture
from serving import client
from tooled import KINDS, sort, with_new

pytestmark = pytest.mark.cpu

LOOP = "test_variants.py::test_two_steps_of_the_loop_are_those_by_hand_and_a_resumed_run_is_the_whole_one"
TUNED = "test_variants.py::test_finetuning_moves_every_layer_and_a_probe_the_last_alone"
ANSWERS = "test_variants.py::test_answers_features_and_errors_are_those_of_the_layers_in_float64"
CONVERTED = "test_variants.py::test_a_converted_file_gives_the_same_answers_or_the_format_says_that_it_cannot_hold_them"
ELSEWHERE = {  # the test that goes through all variants for a cell
    "train, float32": LOOP, "train, bfloat16": LOOP, "finetune, float32": TUNED, "finetune, bfloat16": TUNED,
    "evaluate, float32": ANSWERS, "evaluate, bfloat16": TUNED, "predict, float32": ANSWERS,
    "features, float32": ANSWERS, "convert, float32": CONVERTED, "compare, float32": CONVERTED,
    "export, float32": "test_export.py::test_an_export_gives_torchs_answers_to_stored_pictures_in_its_own_program",
}  # fmt: skip
WITHOUT = {  # commands that are asked for no network
    "check": "of DATA", "pack": "of DATA", "recipes": "of recipes", "similar": "of an INDEX",
    "demo": "of one network, test_demo.py", "reproduce": "of claims, each with its networks, test_reproduction.py",
}  # fmt: skip
FAR = {"fp16": 0.005, "w8": 0.05, "int8": 0.2}  # probabilities of narrow networks from those in float32


@dataclass(frozen=True)
class Asked:
    """A narrow network in a file, its classifier, pictures of its classes, and what asks a command about them."""

    name: str
    file: Path
    data: Path
    folder: Path
    run: Callable[..., tuple[int, str, str]]
    patch: pytest.MonkeyPatch

    @property
    def picture(self) -> Path:
        return next(iter(sorted(self.data.rglob("*.png"))))

    def facts(self, *words: object) -> dict:
        """The object that a command prints, which must end well."""
        status, out, err = self.run(*words, "--json")
        assert status == 0, err
        return last_json(out)

    def probabilities(self, model: Path | None = None, *words: object) -> list[float]:
        """Of the picture, in the order of classes."""
        (one,) = self.facts("predict", model or self.file, self.picture, "--topk", CLASSES, *words)["results"]
        return [each["probability"] for each in sorted(one["classes"], key=lambda each: each["index"])]


CELLS: dict[str, tuple[Callable[[Asked], None], bool]] = {}


def cell(named: str, slow: bool = False) -> Callable:
    """Enter a check in the table; `slow` ones take seconds a network."""

    def enter(check: Callable[[Asked], None]) -> Callable[[Asked], None]:
        CELLS[named] = check, slow
        return check

    return enter


@cell("train, tf32")
def _(asked):
    words = ["train", asked.data, "--out", asked.folder / "run", "--set", f"variant={asked.name}", "precision=tf32"]
    status, _, err = asked.run(*words)
    assert (status, err.splitlines()[-1]) == (
        2, "alexnet: precision tf32 was asked for, which cpu lacks; use float32, bfloat16 or auto."
    )  # fmt: skip


@cell("evaluate, ten views")
def _(asked):
    facts = asked.facts("evaluate", asked.file, asked.data, "--split", "all", "--views", 10)
    files = sorted(asked.data.rglob("*.png"))
    answers = package.predict(asked.file, files, topk=CLASSES, views=10)
    right = [
        one.probability
        for answer, file in zip(answers, files, strict=True)
        for one in answer.classes
        if one.label == file.parent.name
    ]
    assert facts["images"] == len(files)
    assert facts["loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)


@cell("info")
def _(asked):
    facts = asked.facts("info", asked.file)
    assert [row["name"] for row in facts["layers"]] == [record.name for record in VARIANTS[asked.name].layers]


@cell("index")
def _(asked):
    layer = made(asked.name).model.logits
    asked.facts("index", asked.file, asked.data, asked.folder / "index", "--layer", layer)
    (found,) = package.similar(asked.folder / "index", asked.picture)
    assert found.neighbours[0].distance == pytest.approx(0, abs=1e-3)
    assert Path(found.neighbours[0].file).name == asked.picture.name


@cell("look")
def _(asked):
    words = ["--what", "filters,maps,cam,gradient,views", "--layer", "conv2", "--out", asked.folder / "look"]
    facts = asked.facts("look", asked.file, asked.picture, *words)
    assert {Path(one).stem for one in facts["files"]} >= {"filters", "maps-conv2", "cam", "gradient", "views", "look"}
    assert [c["probability"] for c in facts["classes"]] == sorted(asked.probabilities(), reverse=True)[:5]


@cell("convert, int8")
def _(asked):
    small = asked.folder / "small.safetensors"
    asked.facts("convert", asked.file, small, "--int8")
    assert small.stat().st_size < asked.file.stat().st_size
    assert asked.probabilities(small) == pytest.approx(asked.probabilities(), abs=FAR["w8"])


def _exported(asked: Asked, format: str, weights: str) -> None:
    needs(*{"openvino": ["openvino", "nncf"], "pt2": ["torchao"], "onnx": ["onnxruntime"]}[format])
    words = ["--format", format, "--weights", weights, "--data", asked.data, "--split", "all"]
    facts = asked.facts("export", asked.file, asked.folder / "net", *words)
    if format == "pt2":  # which no command reads
        assert abs(facts["change"]["loss"][1] - facts["change"]["loss"][0]) < FAR[weights]
        return
    got = asked.probabilities(asked.folder / f"net{exporting.ENDINGS[format]}")
    assert got == pytest.approx(asked.probabilities(), abs=FAR[weights])


for _format in exporting.ENDINGS:
    for _weights in exporting.WEIGHTS:
        if (_format, _weights) != ("pt2", "int8"):  # which is w8
            CELLS[f"export, {_weights} {_format}"] = (
                lambda asked, format=_format, weights=_weights: _exported(asked, format, weights), _format != "onnx"
            )  # fmt: skip


@cell("serve")
def _(asked):
    one = made(asked.name)
    layers = ["pool2", one.model.logits]
    with client(Models([Served("one", one)])) as service:

        def answer(path: str) -> dict:
            return service.post(path, content=encoded(picture())).json()["results"][0]

        for views in (1, 10):
            wanted = package.predict(one, [picture()], views=views)[0].as_json()["classes"]
            assert answer(f"/predict?views={views}")["classes"] == wanted
        got = answer("/features?" + "&".join(f"layer={layer}" for layer in layers))["layers"]
    (features,) = package.features(one, [picture()], layers)
    for layer in layers:
        found = np.reshape(got[layer]["values"], got[layer]["shape"])
        assert np.allclose(found, features.values[layer], rtol=1e-6)


@cell("predict, of a bare array")
def _(asked):
    one = made(asked.name)
    pixels = one.preprocess.pixels(picture()).permute(1, 2, 0).numpy()
    wanted = {each.index: each.probability for each in package.predict(one, [pixels], topk=CLASSES)[0].classes}
    for engine in ("torch", "onnx", "openvino"):
        needs(*{"torch": (), "onnx": ("onnxruntime",), "openvino": ("openvino",)}[engine])
        got = package.realtime(asked.file, engine)(pixels)
        assert list(got) == pytest.approx([wanted[n] for n in range(CLASSES)], abs=5e-5)


@cell("bench", slow=True)
def _(asked):
    asked.patch.setattr(bench, "made_up_data", partial(bench.made_up_data, distinct=1))
    asked.patch.setattr(bench, "STEPS", 1)
    asked.patch.setattr(bench, "floor_rate", lambda run: 1e6)  # of the machine, by whatever variant
    facts = asked.facts("bench", "--set", f"variant={asked.name}", "batch_size=4", "precision=float32")
    assert facts["variant"] == asked.name
    assert facts["step"]["images_per_second"] > 0


@pytest.fixture
def asked(name, alexnet, tmp_path, tmp_path_factory, monkeypatch) -> Asked:
    monkeypatch.setitem(VARIANTS, name, narrow(name))
    monkeypatch.setattr(exporting, "_rate", lambda engine, batch: 100.0 * batch)
    file = tmp_path / "model.safetensors"
    formats.write(weights_of(made(name)), file)
    return Asked(name, file, _pictures(tmp_path_factory.getbasetemp()), tmp_path, alexnet, monkeypatch)


@cache
def _pictures(root: Path) -> Path:
    """Two pictures of each of the seven classes, to train on and held out alike."""
    for split in ("train", "val"):
        for number in range(CLASSES):
            folder = root / "by_variant" / split / f"class {number}"
            folder.mkdir(parents=True)
            picture(number).save(folder / f"{number}.png")
    return root / "by_variant"


def variants_of(named: str, slow: bool) -> Iterable[str]:
    if slow:
        return with_new(partial(map, sort), KINDS) if named.startswith("export") else KINDS
    turns = [f"export, {weights} onnx" for weights in exporting.WEIGHTS]  # which the relatives take in turn
    return [
        name
        for number, name in enumerate(VARIANTS)
        if name in KINDS or named not in turns or named == turns[number % len(turns)]
    ]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        pytest.param(name, named, marks=[pytest.mark.slow] * (slow or name not in KINDS))
        for named, (_, slow) in CELLS.items()
        for name in variants_of(named, slow)
    ],
)
def test_every_variant_in_every_command_and_precision(asked, named):
    CELLS[named][0](asked)


def test_no_command_is_missing_in_the_table():
    there = {named.partition(",")[0] for named in (*CELLS, *ELSEWHERE)}
    assert there | WITHOUT.keys() == set(commands.commands)
    assert not there & WITHOUT.keys()


def test_what_is_said_to_be_elsewhere_is_there_for_all_variants():
    for named, where in ELSEWHERE.items():
        file, _, test = where.partition("::")
        source = (Path(__file__).parent / file).read_text("utf-8")
        found = re.search(rf"\ndef {test}\(([^)]*)\)", source)
        assert found, f"{where} of the cell {named} is not there"
        assert "name" in found[1]
        assert "VARIANTS" in source


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet2012_apart"])
def test_fully_connected_layers_in_groups_are_rounded_in_a_pt2_too(asked):
    needs("torchao")
    (file,) = package.export(asked.file, asked.folder / "net", "pt2", "w8").files
    program, one = torch.export.load(file), made(asked.name)
    rounded = [x.numel() for x in program.state_dict.values() if type(x) not in (torch.Tensor, torch.nn.Parameter)]
    assert sum(rounded) == sum(getattr(one.model, layer).weight.numel() for layer in ("fc6", "fc7", "fc8"))
    with torch.no_grad():
        _, (found,) = program.module()(one.preprocess.pixels(picture()).permute(1, 2, 0)[None])
    assert found.tolist() == pytest.approx(asked.probabilities(), abs=FAR["w8"])
