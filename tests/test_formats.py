"""Files of weights of cuda-convnet, NumPy and torchvision against independent writers and peers, and the commands."""

from __future__ import annotations

import json
import math

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
from alexnet.inference.conversion import compare, convert
from alexnet.weights import formats
from alexnet.weights.classifier import built
from conftest import Bomb, coloured, encoded
from made_weights import alexnet_names, made, same_tensors, thin_variants


@pytest.fixture
def thin(monkeypatch):
    thin_variants(monkeypatch)


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


def test_what_is_no_number_differs(thin):
    one, broken = built(made("bvlc_alexnet")), built(made("bvlc_alexnet"))
    broken.model.fc8.bias.data += math.nan
    rows = {x.layer: x.difference for x in compare(one, broken, device="cpu").layers}
    assert rows["relu7"] == 0
    assert math.isnan(rows["logits"])


@pytest.mark.parametrize("order", [[3, 0, 6, 1, 2, 5, 4], [0, 1, 2, 3, 4, 5, 6]])
def test_classes_in_another_order_are_compared_by_their_names(thin, order):
    one, turned = made("bvlc_alexnet", classes=list("abcdefg")), made("bvlc_alexnet", classes=list("abcdefg"))
    turned.classes[:] = [one.classes[n] for n in order]
    for kind in ("weight", "bias"):
        turned.tensors[f"fc8.{kind}"] = one.tensors[f"fc8.{kind}"][order]
    result = compare(built(one), built(turned), device="cpu")
    assert result.same_top1 == 1.0
    assert all(row.difference < 1e-4 for row in result.layers)
    turned.classes[:] = one.classes  # the same numbers, for other classes
    same = compare(built(one), built(turned), device="cpu")
    assert (max(row.difference for row in same.layers) < 1e-4) == (order == sorted(order))


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("form", ["npy", "caffemodel", "pth"])
def test_digits_that_float32_cannot_hold_are_said_to_be_lost(tmp_path, thin, caplog, form, lost):
    found = made("bvlc_alexnet")
    arrays = {key: value.double().numpy() * (1 + 1e-12 * lost) for key, value in found.tensors.items()}
    file = tmp_path / f"net.{form}"
    if form == "npy":
        np.save(
            file, {x: [arrays[f"{x}.weight"], arrays[f"{x}.bias"]] for x in {k[:-5] for k in arrays if "bias" in k}}
        )
    elif form == "caffemodel":
        caffe_file.write(file, arrays, double=True)
    else:
        torch.save({key: torch.from_numpy(x) for key, x in arrays.items()}, file)
    got = formats.read(file, Hints(variant="bvlc_alexnet"))
    assert all(x.dtype == torch.float32 for x in got.tensors.values())
    assert ("is float64 and is taken as float32: digits are lost, and so 15 more" in caplog.text) == lost


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
