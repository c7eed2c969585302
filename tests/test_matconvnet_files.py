"""MatConvNet's .mat files: weights bit for bit, means, names of classes, and other networks named by their layer."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

import caffe_file
import matconvnet_file as mat
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints
from alexnet.data import labels
from alexnet.weights import formats, matconvnet_meta, matlab
from made_weights import logits, made, same_tensors, thin_variants
from made_weights import pictures as seen

NETS = ("bvlc_alexnet", "caffenet", "matconvnet_alexnet")
NAMES = ["tench, Tinca tinca", "goldfish", "shark", "ray", "cock", "hen", "ostrich"]
MEAN = np.random.default_rng(0).uniform(0, 255, (227, 227, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def thin(monkeypatch):
    thin_variants(monkeypatch)


def arrays(net: str = "bvlc_alexnet") -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in made(net).tensors.items()}


def layers(net: str = "bvlc_alexnet", **changed) -> list[dict]:
    """The layers, some with other fields, given by name."""
    return [{**one, **changed.get(one["name"], {})} for one in mat.layers(arrays(net), net)]


@pytest.mark.parametrize("form", ["new", "older old", "inner", "dag", "packed dag", "packed old"])
@pytest.mark.parametrize("net", NETS)
def test_every_form_of_a_network_is_read_bit_for_bit_under_our_names(tmp_path, net, form):
    *how, form = form.split()
    given = mat.layers(arrays(net), net)
    given = mat.older(given) if "older" in how else given
    file = mat.write(tmp_path / "net", given, mat.pictures(MEAN), NAMES, form, "packed" in how)
    got = formats.read(file)
    assert (got.variant, got.preprocess.input, got.preprocess.stored) == (net, 227, 256)
    assert [key for key in got.tensors if key.endswith("weight")] == [
        f"{name}.weight" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    ]
    assert same_tensors(made(net), got)
    assert (got.classes, got.naming, got.changes) == (labels.distinct(NAMES), "", {})
    assert torch.equal(got.preprocess.central(got.preprocess.mean), torch.from_numpy(MEAN.transpose(2, 0, 1)))


def test_a_mat_answers_as_the_caffemodel_of_the_same_network(tmp_path):
    given = arrays("caffenet")
    caffe = {**given, "conv1.weight": np.ascontiguousarray(given["conv1.weight"][:, ::-1])}
    caffe_file.write(tmp_path / "net.caffemodel", caffe, "caffenet")
    mat.write(tmp_path / "net.mat", mat.layers(given, "caffenet"), mat.pictures(np.float32([[[1, 2, 3]]])), NAMES)
    one, other = formats.read(tmp_path / "net.caffemodel"), formats.read(tmp_path / "net.mat")
    x = seen(one)
    assert np.array_equal(logits(one, x), logits(other, x))
    assert other.preprocess.mean.flatten().tolist() == [1, 2, 3]


def test_a_layer_computes_what_matlabs_indices_say(tmp_path):
    """conv1(1, 2, o) and fc6(o), each as a sum over filters(row, column, input, output)."""
    given = mat.layers(arrays(), "bvlc_alexnet")
    found = formats.read(mat.write(tmp_path / "net.mat", given, mat.pictures(MEAN), NAMES))
    x = np.random.default_rng(1).normal(size=(227, 227, 3)).astype(np.float32)
    conv1, fc6 = given[0]["weights"][0], next(one for one in given if one["name"] == "fc6")["weights"][0]
    expected = (x[4:15, 8:19, :, None].astype(np.float64) * conv1[0]).sum((0, 1, 2)) + conv1[1][0]
    weight, bias = (found.tensors[f"conv1.{what}"].double() for what in ("weight", "bias"))
    got = torch.nn.functional.conv2d(torch.from_numpy(x.transpose(2, 0, 1)).double()[None], weight, bias, 4)[0, :, 1, 2]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    maps = np.random.default_rng(2).normal(size=fc6[0].shape[:3])
    expected = (maps[..., None] * fc6[0]).sum((0, 1, 2))
    flat = torch.from_numpy(np.ascontiguousarray(maps.transpose(2, 0, 1))).reshape(-1)
    np.testing.assert_allclose(found.tensors["fc6.weight"].double() @ flat, expected, rtol=1e-10)


def test_what_a_mat_holds_goes_through_our_own_file_and_back(tmp_path):
    given = mat.layers(arrays(), "bvlc_alexnet", dropout=True)
    found = formats.read(mat.write(tmp_path / "net.mat", given, mat.pictures(MEAN, keepAspect=False), NAMES))
    assert (found.preprocess.square, found.changes) == ("squash", {"dropout": 0.5})
    formats.write(found, tmp_path / "net.safetensors")
    again = formats.read(tmp_path / "net.safetensors")
    assert same_tensors(found, again)
    assert again.preprocess.facts() == found.preprocess.facts()
    assert torch.equal(again.preprocess.mean, found.preprocess.mean)


WRONG = {
    "norm1 param": ({"norm1": {"param": mat.row(5, 1, 1e-4, 0.75)}},
                    r"'norm1' is normalisation with param \[5 1 0.0001 0.75\] where bvlc_alexnet has .*2e-05"),
    "norm2 kappa": ({"norm2": {"param": mat.row(5, 2, 2e-5, 0.75)}}, r"'norm2' is .*\[5 2 2e-05 0.75\]"),
    "stride": ({"conv1": {"stride": mat.row(4, 2)}}, "'conv1' is convolution .*stride 4 x 2"),
    "pad": ({"conv3": {"pad": mat.row(0, 2, 1, 1)}}, "'conv3' is convolution .*padding 0 x 1, to 13 x 13 where"),
    "dilate": ({"conv3": {"dilate": 2.0}}, "'conv3' is dilated convolution"),
    "pooling": ({"pool1": {"method": "avg"}}, "'pool1' is avg pooling of 3 x 3, .* has max pooling"),
    "window": ({"pool2": {"pool": mat.row(2, 2)}}, "'pool2' is max pooling of 2 x 2"),
    "leak": ({"relu3": {"leak": 0.1}}, "'relu3' is leaky ReLU where bvlc_alexnet has ReLU"),
    "type": ({"relu4": {"type": "bnorm"}}, "'relu4' is layer of type 'bnorm' where .*; have cnn_imagenet_deploy"),
    "stride of 0": ({"pool1": {"stride": mat.row(0, 0)}}, "'pool1' of type 'pool' with .* stride of 0 x 0.; mend it"),
    "words for numbers": ({"conv2": {"pad": "same"}}, "'conv2' of type 'conv' with .*4 numbers are expected where"),
    "three numbers": ({"norm1": {"param": mat.row(5, 1, 2e-5)}}, "'norm1' of .*4 numbers are expected"),
    "softmax": ({"relu7": {"type": "softmax"}}, "'relu7' is layer of type 'softmax' where"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["new", "dag"])
@pytest.mark.parametrize("change", WRONG)
def test_another_number_is_another_network_which_is_named_by_its_layer(tmp_path, change, form):
    changes, words = WRONG[change]
    given = layers(**changes)
    with pytest.raises(AlexNetError, match=words):
        formats.read(mat.write(tmp_path / "net.mat", given, mat.pictures(MEAN), NAMES, form))


def test_other_groups_orders_and_numbers_of_layers_are_refused(tmp_path):
    given, file = mat.layers(arrays(), "bvlc_alexnet"), tmp_path / "net.mat"
    places = {one["name"]: number for number, one in enumerate(given)}

    def refused(changed, words):
        with pytest.raises(AlexNetError, match=words):
            formats.read(mat.write(file, changed, mat.pictures(MEAN), NAMES))

    whole = np.concatenate([given[places["conv4"]]["weights"][0, 0]] * 2, axis=2)
    one = {**given[places["conv4"]], "weights": mat.cell([whole, given[places["conv4"]]["weights"][0, 1]])}
    refused([one if x["name"] == "conv4" else x for x in given], r"'conv4' is convolution in 1 group to .* in 2 groups")
    for name in ("relu5", "conv3", "norm2", "fc7"):
        refused([x for x in given if x["name"] != name], "none of the networks known here: layer ")
    refused(given[: places["fc8"]], "its layers end where bvlc_alexnet has convolution in 1 group to")
    swapped = list(given)
    swapped[places["pool5"]], swapped[places["relu5"]] = swapped[places["relu5"]], swapped[places["pool5"]]
    refused(swapped, "'pool5' is max pooling")
    refused([{**x, "weights": mat.cell([x["weights"][0, 0], mat.row()])} if x["name"] == "fc6" else x for x in given],
            "no filters and biases in 'fc6'")  # fmt: skip
    with pytest.raises(AlexNetError, match="is of bvlc_alexnet, and --variant says caffenet"):
        formats.read(mat.write(file, given, mat.pictures(MEAN), NAMES), Hints(variant="caffenet"))


def test_paddings_that_no_window_reaches_change_nothing(tmp_path):
    given = layers(pool1={"pad": mat.row(0, 1, 0, 1)}, pool5={"pad": mat.row(0, 1, 0, 1)})
    assert formats.read(mat.write(tmp_path / "net.mat", given, mat.pictures(MEAN), NAMES)).variant == "bvlc_alexnet"


@pytest.mark.parametrize("form", ["new", "dag", "inner", "inner dag"])
def test_what_training_hangs_on_the_last_layer_is_left_out(tmp_path, form):
    losses = [{"name": name, "type": "loss"} for name in ("objective", "top1err", "top5err")]
    losses = losses if "dag" in form else [{"name": "loss", "type": "softmaxloss"}]
    given = [*layers()[:-1], *losses]
    assert same_tensors(
        made("bvlc_alexnet"), formats.read(mat.write(tmp_path / "n", given, mat.pictures(MEAN), NAMES, form))
    )


def test_pictures_of_224_are_the_zoos_network_and_no_other(tmp_path):
    found = made("bvlc_alexnet_zoo")
    given = mat.layers({key: value.numpy() for key, value in found.tensors.items()}, "bvlc_alexnet")
    given = [{**x, "pad": mat.row(0, 1, 0, 1)} if x["name"] == "pool5" else x for x in given]
    got = formats.read(mat.write(tmp_path / "net.mat", given, mat.pictures(MEAN[:224, :224], 224), NAMES))
    assert (got.variant, got.preprocess.input) == ("bvlc_alexnet_zoo", 224)


def test_a_dagnn_that_is_no_chain_is_refused(tmp_path):
    whole = {**mat.dag(layers()), "meta": {"normalization": mat.pictures(MEAN)}}
    whole["layers"][0, 4]["inputs"] = mat.cell(["x1"])
    scipy.io.savemat(tmp_path / "net.mat", whole)
    with pytest.raises(AlexNetError, match="'conv2' that sees another than the one before it"):
        formats.read(tmp_path / "net.mat")


def test_a_dagnn_without_a_param_that_a_layer_names_is_refused(tmp_path):
    whole = {**mat.dag(layers()), "meta": {"normalization": mat.pictures(MEAN)}}
    whole["params"] = whole["params"][:, 1:]
    scipy.io.savemat(tmp_path / "net.mat", whole)
    with pytest.raises(AlexNetError, match=r"no param '.*', which its layer 'conv1' names; save the network anew"):
        formats.read(tmp_path / "net.mat")


def test_dropouts_of_several_rates_are_said_not_to_be_kept(tmp_path, caplog):
    given = mat.layers(arrays(), "bvlc_alexnet", dropout=True)
    next(one for one in given if one["type"] == "dropout")["rate"] = 0.3
    found = formats.read(mat.write(tmp_path / "net.mat", given, mat.pictures(MEAN), NAMES))
    assert (found.changes, "several rates, [0.3, 0.5]: bvlc_alexnet's are taken" in caplog.text) == ({}, True)


def test_what_a_file_says_of_its_pictures_is_taken_over_or_asked_for(tmp_path, caplog):
    file, given = tmp_path / "net.mat", layers()

    def read(hints: Hints | None = None, names=NAMES, **changed):
        return formats.read(mat.write(file, given, mat.pictures(MEAN, **changed), names), hints or Hints())

    crop = read(border=None, keepAspect=None, cropSize=227 / 256).preprocess
    assert (crop.stored, crop.square) == (256, "crop")
    assert not caplog.records
    assert read(border=mat.row(0, 0)).preprocess.mean.shape == (3, 227, 227)
    assert read(border=None, keepAspect=None).preprocess.stored == 256
    assert "gives neither border nor cropSize: crops are taken from pictures of 256" in caplog.text
    assert "pictures are cropped to squares" in caplog.text
    for absent in (mat.row(), mat.row(0, 0), None):
        with pytest.raises(AlexNetError, match="carries no averageImage; give its mean with --mean"):
            read(averageImage=absent)
        assert read(Hints(mean="1,2,3"), averageImage=absent).preprocess.mean.flatten().tolist() == [1, 2, 3]
    with pytest.raises(AlexNetError, match="carries its own mean; leave --mean out"):
        read(Hints(mean="1,2,3"))
    assert read(averageImage=np.array([[1.0], [2.0], [3.0]])).preprocess.mean.flatten().tolist() == [1, 2, 3]
    for changed, words in {
        "averageImage": (MEAN[:100], r"averageImage of \(100, 227, 3\), not \(227, 227, 3\)"),
        "imageStd": (mat.row(0.2, 0.2, 0.2), "divides pixels by an imageStd"),
        "border": (mat.row(29, 0), "crops of 227 from pictures of 256 x 227"),
        "imageSize": (mat.row(227, 200, 3), r"no side of its square pictures \(imageSize is \[227.0, 200.0, 3.0\]\)"),
    }.items():
        with pytest.raises(AlexNetError, match=words[1]):
            read(**{changed: words[0]})
    with pytest.raises(AlexNetError, match=r"no side of its square pictures \(imageSize is \[\]\)"):
        formats.read(mat.write(file, given))
    with pytest.raises(AlexNetError, match="has 7 outputs and 2 names of classes"):
        read(names=["a", "b"])
    assert (read(names=[]).classes, read(names=[]).naming) == ([str(n) for n in range(7)], "assumed")


# -- the format itself --------------------------------------------------------------------------------------------


def test_files_that_matlab_wrote_are_read_as_scipy_reads_them():
    """Those that SciPy is tested with: numbers in smaller types than their class, text in UTF-16, packed arrays."""
    folder = Path(scipy.io.matlab.__file__).parent / "tests" / "data"
    names = [f"test{what}_7.{n}_GLNX86.mat" for n in (1, 4) for what in
             ("3dmatrix", "cell", "cellnest", "double", "emptycell", "matrix", "multi", "string", "struct", "structarr",
              "structnest", "unicode")]  # fmt: skip
    files = [folder / name for name in names if (folder / name).exists()]
    if not files:
        pytest.skip("this SciPy comes without its tests")
    for file in files:
        expected = scipy.io.loadmat(file)
        for name, value in matlab.variables(file).items():
            agree(value, expected[name])


def agree(value, expected) -> None:
    if isinstance(value, matlab.Numbers):
        np.testing.assert_array_equal(value.array(), expected)
    elif isinstance(value, str):
        assert value == "".join(np.asarray(expected).ravel().tolist())
    elif isinstance(value, list):
        inner = np.asarray(expected).ravel(order="F")
        assert len(value) == len(inner)
        for one, other in zip(value, inner, strict=True):
            for key in one if isinstance(one, dict) else [None]:
                agree(one if key is None else one[key], other if key is None else other[key])


def tagged(kind: int, contents: bytes) -> bytes:
    return struct.pack("<II", kind, len(contents)) + contents + bytes(-len(contents) % 8)


def array(kind: int, sides: tuple[int, ...], rest: bytes, name: bytes = b"layers") -> bytes:
    """An array of a class: flags, sides, name and what follows."""
    head = tagged(6, struct.pack("<II", kind, 0)) + tagged(5, struct.pack(f"<{len(sides)}i", *sides))
    return tagged(14, head + tagged(1, name) + rest)


def written(path: Path, *elements: bytes) -> Path:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements))
    return path


def test_numbers_may_be_stored_in_fewer_bytes_and_text_in_sixteen_bits(tmp_path):
    file = tmp_path / "net.mat"
    zeros = array(7, (1, 3), struct.pack("<HH", 2, 3) + b"\1\2\3\0", b"zeros")  # three bytes within their tag
    found = matlab.variables(written(file, zeros, array(4, (1, 4), tagged(4, "né€x".encode("utf-16-le")), b"text")))
    assert (found["zeros"].array().dtype, found["zeros"].array().tolist()) == (np.float32, [[1, 2, 3]])
    assert found["text"] == "né€x"
    cut = zlib.compress(zeros)[:-4]  # without what it is checked by
    with pytest.raises(ValueError, match="it ends within a compressed array"):
        matlab.variables(written(file, struct.pack("<II", 15, len(cut)) + cut))


def test_announced_sizes_take_no_memory(tmp_path, monkeypatch):
    file, field = tmp_path / "net.mat", tagged(5, struct.pack("<i", 8)) + tagged(1, b"a".ljust(8, b"\0"))
    deep = array(6, (0, 0), tagged(9, b""))
    for _ in range(200):
        deep = array(1, (1, 1), deep)
    monkeypatch.setattr(matlab, "MOST_ARRAYS", 1000)
    many = array(1, (2000, 1), struct.pack("<II", 14, 0) * 2000)
    lies = [array(kind, (1 << 28, 1 << 20), rest) for kind, rest in ((1, b""), (2, field), (6, tagged(9, b"")))]
    tracemalloc.start()
    try:
        for contents in (*lies, array(2, (1 << 28, 1), tagged(5, struct.pack("<i", 8)) + tagged(1, b"")), deep, many):
            with pytest.raises(AlexNetError, match=r"is damaged, or another|has no layers of MatConvNet"):
                formats.read(written(file, contents))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(AlexNetError, match="more than 1,000 arrays"):
        formats.read(file)
    with pytest.raises(AlexNetError, match="arrays 16 deep in each other"):
        formats.read(written(file, deep))


def test_a_file_of_a_few_bytes_cannot_unpack_without_end(tmp_path):
    bomb = zlib.compress(array(6, (1, 10 << 20), tagged(9, bytes(80 << 20))), 9)
    file = written(tmp_path / "net.mat", struct.pack("<II", 15, len(bomb)) + bomb)
    assert file.stat().st_size < 200_000
    with pytest.raises(AlexNetError, match="it unpacks to more than"):
        formats.read(file)


def test_files_of_version_7_3_and_of_other_things_than_networks_are_called_so(tmp_path):
    file = tmp_path / "net.mat"
    file.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(AlexNetError, match=r"version 7.3, HDF5, which is not read; load it in MATLAB .*'-v7'"):
        formats.read(file)
    scipy.io.savemat(file, {"images": mat.row(1, 2), "x": "text"})
    with pytest.raises(AlexNetError, match=r"has no layers of MatConvNet \(it holds images, x\)"):
        formats.read(file)
    opaque = tagged(6, struct.pack("<II", 17, 0)) + tagged(1, b"net") + tagged(1, b"MCOS") + tagged(1, b"dagnn.DagNN")
    with pytest.raises(AlexNetError, match=r"holds net as an object; in MATLAB, .*net.saveobj"):
        formats.read(written(file, tagged(14, opaque)))
    file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI")
    with pytest.raises(AlexNetError, match="not that of a file of version 5, least byte first"):
        formats.read(file)
    contents = mat.write(file, layers(), mat.pictures(MEAN), NAMES).read_bytes()
    for cut in (100, 130, 5000, len(contents) - 9):
        file.write_bytes(contents[:cut])
        with pytest.raises(AlexNetError, match=r"is damaged, .*; copy it again"):
            formats.read(file)


@pytest.mark.parametrize(
    "given", ["tench  shark", matlab.Numbers((1, 2), "f8", np.ones(2))], ids=["letters", "numbers"]
)
def test_names_of_classes_in_another_form_are_said_not_to_be_read(given, caplog):
    assert matconvnet_meta.class_names(Path("net.mat"), {"description": given}, 2) == []
    assert "names of its classes in another form than a cell of texts: they are not read" in caplog.text


def test_a_file_without_names_of_classes_is_no_matter_for_words(caplog):
    for nothing in ({}, {"name": []}, {"name": ""}, {"name": matlab.Numbers((0, 0), "f8", np.empty(0))}):
        assert matconvnet_meta.class_names(Path("net.mat"), nothing, 2) == []
    assert not caplog.text
