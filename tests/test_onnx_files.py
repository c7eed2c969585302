"""ONNX files: what onnxruntime answers to those that are written, those of other programs, weights beside, damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import alexnet
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.networks import variants
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights import formats
from alexnet.weights.base import Weights
from alexnet.weights.classifier import built
from conftest import coloured, encoded
from made_weights import CLASSES, close, logits, made, pictures, same_tensors, thin_variants, torchvisions


@pytest.fixture
def thin(monkeypatch):
    thin_variants(monkeypatch)


onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", VARIANTS)
def test_onnxruntime_gives_the_same_answer_to_every_variant(tmp_path, thin, name):
    found, file = made(name), tmp_path / "net.onnx"
    formats.write(found, file)
    onnx.checker.check_model(str(file), full_check=True)
    x = pictures(found)
    session = onnxruntime.InferenceSession(str(file))
    got, probabilities = session.run(["logits", "prob"], {"pictures": x.numpy()})
    expected = logits(found, x)
    assert np.abs(expected).max() > 0.05
    assert close(got, expected)
    np.testing.assert_allclose(probabilities, torch.tensor(expected).softmax(1), atol=1e-5)
    assert session.run(["logits"], {"pictures": x[:1].numpy()})[0].shape == (1, 7)  # any batch size


def test_onnxruntime_gives_the_same_answer_at_full_size(tmp_path):
    found, file = made("alexnet2012"), tmp_path / "net.onnx"
    formats.write(found, file)
    x = pictures(found)[:1]
    (got,) = onnxruntime.InferenceSession(str(file)).run(["logits"], {"pictures": x.numpy()})
    assert close(got, logits(found, x))


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_keeps_every_weight_and_every_fact(tmp_path, thin, name):
    mean = torch.rand(3, variant(name).stored, variant(name).stored) * 255
    found = made(name, mean=mean, dropout=0.25, ties="all", activation="tanh")
    formats.write(found, tmp_path / "net.onnx")
    got = formats.read(tmp_path / "net.onnx")
    assert same_tensors(found, got)
    assert torch.equal(got.preprocess.mean, mean)
    assert replace(got, tensors={}, preprocess=found.preprocess) == replace(found, tensors={})
    assert got.preprocess.facts() == found.preprocess.facts()


def test_preprocessing_inside_the_file_takes_pictures_as_they_are_stored(tmp_path, thin):
    mean = torch.rand(3, 256, 256) * 255
    found = replace(made("alexnet_owt", mean=mean))
    found = replace(found, preprocess=replace(found.preprocess, scale=(58.4, 57.1, 57.4)))
    formats.write(found, tmp_path / "net.onnx", preprocessing=True)
    classifier = built(found)
    stored = [classifier.preprocess.pixels(coloured(colour, 3, (300, 260))) for colour in ("red", "blue")]
    x = torch.stack(stored).permute(0, 2, 3, 1).contiguous().numpy()
    (got,) = onnxruntime.InferenceSession(str(tmp_path / "net.onnx")).run(["logits"], {"pictures": x})
    expected = logits(found, classifier.preprocess.normalise(classifier.preprocess.central(torch.stack(stored))))
    assert close(got, expected)


def foreign(file, steps, side, transposed=True, matmul=False):
    """An ONNX file of another program: `steps` are (operator, attributes, weight, bias), made with the onnx library."""
    nodes, tensors, at, flat = [], [], "data_0", False
    for number, (operator, attributes, *arrays) in enumerate(steps):
        inputs, flatten = [at], operator == "Gemm" and not flat
        if flatten:
            nodes.append(onnx.helper.make_node("Flatten", [at], ["flat"]))
            inputs, flat = ["flat"], True
        for kind, array in zip(("w", "b"), arrays, strict=False):
            array = array.T if operator == "Gemm" and kind == "w" and not transposed else array
            tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), f"{kind}{number}"))
            inputs.append(f"{kind}{number}")
        if operator == "Gemm" and transposed:
            attributes = {**attributes, "transB": 1}
        at = f"out{number}"
        if operator == "Gemm" and matmul:
            nodes.append(onnx.helper.make_node("MatMul", inputs[:2], [f"{at}_product"]))
            nodes.append(onnx.helper.make_node("Add", [f"{at}_product", inputs[2]], [at]))
        else:
            nodes.append(onnx.helper.make_node(operator, inputs, [at], **attributes))
    value = onnx.helper.make_tensor_value_info
    shapes = value("data_0", 1, ["n", 3, side, side]), value(at, 1, ["n", len(CLASSES)])
    graph = onnx.helper.make_graph(nodes, "net", [shapes[0]], [shapes[1]], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)
    return file


def zoo_steps(found: Weights):
    """The zoo's bvlcalexnet as Caffe2 exported it: floor pooling, and pool5 padded at right and bottom."""
    arrays = {key: value.numpy() for key, value in found.tensors.items()}
    arrays["conv1.weight"] = arrays["conv1.weight"][:, ::-1]  # BGR
    steps = []
    for layer in found.built().layers:
        match layer:
            case variants.Conv() | variants.FC():
                given = {}
                if isinstance(layer, variants.Conv):
                    given = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2,
                             "pads": [layer.pad] * 4, "group": layer.groups}  # fmt: skip
                operator = "Conv" if given else "Gemm"
                steps.append((operator, given, arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"]))
            case variants.ReLU():
                steps.append(("Relu", {}))
            case variants.LRN():
                steps.append(("LRN", {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}))
            case variants.MaxPool():
                pads = [0, 0, 1, 1] if layer.name == "pool5" else [0] * 4
                steps.append(("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads}))
            case variants.Softmax():
                steps.append(("Softmax", {"axis": 1}))
    return steps


@pytest.mark.parametrize(("transposed", "matmul"), [(True, False), (False, False), (False, True)])
def test_the_zoos_file_is_read_with_its_own_maps_of_54_26_12_and_6(tmp_path, thin, capsys, transposed, matmul):
    found = made("bvlc_alexnet_zoo", mean=torch.tensor([122.679, 116.669, 104.007]).reshape(3, 1, 1))
    file = foreign(tmp_path / "zoo.onnx", zoo_steps(found), 224, transposed, matmul)
    onnx.checker.check_model(str(file), full_check=True)
    got = formats.read(file)
    assert (got.variant, got.preprocess.input) == ("bvlc_alexnet_zoo", 224)
    assert same_tensors(found, got)
    assert torch.allclose(got.preprocess.mean, found.preprocess.mean)
    session = onnxruntime.InferenceSession(str(file))
    classifier = built(got)
    picture = encoded(coloured("green", 1, (300, 256)))
    x = classifier.preprocess(picture)[None]
    (expected,) = session.run(None, {"data_0": x.flip(1).numpy()})  # the file sees B, G, R
    np.testing.assert_allclose(torch.tensor(logits(got, x)).softmax(1).numpy(), expected, atol=1e-5)


def test_the_same_graph_at_227_pixels_is_caffes_network(tmp_path, thin):
    found = made("bvlc_alexnet")
    steps = [(op, {**a, "pads": [0] * 4} if op == "MaxPool" else a, *rest) for op, a, *rest in zoo_steps(found)]
    got = formats.read(foreign(tmp_path / "caffe.onnx", steps, 227))
    assert (got.variant, got.preprocess.input) == ("bvlc_alexnet", 227)


def test_torchvisions_export_is_read(tmp_path, monkeypatch):
    torch.manual_seed(2)
    peer = torchvisions(monkeypatch, 7)
    x = torch.randn(1, 3, 224, 224)
    pytest.importorskip("onnxscript")
    torch.onnx.export(peer, (x,), str(tmp_path / "tv.onnx"), dynamo=True, external_data=False, verbose=False)
    classifier = alexnet.load(tmp_path / "tv.onnx")
    assert classifier.model.variant.name == "alexnet_owt"
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(x), peer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", [None, "1,2,3", "7"])
def test_a_mean_that_is_given_for_torchvisions_network_is_subtracted(tmp_path, thin, given):
    found = made("alexnet_owt")
    file = foreign(tmp_path / "owt.onnx", zoo_steps(found), 224)
    got = formats.read(file, Hints(mean=given))
    assert got.variant == "alexnet_owt"
    expected = {None: [123.675, 116.28, 103.53], "1,2,3": [1, 2, 3], "7": [7] * 3}[given]
    assert got.preprocess.mean.flatten().tolist() == pytest.approx(expected)
    assert got.preprocess.scale == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize("lost", [True, False])
def test_digits_that_float32_cannot_hold_are_said_to_be_lost(tmp_path, thin, caplog, lost):
    steps = [(op, a, *(x.astype(np.float64) * (1 + 1e-12 * lost) for x in rest)) for op, a, *rest in
             zoo_steps(made("bvlc_alexnet_zoo"))]  # fmt: skip
    assert same_tensors(made("bvlc_alexnet_zoo"), formats.read(foreign(tmp_path / "wide.onnx", steps, 224))) or lost
    assert ("is float64 and is taken as float32: digits are lost" in caplog.text) == lost


def test_other_operators_and_damage_are_named(tmp_path, thin):
    found = made("bvlc_alexnet_zoo")
    steps = zoo_steps(found)
    with pytest.raises(AlexNetError, match="operator Sigmoid, which is none of AlexNet's"):
        formats.read(foreign(tmp_path / "sigmoid.onnx", [*steps[:2], ("Sigmoid", {}), *steps[2:]], 224))
    with pytest.raises(AlexNetError, match=r"none of the networks known here: it computes Conv, Relu, LRN, MaxPool"):
        formats.read(foreign(tmp_path / "short.onnx", steps[:-3], 224))
    with pytest.raises(AlexNetError, match="is of bvlc_alexnet_zoo, and --variant says caffenet; leave it out"):
        formats.read(foreign(tmp_path / "zoo.onnx", steps, 224), Hints(variant="caffenet"))
    whole = tmp_path / "whole.onnx"
    formats.write(found, whole)
    contents = whole.read_bytes()
    for cut in (20, 1000, len(contents) // 2, len(contents) - 1):
        (tmp_path / "cut.onnx").write_bytes(contents[:cut])
        with pytest.raises(AlexNetError, match=r"not a whole .onnx file \(.*byte"):
            formats.read(tmp_path / "cut.onnx")


# -- ONNX with its weights beside ---------------------------------------------------------------------------------


def with_weights_beside(file: Path, found: Weights) -> Path:
    """The file, and another of its name and .data that holds its weights."""
    foreign(file, zoo_steps(found), 224)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location=f"{file.name}.data", size_threshold=0)
    return file


def test_weights_beside_an_onnx_file_are_read_within_its_folder_alone(tmp_path, thin):
    found, folder = made("bvlc_alexnet_zoo"), tmp_path / "net"
    folder.mkdir()
    file = with_weights_beside(folder / "zoo.onnx", found)
    assert same_tensors(found, formats.read(file))
    contents = (folder / "zoo.onnx.data").read_bytes()
    (folder / "zoo.onnx.data").write_bytes(contents[:-10])
    with pytest.raises(AlexNetError, match="ends before it"):
        formats.read(file)
    (folder / "zoo.onnx.data").unlink()
    with pytest.raises(AlexNetError, match=r"in 'zoo.onnx.data' beside it, which is missing"):
        formats.read(file)
    (tmp_path / "secret").write_bytes(contents)
    (folder / "zoo.onnx.data").symlink_to(tmp_path / "secret")
    with pytest.raises(AlexNetError, match="in a file outside its folder"):
        formats.read(file)
    for place in ("../secret", str(tmp_path / "secret")):
        model = onnx.load(file, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = place if entry.key == "location" else entry.value
        (folder / "other.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(AlexNetError, match="in a file outside its folder"):
            formats.read(folder / "other.onnx")


def test_weights_beside_an_onnx_file_are_read_from_hugging_faces_cache(tmp_path, thin):
    """There every file is a link into one folder, where it is called by its hash (huggingface_hub)."""
    found = made("bvlc_alexnet_zoo")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "3f2a" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    with_weights_beside(tmp_path / "model.onnx", found)
    for name, digest in (("model.onnx", "aa11"), ("model.onnx.data", "bb22")):
        (tmp_path / name).rename(blobs / digest)
        (snapshot / name).symlink_to(Path("../../../blobs") / digest)
    assert same_tensors(found, formats.read(snapshot / "model.onnx"))
    (blobs / "bb22").rename(tmp_path / "secret")
    (snapshot / "model.onnx.data").unlink()
    (snapshot / "model.onnx.data").symlink_to(tmp_path / "secret")
    with pytest.raises(AlexNetError, match="in a file outside its folder"):
        formats.read(snapshot / "model.onnx")


def test_a_link_to_an_onnx_file_finds_the_weights_beside_the_file(tmp_path, thin):
    found, folder = made("bvlc_alexnet_zoo"), tmp_path / "net"
    folder.mkdir()
    file = with_weights_beside(folder / "zoo.onnx", found)
    (tmp_path / "link.onnx").symlink_to(file)
    assert same_tensors(found, formats.read(tmp_path / "link.onnx"))


# -- kinds of numbers that are not read ---------------------------------------------------------------------------

KINDS = [kind for kind in onnx.TensorProto.DataType.values() if kind not in (0, 1, 2, 7, 10, 11)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_no_layer_uses_may_be_of_any_kind(tmp_path, thin, kind):
    found = made("bvlc_alexnet_zoo")
    model = onnx.load(foreign(tmp_path / "net.onnx", zoo_steps(found), 224))
    model.graph.initializer.append(onnx.TensorProto(name="training", data_type=kind, dims=[2**40], raw_data=b"\1"))
    onnx.save(model, tmp_path / "net.onnx")
    assert same_tensors(found, formats.read(tmp_path / "net.onnx"))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("matmul", [True, False])
def test_weights_of_a_kind_that_is_not_read_are_named(tmp_path, thin, own, matmul):
    found, file = made("bvlc_alexnet_zoo"), tmp_path / "net.onnx"
    if own:
        formats.write(found, file)
    else:
        foreign(file, zoo_steps(found), 224, matmul=matmul)
    for number, tensor in enumerate(onnx.load(file).graph.initializer):
        if own and "." not in tensor.name:
            continue  # the mean's and shapes
        model = onnx.load(file)
        model.graph.initializer[number].data_type = 16
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(AlexNetError, match=f"has '{tensor.name}' in number format 16; only float and int tensors"):
            formats.read(tmp_path / "changed.onnx")
