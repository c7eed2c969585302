"""Files of weights against independent writers, against the peers that run them, and against damage."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

import alexnet
import caffe_file
import convnet_file
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.cli import run
from alexnet.data import labels
from alexnet.data.preprocess import Preprocess
from alexnet.inference.conversion import compare, convert
from alexnet.networks import variants
from alexnet.networks.model import AlexNet, initialise
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights import formats
from alexnet.weights.base import Weights
from alexnet.weights.classifier import built
from conftest import coloured, encoded

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = [str(n) for n in range(7)]


def narrow(name: str, divisor: int = 16) -> variants.Variant:
    """The variant with a sixteenth of its filters and units."""

    def less(layer):
        if isinstance(layer, variants.Conv | variants.Local):
            return replace(layer, filters=max(8, layer.filters // divisor))
        if isinstance(layer, variants.FC) and layer.units:
            return replace(layer, units=layer.units // divisor)
        return layer

    return replace(variant(name), layers=tuple(map(less, variant(name).layers)))


@pytest.fixture(params=VARIANTS)
def name(request) -> str:
    return request.param


@pytest.fixture
def thin(monkeypatch):
    """Every variant at reduced width, under its own name."""
    for each in VARIANTS:
        monkeypatch.setitem(VARIANTS, each, narrow(each))


def made(name: str, input: int | None = None, mean: torch.Tensor | None = None, classes=CLASSES, **changes) -> Weights:
    """Random weights large enough that every layer matters."""
    torch.manual_seed(0)
    plan = variant(name)
    input = input or plan.input
    model = AlexNet(plan, len(classes), 3, input, changes)
    initialise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.dim() < 6 else parameter[0, 0, 0].numel()
                parameter.normal_(0, 1.5 * fan_in**-0.5)
            else:
                parameter.uniform_(-0.5, 0.5)
        for buffer in ("running_mean", "running_var"):
            for key, value in model.state_dict().items():
                if key.endswith(buffer):
                    value.uniform_(0.5, 2)
    mean = torch.rand(3, 1, 1) * 255 if mean is None else mean
    stored = max(plan.stored, input)
    preprocess = Preprocess(stored, input, "RGB", (plan.pixel_scale,), mean)
    return Weights(name, dict(model.state_dict()), list(classes), preprocess, changes, "made for a test")


def logits(found: Weights, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return built(found).model(x).numpy()


def alexnet_names() -> list[str]:
    return labels.names(1000)


def pictures(found: Weights, scale: float = 40.0) -> torch.Tensor:
    side = found.preprocess.input
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * scale / found.preprocess.scale[0]


def same_tensors(a: Weights, b: Weights) -> bool:
    kept = {key for key in a.tensors if not key.endswith("num_batches_tracked")}
    return kept <= b.tensors.keys() and all(torch.equal(a.tensors[key], b.tensors[key]) for key in kept)


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max()))


# -- ONNX ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("full", ["alexnet2012", "bvlc_alexnet", "alexnet_owt"])
def test_onnxruntime_gives_the_same_answer_at_full_size(tmp_path, full):
    found, file = made(full), tmp_path / "net.onnx"
    formats.write(found, file)
    x = pictures(found)[:1]
    (got,) = onnxruntime.InferenceSession(str(file)).run(["logits"], {"pictures": x.numpy()})
    assert close(got, logits(found, x))


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


def test_torchvisions_export_is_read(tmp_path, thin, monkeypatch):
    monkeypatch.undo()
    torch.manual_seed(2)
    peer = torchvision.models.alexnet(weights=None, num_classes=7).eval()
    x = torch.randn(1, 3, 224, 224)
    pytest.importorskip("onnxscript")
    torch.onnx.export(peer, (x,), str(tmp_path / "tv.onnx"), dynamo=True, external_data=False, verbose=False)
    classifier = alexnet.load(tmp_path / "tv.onnx")
    assert classifier.model.variant.name == "alexnet_owt"
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(x), peer(x), rtol=1e-5, atol=1e-5)


def test_other_operators_and_damage_are_named(tmp_path, thin):
    found = made("bvlc_alexnet_zoo")
    steps = zoo_steps(found)
    with pytest.raises(AlexNetError, match="operator Sigmoid, which is none of AlexNet's"):
        formats.read(foreign(tmp_path / "sigmoid.onnx", [*steps[:2], ("Sigmoid", {}), *steps[2:]], 224))
    with pytest.raises(AlexNetError, match=r"none of the networks known here \(it computes Conv, Relu, LRN, MaxPool"):
        formats.read(foreign(tmp_path / "short.onnx", steps[:-3], 224))
    whole = tmp_path / "whole.onnx"
    formats.write(found, whole)
    contents = whole.read_bytes()
    for cut in (20, 1000, len(contents) // 2, len(contents) - 1):
        (tmp_path / "cut.onnx").write_bytes(contents[:cut])
        with pytest.raises(AlexNetError, match=r"not a whole .onnx file \(.*byte"):
            formats.read(tmp_path / "cut.onnx")


# -- Caffe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["bvlc_alexnet", "caffenet"])
@pytest.mark.parametrize("option", ["", "old", "diff", "unpacked", "old double"])
def test_a_caffemodel_of_either_generation_is_read_bit_for_bit(tmp_path, thin, net, option):
    options = {word: True for word in option.split()}
    if options.pop("unpacked", False):
        options["packed"] = False
    found = made(net)
    arrays = {key: value.numpy() for key, value in found.tensors.items()}
    arrays["conv1.weight"] = np.ascontiguousarray(arrays["conv1.weight"][:, ::-1])  # Caffe sees B, G, R
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays, net, **options)
    mean = np.random.default_rng(0).uniform(0, 255, (3, 256, 256)).astype(np.float32)
    caffe_file.write_mean(tmp_path / "net_mean.binaryproto", mean)
    got = formats.read(file)
    assert (got.variant, got.preprocess.input) == (net, 227)
    assert same_tensors(found, got)
    np.testing.assert_array_equal(got.preprocess.mean.numpy(), mean[::-1])


def test_a_mean_is_taken_from_beside_the_file_or_named_or_said(tmp_path, thin, caplog):
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays)
    assert formats.read(file).preprocess.mean.flatten().tolist() == pytest.approx([122.679, 116.669, 104.007])
    assert "no mean beside it, so Caffe's channel means are used" in caplog.text
    np.save(tmp_path / "ilsvrc_2012_mean.npy", np.full((3, 256, 256), 3.0))
    assert formats.read(file).preprocess.mean.unique().tolist() == [3.0]
    caffe_file.write_mean(tmp_path / "mean.binaryproto", np.full((3, 256, 256), 4.0, np.float32))
    with pytest.raises(AlexNetError, match="several means beside it"):
        formats.read(file)
    assert formats.read(file, Hints(mean=str(tmp_path / "mean.binaryproto"))).preprocess.mean.unique().tolist() == [4.0]
    caffe_file.write_mean(tmp_path / "mean.binaryproto", np.zeros((3, 32, 32), np.float32))
    with pytest.raises(AlexNetError, match=r"has the shape \(3, 32, 32\); the network takes \(3, 256, 256\)"):
        formats.read(file, Hints(mean=str(tmp_path / "mean.binaryproto")))


@pytest.mark.parametrize(
    ("name", "input"),
    [("bvlc_alexnet", 227), ("caffenet", 227), ("alexnet_paper", 227), ("alexnet2012", 227), ("alexnet_owt", 224)],
)
def test_opencv_gives_the_same_answer_to_a_written_caffemodel(tmp_path, thin, name, input):
    found = made(name, input=input)
    formats.write(found, tmp_path / "net.caffemodel")
    cv2 = pytest.importorskip("cv2")
    net = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    x = pictures(found)
    net.setInput((x * found.preprocess.scale[0]).flip(1).numpy())
    assert close(net.forward("fc8").reshape(2, -1), logits(found, x))


def test_what_caffe_holds_comes_back_bit_for_bit(tmp_path, thin, name):
    plan = variant(name)
    input = 227 if plan.stored == 256 and name != "alexnet_owt" else plan.input
    if name == "alexnet64_nonoverlap":
        input = 48  # its poolings leave nothing over there, as Caffe's never do
    found = made(name, input=input, mean=torch.rand(3, plan.stored, plan.stored) * 255, dropout=0.25, activation="tanh")
    file = tmp_path / "net.caffemodel"
    cannot = {"alexnet_bn": "norm1", "alexnet2012_apart": "fc6", "cifar10_13": "local3", "cifar10_11": "local3"}
    if name in cannot:
        with pytest.raises(
            AlexNetError, match=f"cannot hold {name}: Caffe has no layer that computes its {cannot[name]}"
        ):
            formats.write(found, file)
        assert not list(tmp_path.iterdir())
        return
    formats.write(found, file)
    got = formats.read(file)
    # At 227 the zoo's net is Caffe's; initial weights make no other network.
    like = {"bvlc_alexnet_zoo": "bvlc_alexnet"}.get(name, re.sub("_(sigma|bias)0[13]$", "", name))
    assert (got.variant, got.preprocess.input) == (like, input)
    assert same_tensors(found, got)
    assert torch.equal(got.preprocess.mean, found.preprocess.mean)
    assert got.changes == {"activation": "tanh"} | ({"dropout": 0.25} if "drop6" in str(plan.layers) else {})
    np.testing.assert_allclose(got.preprocess.scale, found.preprocess.scale[0], rtol=1e-7)


def test_a_net_that_caffe_would_cut_otherwise_is_refused(tmp_path, thin):
    with pytest.raises(AlexNetError, match=r"cannot hold alexnet2012 at input 224: Caffe's conv1.*--input \(227"):
        formats.write(made("alexnet2012"), tmp_path / "net.caffemodel")
    assert not list(tmp_path.iterdir())


def test_lengths_that_lie_and_other_networks_are_named_with_their_byte_or_layer(tmp_path, thin):
    found = made("bvlc_alexnet")
    arrays = {key: value.numpy() for key, value in found.tensors.items()}
    contents = caffe_file.write(tmp_path / "net.caffemodel", arrays).read_bytes()
    bad = tmp_path / "bad.caffemodel"
    for cut in (30, 5000, len(contents) - 3):
        bad.write_bytes(contents[:cut])
        with pytest.raises(AlexNetError, match=r"not a whole .caffemodel \(.*byte [\d,]+"):
            formats.read(bad)
    lying = contents.replace(caffe_file.blob(arrays["fc8.bias"]), caffe_file.message(7, b"\x0a\x02\x90\x4e"), 1)
    assert lying != contents
    bad.write_bytes(lying)
    with pytest.raises(AlexNetError, match=r"not a whole .caffemodel"):
        formats.read(bad)
    wrong = {**arrays, "conv3.weight": arrays["conv3.weight"][:, :, :2, :2]}
    with pytest.raises(AlexNetError, match=r"conv3.*kernel_size 2"):
        formats.read(caffe_file.write(bad, wrong))
    with pytest.raises(AlexNetError, match=r"fc7.weight of shape \(256, 200\); bvlc_alexnet with 7 classes"):
        formats.read(caffe_file.write(bad, {**arrays, "fc7.weight": arrays["fc7.weight"][:, :200]}))
    holed = arrays["conv2.bias"].copy()
    holed[3] = np.nan
    with pytest.raises(AlexNetError, match=r"values in conv2.bias that are not finite"):
        formats.read(caffe_file.write(bad, {**arrays, "conv2.bias": holed}))


# -- cuda-convnet and .npy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_the_two_towers_of_a_checkpoint_become_one_network(tmp_path, thin, zipped, caplog):
    found = made("alexnet2012")
    file = tmp_path / "145__2012-09-30"
    convnet_file.write_towers(file, {key: value.numpy() for key, value in found.tensors.items()}, zipped=zipped)
    got = formats.read(file)
    assert got.variant == "alexnet2012"
    assert same_tensors(found, got)
    assert "carries no mean" in caplog.text


def test_checkpoints_of_one_tower_are_read(tmp_path, thin):
    found = made("alexnet_cc2")
    file = tmp_path / "cc2"
    convnet_file.write_single(file, {key: value.numpy() for key, value in found.tensors.items()})
    got = formats.read(file)
    assert got.variant == "alexnet_cc2"
    assert same_tensors(found, got)


def test_a_checkpoints_classes_are_in_the_order_of_the_challenge(tmp_path, thin):
    found = made("alexnet_cc2", classes=[str(n) for n in range(1000)])
    file = tmp_path / "cc2"
    convnet_file.write_single(file, {key: value.numpy() for key, value in found.tensors.items()})
    names = formats.read(file).classes
    assert names[448] == "tench"  # number 449 of the development kit, the first of the sorted WordNet ids
    assert sorted(names) == sorted(alexnet_names())


def test_a_pickle_that_is_no_checkpoint_is_named(tmp_path):
    import pickle

    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"weights": [1, 2]}, 2))
    with pytest.raises(AlexNetError, match="no checkpoint of cuda-convnet"):
        formats.read(tmp_path / "other.pkl")


@pytest.mark.parametrize(("turned", "order"), [(False, None), (True, None), (False, "hwc"), (True, "chw")])
def test_npy_dictionaries_are_read_in_caffes_order_and_in_tensorflows(tmp_path, thin, turned, order, caplog):
    """TensorFlow flattens maps as rows, columns, maps, so that is the order of fc6's inputs in its arrays."""
    found = made("bvlc_alexnet")
    hwc = order == "hwc" if order else turned
    layers = {}
    for key, value in found.tensors.items():
        layer, kind = key.split(".")
        array = value.numpy()
        if key == "conv1.weight":
            array = array[:, ::-1]
        if key == "fc6.weight" and hwc:
            array = array.reshape(len(array), -1, 6, 6).transpose(0, 2, 3, 1).reshape(len(array), -1)
        if turned and kind == "weight":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        layers.setdefault(layer, [None, None])[kind == "bias"] = np.ascontiguousarray(array)
    np.save(tmp_path / "net.npy", layers, allow_pickle=True)
    got = formats.read(tmp_path / "net.npy", Hints(order=order))
    assert same_tensors(found, got)
    taken = "rows, columns, maps" if turned else "maps, rows, columns"
    assert (f"fc6's inputs are taken for {taken}" in caplog.text) == (order is None)
    with pytest.raises(AlexNetError, match=r"conv2.weight of shape .*; alexnet_owt with 7 classes"):
        formats.read(tmp_path / "net.npy", Hints(variant="alexnet_owt"))


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def test_a_npy_dictionary_that_wants_to_run_code_is_refused(tmp_path):
    np.save(tmp_path / "bomb.npy", {"conv1": Bomb(str(tmp_path / "made"))}, allow_pickle=True)
    with pytest.raises(AlexNetError, match=r"a call of \w+.mkdir\), which is not run"):
        formats.read(tmp_path / "bomb.npy")
    assert not (tmp_path / "made").exists()


