"""Caffe's files of either generation: weights bit for bit, means, what its nets say of their pictures, damage."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import caffe_file
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights import formats
from made_weights import close, logits, made, narrow, pictures, same_tensors, thin_variants

# What Caffe has no layer for, and crops smaller than these nets' own that leave nothing over in their poolings.
CANNOT = {"alexnet_bn": "norm1", "alexnet2012_apart": "fc6", "cifar10_13": "local3", "cifar10_11": "local3"}
SMALLER = {"alexnet_owt": 97, "cifar10_18": 16, "alexnet32": 16}


@pytest.fixture
def thin(monkeypatch):
    thin_variants(monkeypatch)


@pytest.mark.parametrize("net", ["bvlc_alexnet", "caffenet"])
@pytest.mark.parametrize("option", ["", "old", "diff", "unpacked", "old double"])
def test_a_caffemodel_of_either_generation_is_read_bit_for_bit(tmp_path, thin, monkeypatch, net, option):
    options = {word: True for word in option.split()}
    if options.pop("unpacked", False):
        options["packed"] = False
        monkeypatch.setitem(VARIANTS, net, narrow(net))  # thinner yet: every number is read by itself
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
    assert "net.caffemodel: ilsvrc_2012_mean.npy, which lies beside it, is taken for its mean" in caplog.text
    caffe_file.write_mean(tmp_path / "mean.binaryproto", np.full((3, 256, 256), 4.0, np.float32))
    with pytest.raises(AlexNetError, match="several means beside it"):
        formats.read(file)
    assert formats.read(file, Hints(mean=str(tmp_path / "mean.binaryproto"))).preprocess.mean.unique().tolist() == [4.0]
    caffe_file.write_mean(tmp_path / "mean.binaryproto", np.zeros((3, 32, 32), np.float32))
    with pytest.raises(AlexNetError, match=r"has the shape \(3, 32, 32\); the network takes \(3, 256, 256\)"):
        formats.read(file, Hints(mean=str(tmp_path / "mean.binaryproto")))


@pytest.mark.parametrize(("other", "taken"), [("mine.caffemodel", False), ("mine.onnx", False), ("mine.txt", True)])
def test_a_mean_that_is_called_after_another_model_beside_it_is_that_models(tmp_path, thin, caplog, other, taken):
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays)
    caffe_file.write_mean(tmp_path / "mine_mean.binaryproto", np.full((3, 256, 256), 3.0, np.float32))
    (tmp_path / other).touch()
    usual = pytest.approx([122.679, 116.669, 104.007])
    assert formats.read(file).preprocess.mean.mean((1, 2)).tolist() == ([3.0] * 3 if taken else usual)
    assert ("no mean beside it (mine_mean.binaryproto: another model's)" in caplog.text) != taken
    caffe_file.write_mean(tmp_path / "net_mean.binaryproto", np.full((3, 256, 256), 4.0, np.float32))
    caplog.clear()
    assert formats.read(file).preprocess.mean.unique().tolist() == [4.0]
    assert "taken for" not in caplog.text


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


@pytest.mark.parametrize("name", VARIANTS)
def test_what_caffe_holds_comes_back_bit_for_bit(tmp_path, thin, name):
    plan = variant(name)
    input = 227 if plan.stored == 256 and name != "alexnet_owt" else plan.input
    if name == "alexnet64_nonoverlap":
        input = 48  # its poolings leave nothing over there, as Caffe's never do
    found = made(name, input=input, mean=torch.rand(3, plan.stored, plan.stored) * 255, dropout=0.25, activation="tanh")
    file = tmp_path / "net.caffemodel"
    if name in CANNOT:
        with pytest.raises(
            AlexNetError, match=f"cannot hold {name}: Caffe has no layer that computes its {CANNOT[name]}"
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


@pytest.mark.parametrize("name", [x for x in VARIANTS if x not in (*CANNOT, "bvlc_alexnet_zoo")])
def test_a_net_that_is_adapted_to_other_crops_comes_back_from_caffe(tmp_path, thin, name, caplog):
    plan = variant(name)
    input = SMALLER.get(name, 99 if plan.stored == 256 else 31)
    stored = round(input * plan.stored / plan.input)
    found = made(name, input=input, mean=torch.rand(3, stored, stored) * 255, adapt=True)
    found = replace(found, preprocess=replace(found.preprocess, stored=stored))
    formats.write(found, tmp_path / "net.caffemodel")
    assert "to what size pictures are shrunk" not in caplog.text
    got = formats.read(tmp_path / "net.caffemodel")
    assert (got.changes["adapt"], got.preprocess.input, got.preprocess.stored) == (True, input, stored)
    assert same_tensors(found, got)
    assert torch.equal(got.preprocess.mean, found.preprocess.mean)


def test_a_size_of_pictures_that_caffe_does_not_hold_is_said(tmp_path, thin, caplog):
    found = made("caffenet")
    formats.write(replace(found, preprocess=replace(found.preprocess, stored=240)), tmp_path / "net.caffemodel")
    assert "before the crop; read, it is 256 pixels, not 240" in caplog.text


def test_a_net_whose_weights_are_of_another_input_than_it_says_is_refused(tmp_path, thin):
    file = tmp_path / "net.caffemodel"
    caffe_file.write(file, {key: value.numpy() for key, value in made("caffenet").tensors.items()}, "caffenet")
    sides = b"".join(caffe_file.integer(4, side) for side in (1, 3, 99, 99))
    file.write_bytes(file.read_bytes() + sides)
    with pytest.raises(AlexNetError, match=r"has fc6.weight of shape \(256, 576\); caffenet .* has \(256, 64\)"):
        formats.read(file)


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


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("slope", [0.3, 0.0])
def test_a_relu_that_lets_some_of_what_is_below_zero_through_is_no_relu(tmp_path, thin, monkeypatch, old, slope):
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays, old=old)
    plain = caffe_file.layer("relu3", "ReLU", old=old)
    monkeypatch.setitem(caffe_file.PARAMETERS, "ReLU", (30, 123))  # caffe.proto: relu_param
    leaky = caffe_file.layer("relu3", "ReLU", caffe_file.real(1, slope), old=old)
    file.write_bytes(file.read_bytes().replace(plain, leaky))
    if slope:
        with pytest.raises(AlexNetError, match=r"relu3 is ReLU \(negative_slope 0.3\) where bvlc_alexnet has ReLU"):
            formats.read(file)
    else:
        assert formats.read(file).variant == "bvlc_alexnet"


@pytest.mark.parametrize("asked", VARIANTS)
def test_a_variant_that_is_named_is_that_of_the_file_or_refused(tmp_path, thin, asked):
    """bvlc_alexnet_zoo is bvlc_alexnet with sizes rounded otherwise, of which a Caffe file says nothing."""
    for net in ("bvlc_alexnet", "caffenet"):
        arrays = {key: value.numpy() for key, value in made(net).tensors.items()}
        file = caffe_file.write(tmp_path / f"{net}.caffemodel", arrays, net)
        if asked in (net, f"{net}_zoo"):
            assert formats.read(file, Hints(variant=asked)).variant == asked
            continue
        with pytest.raises(AlexNetError, match=f"is of {net}, and --variant says {asked}; leave it out"):
            formats.read(file, Hints(variant=asked))


def test_a_net_of_no_variant_is_read_as_the_one_that_is_named_and_that_is_said(tmp_path, thin, monkeypatch, caplog):
    arrays = {key: value.numpy() for key, value in made("bvlc_alexnet").tensors.items()}
    file = caffe_file.write(tmp_path / "net.caffemodel", arrays)
    plain = caffe_file.layer("relu3", "ReLU")
    monkeypatch.setitem(caffe_file.PARAMETERS, "ReLU", (30, 123))  # caffe.proto: relu_param
    leaky = caffe_file.layer("relu3", "ReLU", caffe_file.real(1, 0.3))
    file.write_bytes(file.read_bytes().replace(plain, leaky))
    assert formats.read(file, Hints(variant="bvlc_alexnet")).variant == "bvlc_alexnet"
    said = "is read as bvlc_alexnet, which was asked for, though layer relu3 is ReLU (negative_slope 0.3) where"
    assert said in caplog.text


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
    with pytest.raises(AlexNetError, match=r"--mean, a file or 1 number \(0 if it was trained without one\)"):
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
