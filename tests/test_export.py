"""Exports run by their own programs, engines against torch, and what is refused."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.data.preprocess import Preprocess
from alexnet.engines import base, choosing
from alexnet.inference import exporting
from alexnet.inference.conversion import compare
from alexnet.inference.scoring import Member, log_probabilities
from alexnet.networks.model import seeded_build
from alexnet.networks.variants import VARIANTS
from alexnet.weights import classifier as classifier_
from alexnet.weights.classifier import Classifier
from conftest import coloured, needs
from narrow import narrow
from tooled import TO_TRACE, TRACED, only_torchs

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.cpu  # the engines compute there alone

FAR = 5e-5  # the greatest difference of probabilities between float32 engines


def pixels(one: Classifier, count: int = 5) -> np.ndarray:
    return choosing.made_up_batch(one.preprocess, count)


def expected(one: Classifier, pictures: np.ndarray) -> np.ndarray:
    """By hand: crop, mean, scale, the plain network, softmax in float64."""
    p = one.preprocess
    low = (p.stored - p.input) // 2
    crops = pictures[:, low : low + p.input, low : low + p.input].transpose(0, 3, 1, 2).astype(np.float32)
    mean = p.mean.numpy() if p.mean.shape[-1] == 1 else p.mean.numpy()[:, low : low + p.input, low : low + p.input]
    images = (crops - mean) / np.array(p.scale, np.float32).reshape(-1, 1, 1)
    with torch.no_grad():
        logits = one.model(torch.from_numpy(images)).double().numpy()
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch) -> None:
    """Exports end without their two seconds of measuring images/s."""
    monkeypatch.setattr(exporting, "_rate", lambda engine, batch: 100.0 * batch)


@pytest.fixture
def made(monkeypatch):
    """A classifier of that variant at reduced width, with a mean image, a scale a channel, and weights that matter."""

    def make(name: str) -> Classifier:
        monkeypatch.setitem(VARIANTS, name, narrow(name))
        plan = VARIANTS[name]
        side = plan.stored if plan.stored > 96 else plan.input + 8
        model = seeded_build(0, name, 7, 3, plan.input).eval()
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, 0, 1.5 / parameter[0].numel() ** 0.5)
        mean = torch.rand(3, side, side) * 40 + 100
        preprocess = Preprocess(side, plan.input, "RGB", (60.0, 50.0, 55.0), mean)
        return Classifier(model, preprocess, [f"class {n}" for n in range(7)], "drawn")

    return make


def answers(engine: str, file: Path, *batches: np.ndarray) -> list[np.ndarray]:
    """The probabilities that a file gives to batches of pictures in its own program, without this package."""
    if engine == "onnx":
        session = onnxruntime.InferenceSession(str(file))
        return [session.run(["prob"], {"pictures": pictures})[0] for pictures in batches]
    if engine == "pt2":
        with base.quiet(), torch.no_grad():
            program = torch.export.load(str(file)).module()
            return [program(torch.from_numpy(pictures))[1].numpy() for pictures in batches]
    with base.quiet():
        import openvino
    with ThreadPoolExecutor(1) as apart:  # it changes its thread's stack for signals
        made = apart.submit(openvino.Core().compile_model, str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return [made.result()([pictures])["prob"] for pictures in batches]


@pytest.mark.parametrize(
    ("format", "name"),
    [
        pytest.param(format, name, marks=[pytest.mark.slow] if format == "pt2" and name not in TRACED else [])
        for format in exporting.ENDINGS
        for name in (TO_TRACE if format == "pt2" else VARIANTS)
    ],
)
def test_an_export_gives_torchs_answers_to_stored_pictures_in_its_own_program(tmp_path, made, format, name):
    needs(*(["openvino"] if format == "openvino" else []))
    one = made(name)
    result = package.export(one, tmp_path / "net", format)
    assert result.files[0] == str(tmp_path / f"net{exporting.ENDINGS[format]}")
    assert result.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert format != "pt2" or only_torchs(torch.export.load(result.files[0]))
    batches = [pixels(one, count) for count in (1, 5)]  # the batch is free
    for got, pictures in zip(answers(format, Path(result.files[0]), *batches), batches, strict=True):
        right = expected(one, pictures)
        assert right.max() - right.min() > 0.05
        assert np.abs(got - right).max() < FAR


@pytest.mark.parametrize("format", exporting.ENDINGS)
def test_smaller_weights_make_smaller_files_and_nearly_the_same_answers(tmp_path, tiny_run, folders, alexnet, format):
    needs(*{"openvino": ["openvino", "nncf"], "pt2": ["torchao"], "onnx": []}[format])
    one = package.load(tiny_run)
    whole = 4 * sum(x.numel() for x in one.model.parameters())
    pictures = np.stack([np.asarray(coloured("red", n, (32, 32))) for n in range(3)])
    right, before = expected(one, pictures), package.evaluate(one, folders, device="cpu")
    for weights, share, bound in (("fp16", 0.55, 0.005), ("w8", 0.6, 0.05), ("int8", 0.6, 0.1)):
        if exporting._form(format, weights, True) != weights:
            assert (format, weights, exporting._form(format, weights, True)) == ("pt2", "int8", "w8")
            continue
        words = ["export", tiny_run, tmp_path / weights, "--format", format, "--weights", weights]
        status, out, _ = alexnet(*words, "--data", folders, "--json")
        assert status == 0
        result = json.loads(out)
        assert result["bytes"] < share * whole, weights
        far = np.abs(answers(format, Path(result["files"][0]), pictures)[0] - right).max()
        assert 0 < far < bound, weights
        change = result["change"]  # is what evaluating both says
        assert (change["images"], change["top1_error"][0]) == (15, before.top1_error)
        assert change["top5_error"] == [None, None]  # of three classes
        assert change["loss"][0] == pytest.approx(before.loss, rel=1e-5)
        assert change["loss"][0] != change["loss"][1]
        if format != "pt2":
            after = package.evaluate(result["files"][0], folders)
            assert change["top1_error"][1] == after.top1_error
            assert change["loss"][1] == pytest.approx(after.loss, rel=1e-5)


def test_the_share_of_pictures_with_the_same_class_is_counted(tmp_path, tiny_run, folders, monkeypatch):
    turned = classifier_.Engine(
        "turned", package.load(tiny_run).preprocess, lambda p, o: np.eye(3, dtype="f4")[p[:, 0, 0] % 3]
    )
    monkeypatch.setattr(exporting.onnx, "make_engine", lambda *given: turned)
    monkeypatch.setattr(exporting, "_rate", lambda engine, batch: 1.0)
    turned = replace(turned, run=lambda pictures, output: np.tile(np.float32([9, 0, 0]), (len(pictures), 1)))
    change = package.export(tiny_run, tmp_path / "net", "onnx", data=folders).change
    assert change.top1_error[1] == pytest.approx(10 / 15)  # always the first class, blue
    best = [p.classes[0].index for p in package.predict(tiny_run, folders / "val", device="cpu")]
    assert change.same_top1 == pytest.approx(best.count(0) / 15)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("views", ["1", "10"])
def test_predict_by_another_engine_is_within_its_bound_of_torch(alexnet, tiny_run, folders, engine, views):
    needs(*(["openvino"] if engine == "openvino" else []))
    said = []
    for choice in ("torch", engine):
        status, out, _ = alexnet("predict", tiny_run, folders / "val", "--views", views, "--json", "--engine", choice)
        assert status == 0
        said.append(json.loads(out)["results"])
    differences = []
    for a, b in zip(*said, strict=True):
        assert a["file"] == b["file"]
        one, other = ({c["index"]: c["probability"] for c in x["classes"]} for x in (a, b))
        differences += [abs(one[i] - other[i]) for i in range(3)]
    assert 0 < max(differences) < FAR  # not the very same program


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_evaluate_by_another_engine_counts_the_same_errors(tiny_run, folders, engine):
    needs(*(["openvino"] if engine == "openvino" else []))
    one, other = (package.evaluate(tiny_run, folders, engine=e, device="cpu", batch_size=4) for e in ("torch", engine))
    assert one.top1_error == other.top1_error
    assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_engines_see_every_crop_with_the_mean_of_the_central_one(made):
    one = made("alexnet_owt")
    pictures = torch.from_numpy(pixels(one, 3)).permute(0, 3, 1, 2)
    by_key = {one.preprocess.key: pictures}
    with torch.no_grad():
        right = log_probabilities([Member(one.model, one.preprocess)], [1.0], by_key, 10).exp()
    from alexnet.engines.loading import attach

    member = Member(one.model, one.preprocess, engine=attach(one, "onnx").engine)
    assert (log_probabilities([member], [1.0], by_key, 10).exp() - right).abs().max() < FAR


def test_enlarged_views_are_refused_by_engines_in_words(refused, tmp_path, folders, made):
    one = made("alexnet32")
    one.preprocess = Preprocess(28, 28, "RGB", (64.0,), torch.full((3, 1, 1), 120.0))
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(AlexNetError, match="--engine torch or one view"):
        package.predict(one, folders / "val", views=10, engine="onnx")


def test_auto_takes_the_fastest_whose_answers_are_near_and_says_why(tiny_run, folders, monkeypatch):
    one = package.load(tiny_run)
    torch_itself = choosing.in_torch(one)
    now = [0.0]
    monkeypatch.setattr(choosing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def late(seconds: float, factor: float) -> classifier_.Engine:
        def run(pictures, output):
            now[0] += seconds
            return torch_itself.run(pictures, output) * np.float32(factor)

        return classifier_.Engine(f"late by {seconds}", one.preprocess, run)

    engines = {
        ("torch", base.FLOAT32): late(0.05, 1.0),
        ("onnx", base.FLOAT32): late(0.02, 1.00001),
        ("onnx", base.W8): late(0.01, 1.01),
        ("openvino", base.FLOAT32): late(0.0, 1.001),  # the fastest, but too far for float32
        ("openvino", base.W8): late(0.0, 1.2),  # and for 8 bits
    }
    monkeypatch.setattr(choosing, "forms", lambda classifier: [(key, lambda e=e: e) for key, e in engines.items()])
    told: list[str] = []
    package.predict(one, folders / "val" / "red", engine="auto")
    chosen = package.load(tiny_run, engine="auto", say=told.append)
    assert chosen.engine is engines["onnx", base.W8]
    assert "late by 0.01, the fastest of 5 tried" in told[0]
    del engines["onnx", base.W8], engines["onnx", base.FLOAT32]
    assert package.load(tiny_run, engine="auto").engine is None  # torch as without engines


def test_auto_really_tries_what_is_installed(alexnet, tiny_run, folders):
    status, out, _ = alexnet("predict", tiny_run, folders / "val" / "red", "--engine", "auto", "--topk", "1")
    assert status == 0
    assert out.startswith("engine: ")
    one = package.load(tiny_run)
    keys = [key for key, _ in choosing.forms(one)]
    assert keys[0] == ("torch", base.FLOAT32)
    assert {("onnx", base.FLOAT32), ("onnx", base.W8)} <= set(keys)
    pictures = pixels(one)
    for key, start in choosing.forms(one):
        far = choosing.relative_difference(
            start().run(pictures, "logits"), choosing.in_torch(one).run(pictures, "logits")
        )
        assert far <= choosing.BOUNDS[key[1]], key


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_realtime_gives_the_probabilities_of_a_bare_array(tiny_run, engine):
    needs(*(["openvino"] if engine == "openvino" else []))
    one = package.load(tiny_run)
    function = package.realtime(tiny_run, engine)
    picture = np.asarray(coloured("green", 3, (32, 32)))
    assert function.classes == one.classes
    kept = function(picture)
    assert np.array_equal(function(Image.fromarray(picture)), kept)
    function(255 - picture)  # a later answer does not change an earlier one
    assert np.abs(kept - expected(one, picture[None])[0]).max() < FAR
    turned = np.asarray(picture).transpose(1, 0, 2)  # not contiguous
    assert np.abs(function(turned) - expected(one, turned[None])[0]).max() < FAR
    for wrong in (picture[:20], picture.astype(np.float32), picture[..., 0]):
        with pytest.raises(AlexNetError, match=r"the network takes \(32, 32, 3\) of uint8"):
            function(wrong)


def test_an_export_is_a_model_that_predicts_but_has_no_layers(refused, alexnet, tmp_path, tiny_run, folders):
    needs("openvino")
    package.export(tiny_run, tmp_path / "net", "openvino")
    package.export(tiny_run, tmp_path / "small", "onnx", "w8")
    for file in (tmp_path / "net.xml", tmp_path / "small.onnx"):
        status, out, _ = alexnet("predict", file, folders / "val" / "red", "--topk", "1")
        assert (status, out.count("red\n")) == (0, 5)
        assert package.realtime(file).classes == ["blue", "green", "red"]
        assert repr(package.load(file)).startswith("<Classifier: export, 3 classes, input 28 of 32 pixels, o")
        assert "has no layers" in refused("features", file, folders / "val", "--output", tmp_path / "f.npy")
        assert "export" in refused("export", file, tmp_path / "again", "--format", "onnx")
        assert "leave --engine out" in refused("predict", file, folders / "val", "--engine", "torch")
    assert "is an export" in refused("convert", tmp_path / "small.onnx", tmp_path / "a.safetensors")
    result = compare(tiny_run, tmp_path / "small.onnx", [folders / "val"], device="cpu")
    assert [x.layer for x in result.layers] == ["logits"]
    assert result.pictures == 15
    assert result.same_top1 >= 0.9


def test_a_half_export_as_onnx_is_still_read_as_weights(tmp_path, tiny_run):
    package.export(tiny_run, tmp_path / "half.onnx", "onnx", "fp16")
    kept, read = (package.load(path).model.state_dict() for path in (tiny_run, tmp_path / "half.onnx"))
    for name, tensor in kept.items():
        stored = tensor.half().float() if name.endswith(".weight") else tensor
        assert torch.equal(read[name], stored), name


def test_damaged_exports_are_named(tmp_path, tiny_run, folders, refused):
    needs("openvino")
    package.export(tiny_run, tmp_path / "net", "openvino")
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes()[:1000])
    assert "export it anew" in refused("predict", tmp_path / "net.xml", folders / "val")
    (tmp_path / "other.xml").write_text("<?xml version='1.0'?><note>mine, not a network</note>")
    assert "export it anew" in refused("predict", tmp_path / "other.xml", folders / "val")


def test_what_cannot_be_exported_is_refused_before_the_work(refused, tmp_path, tiny_run, folders, monkeypatch):
    out = tmp_path / "net"
    assert "int8 needs --data" in refused("export", tiny_run, out, "--format", "onnx", "--weights", "int8")
    assert "it writes .xml" in refused("export", tiny_run, tmp_path / "net.onnx", "--format", "openvino")
    with monkeypatch.context() as patch:  # a folder of the run's name is no export of it
        patch.chdir(tmp_path)
        (tmp_path / "net").mkdir()
        assert exporting._places(Path("net.onnx"), "onnx") == [Path("net.onnx")]
        (tmp_path / "net").rmdir()
    for name in ("net.xml", "net.bin", "net"):
        (tmp_path / name).write_text("mine")
        assert f"{name} exists already" in refused("export", tiny_run, out, "--format", "openvino")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert "no folder" in refused("export", tiny_run, tmp_path / "nowhere" / "net", "--format", "pt2")
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "dog").mkdir()
    for n, name in enumerate(("cat", "cat", "dog", "dog")):
        coloured("red", n).save(tmp_path / "data" / name / f"{n}.png")
    assert "does not know" in refused("export", tiny_run, out, "--format", "onnx", "--data", tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("hidden", "arguments", "extra"),
    [
        ("onnxruntime", ("predict", "--engine", "onnx"), "onnx"),
        ("openvino", ("predict", "--engine", "openvino"), "openvino"),
        ("onnxruntime", ("export", "--format", "onnx"), "onnx"),
        ("openvino", ("export", "--format", "openvino"), "openvino"),
        ("nncf", ("export", "--format", "openvino", "--weights", "w8"), "openvino"),
        ("torchao.quantization", ("export", "--format", "pt2", "--weights", "w8"), "pt2"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    refused, tmp_path, tiny_run, folders, monkeypatch, hidden, arguments, extra
):
    if hidden == "nncf":
        needs("openvino")
    monkeypatch.setitem(sys.modules, hidden, None)
    command, *rest = arguments
    where = folders / "val" if command == "predict" else tmp_path / "net"
    assert f"pip install '.[{extra}]'" in refused(command, tiny_run, where, *rest)
    assert not list(tmp_path.iterdir())


def test_engines_on_other_devices_are_refused(refused, tiny_run, folders):
    said = refused("predict", tiny_run, folders / "val", "--engine", "onnx", "--device", "cuda")
    assert "computes on the CPU" in said