# -- torchvision --------------------------------------------------------------------------------------------------


def test_torchvision_takes_what_is_written_for_it(tmp_path):
    torch.manual_seed(3)
    peer = torchvision.models.alexnet(weights=None, num_classes=7).eval()
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    convert(tmp_path / "peer.pth", tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(peer.state_dict())
    assert all(torch.equal(value, back[key]) for key, value in peer.state_dict().items())
    other = torchvision.models.alexnet(weights=None, num_classes=7)
    other.load_state_dict(back)


def test_own_preprocessing_and_classes_travel_in_a_wrapped_pth(tmp_path, thin):
    found = made("alexnet_owt", mean=torch.rand(3, 256, 256) * 255, classes=["cat", "dog"])
    formats.write(found, tmp_path / "own.pth")
    state = torch.load(tmp_path / "own.pth", weights_only=True)["state_dict"]
    assert torch.equal(state["features.0.weight"], found.tensors["conv1.weight"])
    got = formats.read(tmp_path / "own.pth")
    assert same_tensors(found, got)
    assert got.classes == ["cat", "dog"]
    assert torch.equal(got.preprocess.mean, found.preprocess.mean)


def test_a_pth_cannot_hold_norms_and_says_so(tmp_path, thin):
    with pytest.raises(AlexNetError, match="cannot hold alexnet2012: torchvision's alexnet is alexnet_owt"):
        formats.write(made("alexnet2012"), tmp_path / "net.pth")


# -- the commands -------------------------------------------------------------------------------------------------


def test_a_caffe_net_and_its_converted_forms_answer_alike_to_the_same_jpeg(tmp_path, thin, capsys):
    found = made("bvlc_alexnet", mean=torch.rand(3, 256, 256) * 255)
    arrays = {key: value.numpy() for key, value in found.tensors.items()}
    caffe_file.write(tmp_path / "net.caffemodel", arrays)
    caffe_file.write_mean(tmp_path / "net_mean.binaryproto", found.preprocess.mean.numpy())
    (tmp_path / "cat.jpg").write_bytes(encoded(coloured("red", 5, (320, 280))))
    for ending in ("safetensors", "onnx", "caffemodel"):
        target = tmp_path / f"to.{ending}"
        assert run(["convert", str(tmp_path / "net.caffemodel"), str(target)]) == 0
        capsys.readouterr()
        assert run(["compare", "--json", str(tmp_path / "net.caffemodel"), str(target), str(tmp_path / "cat.jpg")]) == 0
        facts = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert facts["pictures"] == 1
        assert facts["layers"][0]["layer"] == "conv1"
        assert all(x["difference"] == 0 for x in facts["layers"])
        assert facts["same_top1"] == 1.0
        target.unlink()


def test_comparison_shows_where_two_networks_part(thin):
    one = built(made("bvlc_alexnet"))
    changed = made("bvlc_alexnet")
    changed.tensors["conv3.bias"] = changed.tensors["conv3.bias"] + 0.5
    rows = {x.layer: x for x in compare(one, built(changed), device="cpu").layers}
    assert rows["pool2"].difference == 0
    assert rows["conv3"].difference == pytest.approx(0.5, abs=1e-3)
    assert rows["logits"].difference > 0


def test_nothing_is_overwritten_and_unknown_endings_are_named(tmp_path, thin):
    found = made("alexnet_owt")
    formats.write(found, tmp_path / "net.onnx")
    with pytest.raises(AlexNetError, match="exists already"):
        formats.write(found, tmp_path / "net.onnx")
    (tmp_path / "net.prototxt").write_text("mine")
    with pytest.raises(AlexNetError, match=r"net.prototxt exists already"):
        formats.write(found, tmp_path / "net.caffemodel")
    with pytest.raises(AlexNetError, match=r"it writes .safetensors, .pth"):
        formats.write(found, tmp_path / "net.h5")


def test_another_input_size_is_a_matter_of_the_crop_alone(tmp_path, thin):
    formats.write(made("alexnet2012", mean=torch.rand(3, 256, 256) * 255), tmp_path / "net.safetensors")
    convert(tmp_path / "net.safetensors", tmp_path / "net.caffemodel", input=227)
    got = alexnet.load(tmp_path / "net.caffemodel")
    assert (got.model.variant.name, got.model.input) == ("alexnet2012", 227)
    with pytest.raises(AlexNetError, match="cannot take input 100"):
        convert(tmp_path / "net.safetensors", tmp_path / "no.onnx", input=100)


# -- what Caffe's nets say of their pictures ----------------------------------------------------------------------


def data_layer(scale: float | None = None, means=(), crop: int = 0, mean_file: str = "", old: bool = False) -> bytes:
    """A layer that reads data, with its transform_param."""
    m = caffe_file
    own = m.real(1, scale) if scale is not None else b""
    own += (m.integer(3, crop) if crop else b"") + (m.message(4, mean_file) if mean_file else b"")
    own += b"".join(m.real(5, value) for value in means)
    if old:
        return m.message(2, m.message(3, "data") + m.message(4, "data") + m.integer(5, 5) + m.message(36, own))
    return m.message(100, m.message(1, "data") + m.message(2, "Data") + m.message(4, "data") + m.message(100, own))


TRANSFORMS = {  # transform_param: divisor, mean in R, G, B
    "scale and means": (dict(scale=1 / 256, means=(33.0, 44.0, 55.0)), 256.0, [55.0, 44.0, 33.0]),
    "one mean for all": (dict(means=(60.0,)), 1.0, [60.0] * 3),
    "scale alone": (dict(scale=0.5), 2.0, [0.0] * 3),
    "a crop alone": (dict(crop=227), 1.0, [0.0] * 3),
    "a file that is there": (dict(mean_file="/data/x/train_average.binaryproto"), 1.0, [3.0] * 3),
    "a file that is lost": (dict(mean_file="/data/x/lost.binaryproto"), 1.0, [122.679, 116.669, 104.007]),
}


@pytest.mark.parametrize("where", ["the net", "the old net", "a prototxt"])
@pytest.mark.parametrize("case", TRANSFORMS)
def test_a_caffe_net_says_scale_and_mean_of_its_pictures(tmp_path, thin, case, where):
    given, scale, mean = TRANSFORMS[case]
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays, old=where == "the old net")
    caffe_file.write_mean(tmp_path / "train_average.binaryproto", np.full((3, 256, 256), 3.0, np.float32))
    if where == "a prototxt":
        names = {
            "scale": "scale: {}",
            "crop": "crop_size: {}",
            "mean_file": 'mean_file: "{}"',
            "means": "mean_value: {}",
        }
        lines = [names[k].format(x) for k, value in given.items() for x in (value if k == "means" else [value])]
        text = (
            'name: "net" # a comment {\nlayer { name: "data" include { phase: TRAIN } transform_param { scale: 9 } }\n'
        )
        text += f'layer {{ name: "data" include {{ phase: TEST }}\n  transform_param {{ {" ".join(lines)} }} }}\n'
        (tmp_path / "train_val.prototxt").write_text(text)
    else:
        file.write_bytes(data_layer(**given, old=where == "the old net") + file.read_bytes())
    got = formats.read(file).preprocess
    assert got.scale == pytest.approx((scale,))
    colour = got.mean.mean((1, 2)) if got.mean.dim() == 3 else got.mean
    assert colour.tolist() == pytest.approx(mean, rel=1e-5)


def test_a_gray_caffe_net_without_a_mean_asks_for_one_and_takes_numbers(tmp_path, thin):
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :1]
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays)
    with pytest.raises(AlexNetError, match=r"--mean, a file or 1 numbers \(0 if it was trained without one\)"):
        formats.read(file)
    got = formats.read(file, Hints(mean="60"))
    assert (got.preprocess.order, got.preprocess.mean.flatten().tolist()) == ("L", [60.0])


def test_a_mean_of_the_crops_size_is_subtracted_from_the_crop(tmp_path, thin):
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays)
    mean = np.random.default_rng(0).uniform(0, 255, (3, 227, 227)).astype(np.float32)
    caffe_file.write_mean(tmp_path / "net_mean.binaryproto", mean)
    got = formats.read(file).preprocess
    np.testing.assert_array_equal(got.central(got.mean).numpy(), mean[::-1])


# -- ONNX with its weights beside ---------------------------------------------------------------------------------


def test_weights_beside_an_onnx_file_are_read_within_its_folder_alone(tmp_path, thin):
    found = made("bvlc_alexnet_zoo")
    folder = tmp_path / "net"
    folder.mkdir()
    file = foreign(folder / "zoo.onnx", zoo_steps(found), 224)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="zoo.onnx.data", size_threshold=0)
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


def test_a_file_in_the_folder_of_weights_is_all_that_a_format_takes(alexnet, refused, tmp_path, monkeypatch):
    from alexnet import weights as folder
    from alexnet.base import entries

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "backwards.py").write_text(
        "from alexnet.weights import native\n"
        "from alexnet.weights.registry import Reader, Writer\n"
        "def write(weights, file):\n"
        "    file.write_bytes(native.to_bytes(weights)[::-1])\n"
        "    return [file]\n"
        "def read(file, hints):\n"
        "    plain = file.with_suffix('.plain')\n"
        "    plain.write_bytes(file.read_bytes()[::-1])\n"
        "    return native.read(plain, hints)\n"
        "def recognises(head, file):\n"
        "    return file.suffix == '.backwards'\n"
        "READER = Reader(5, '.backwards', 'from the end', recognises, read)\n"
        "WRITER = Writer(60, '.backwards', 'from the end', write)\n"
    )
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "mine")])
    monkeypatch.setattr(entries, "_FOUND", {})
    assert "from the end" in alexnet("convert", "--formats")[1]
    file = tmp_path / "net.backwards"
    assert alexnet("convert", "tiny", file)[0] == 0
    assert alexnet("compare", file, "tiny")[0] == 0
    assert ".backwards" in refused("info", __file__)
