"""Weights of other programs and published ones: the same answers as their own network, and nothing executed."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torchvision.transforms import v2

import alexnet
import caffe_file
from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.inference.features import check_layers
from alexnet.networks.model import seeded_build
from alexnet.networks.shapes import weight_shapes
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights import published
from alexnet.weights.published import Published
from conftest import Bomb, coloured, encoded
from made_weights import thin_variants, torchvisions


@pytest.fixture(scope="module")
def peer() -> Iterator[torch.nn.Module]:
    """torchvision's network with random weights for 12 classes, narrow as ours is while this file is tested."""
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        yield torchvisions(patch, 12)


def saved(tmp_path, what) -> str:
    torch.save(what, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def test_torchvisions_weights_give_torchvisions_answer_to_the_same_picture(tmp_path, peer):
    ours = alexnet.load(saved(tmp_path, peer.state_dict()))
    picture = coloured("green", 1, (300, 256))
    # The evaluation transform that torchvision documents for these weights.
    transform = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        expected = peer(transform(picture)[None])
        got = ours.model(ours.preprocess(encoded(picture))[None])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (ours.model.variant.name, ours.classes) == ("alexnet_owt", [str(n) for n in range(12)])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 90},
        lambda state: {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {k: v.half() for k, v in state.items()},
    ],
)
def test_wrapped_and_prefixed_weights_are_found(tmp_path, peer, wrap):
    ours = alexnet.load(saved(tmp_path, wrap(peer.state_dict())))
    torch.testing.assert_close(ours.model.conv1.weight, peer.features[0].weight, rtol=1e-3, atol=1e-3)


def test_old_torch_files_are_read_too(tmp_path, peer):
    torch.save(peer.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(alexnet.load(tmp_path / "old.pth").model.fc8.weight, peer.classifier[6].weight)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda found: {"state_dict": OrderedDict(found)}])
def test_tensors_that_were_pickled_without_torch_save_are_called_so(tmp_path, wrap, protocol):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(wrap({"fc8.bias": torch.ones(3)}), protocol))
    with pytest.raises(AlexNetError, match=r"a pickle of PyTorch's tensors, made without torch.save; .* save it with"):
        alexnet.load(tmp_path / "w.pkl")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_by_name_and_not_run(tmp_path, zipped):
    target = tmp_path / "made"
    torch.save({"state_dict": Bomb(str(target))}, tmp_path / "bomb.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(AlexNetError, match=r"refused: it holds more than weights \(it wants to run \w+\.mkdir"):
        alexnet.load(tmp_path / "bomb.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(str(target))))
    with pytest.raises(AlexNetError, match=r"refused: it holds more than weights \(it wants to run \w+\.mkdir"):
        alexnet.load(tmp_path / "plain.pkl")
    assert not target.exists()


def test_another_network_and_broken_weights_are_named(tmp_path, peer):
    state = dict(peer.state_dict())
    with pytest.raises(AlexNetError, match=r"another network .*has features.14.weight besides"):
        alexnet.load(saved(tmp_path, {**state, "features.14.weight": torch.zeros(1)}))
    with pytest.raises(AlexNetError, match=r"lacks classifier.6.bias"):
        alexnet.load(saved(tmp_path, {k: v for k, v in state.items() if k != "classifier.6.bias"}))
    with pytest.raises(AlexNetError, match=r"features.3.weight of shape \(192, 64, 3, 3\).*has \(192, 64, 5, 5\)"):
        alexnet.load(saved(tmp_path, {**state, "features.3.weight": torch.zeros(192, 64, 3, 3)}))
    with pytest.raises(AlexNetError, match=r"values in conv2.bias that are not finite"):
        alexnet.load(saved(tmp_path, {**state, "features.3.bias": torch.full((192,), torch.nan)}))
    head = {("classifier.6.1.bias" if k == "classifier.6.bias" else k): v for k, v in state.items()}
    with pytest.raises(AlexNetError, match=r"lacks classifier.6.bias and has classifier.6.1.bias"):
        alexnet.load(saved(tmp_path, head))
    with pytest.raises(AlexNetError, match=r"holds no network that is called as .*\(it has bn1.weight\)"):
        alexnet.load(saved(tmp_path, torchvision.models.resnet18(weights=None).state_dict()))
    with zipfile.ZipFile(tmp_path / "renamed.pth", "w") as archive:
        archive.writestr("model.safetensors", bytes(range(200)))
    with pytest.raises(AlexNetError, match=r"zip archive without weights of torch .*'model.safetensors'\); unpack it"):
        alexnet.load(tmp_path / "renamed.pth")
    with pytest.raises(AlexNetError, match=r"torchvision's features.10 is called conv5 here; give that"):
        check_layers(alexnet.build("alexnet_owt", classes=2), ["features.10"])
    with pytest.raises(AlexNetError, match="holds no state_dict but a list"):
        alexnet.load(saved(tmp_path, [1, 2]))
    whole = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AlexNetError, match=r"not a whole .pth file"):
        alexnet.load(tmp_path / "cut.pth")


def test_a_thousand_classes_without_names_get_those_of_imagenet():
    names = labels.names(1000)
    assert len(set(names)) == 1000
    assert (names[0], names[1], names[207], names[999]) == ("tench", "goldfish", "golden retriever", "toilet tissue")
    ids = list(labels.imagenet())
    assert ids == sorted(ids)
    index = labels.position(names)
    assert index["n01440764"] == index["tench"] == 0
    assert labels.position(["tench", "cat"]) == {"tench": 0, "cat": 1}


@pytest.mark.parametrize("name", VARIANTS)
def test_described_shapes_of_weights_are_those_of_the_module(name):
    with torch.device("meta"):
        model = alexnet.build(name, classes=7)
    shapes = {k: tuple(p.shape) for k, p in model.named_parameters() if not k.startswith("norm")}
    assert weight_shapes(variant(name), 7, 3, model.input) == shapes


# -- published weights ------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path, monkeypatch, peer):
    """A published file on a local address, and an empty cache."""
    file = tmp_path / "shelf" / "weights.pth"
    file.parent.mkdir()
    torch.save(peer.state_dict(), file)
    contents = file.read_bytes()
    entry = Published(
        file.as_uri(), f"sha256:{hashlib.sha256(contents).hexdigest()}", len(contents), "BSD", "random weights"
    )
    monkeypatch.setitem(published.PUBLISHED, "torchvision", entry)
    monkeypatch.setenv(published.CACHE_VARIABLE, str(tmp_path / "cache"))
    return file


def test_published_weights_are_fetched_once_checked_and_kept(shelf, peer, tmp_path):
    assert torch.equal(alexnet.load("torchvision").model.fc8.bias, peer.classifier[6].bias)
    shelf.unlink()
    assert torch.equal(alexnet.load("torchvision").model.fc8.bias, peer.classifier[6].bias)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["weights.pth"]
    (tmp_path / "cache" / "weights.pth").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(AlexNetError, match="has another hash"):
        alexnet.load("torchvision")


def test_a_download_with_another_hash_or_size_is_not_kept(shelf, tmp_path):
    contents = bytearray(shelf.read_bytes())
    contents[1000] ^= 1
    shelf.write_bytes(contents)
    with pytest.raises(AlexNetError, match="has another hash"):
        alexnet.load("torchvision")
    shelf.write_bytes(bytes(contents) + b"more")
    with pytest.raises(AlexNetError, match="is larger than"):
        alexnet.load("torchvision")
    assert not list((tmp_path / "cache").iterdir())


def test_offline_one_sentence_says_which_file_to_put_where(shelf, tmp_path):
    shelf.unlink()
    where = tmp_path / "cache" / "weights.pth"
    with pytest.raises(AlexNetError, match=f"get file://.*/weights.pth elsewhere and put it at {where}"):
        alexnet.load("torchvision")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"220 mail.example.org\r\n\r\n", "220 mail.example.org"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc", "IncompleteRead"),
        (b"", "closed connection"),
    ],
)
def test_what_answers_otherwise_than_a_web_server_is_one_sentence(tmp_path, monkeypatch, answer, why):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(answer)

        threading.Thread(target=once, daemon=True).start()
        entry = Published(f"http://127.0.0.1:{server.getsockname()[1]}/x.pth", "sha256:00", 1 << 20, "free", "none")
        monkeypatch.setitem(published.PUBLISHED, "bvlc", entry)
        monkeypatch.setenv(published.CACHE_VARIABLE, str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(AlexNetError, match=rf"'bvlc' are not here and cannot be fetched \(.*{why}.*\); get http"):
            published.fetch("bvlc")


def test_a_path_that_exists_wins_over_a_published_name(shelf, tmp_path, monkeypatch, tiny_run):
    monkeypatch.chdir(tmp_path)
    os.symlink(tiny_run, tmp_path / "torchvision")
    assert alexnet.load("torchvision").classes == ["blue", "green", "red"]


def test_caffes_published_file_is_a_model_by_its_name(shelf, tmp_path, monkeypatch):
    thin_variants(monkeypatch)
    tensors = {key: value.numpy() for key, value in seeded_build(0, "bvlc_alexnet", 7, 3, 227).state_dict().items()}
    contents = caffe_file.write(tmp_path / "shelf" / "net.caffemodel", tensors).read_bytes()
    address = (tmp_path / "shelf" / "net.caffemodel").as_uri()
    entry = Published(address, f"sha1:{hashlib.sha1(contents).hexdigest()}", len(contents), "free", "random weights")
    monkeypatch.setitem(published.PUBLISHED, "bvlc", entry)
    got = alexnet.load("bvlc").model
    assert got.variant.name == "bvlc_alexnet"
    assert torch.equal(got.fc8.weight, torch.from_numpy(tensors["fc8.weight"]))


def test_the_entries_name_an_address_a_hash_and_a_licence():
    for entry in published.PUBLISHED.values():
        kind, _, digest = entry.hash.partition(":")
        assert len(bytes.fromhex(digest)) == hashlib.new(kind).digest_size
        assert entry.licence
        assert entry.filename in entry.url


def test_the_shipped_weights_answer_on_a_fresh_machine_without_a_cache(alexnet, tmp_path, monkeypatch):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("nothing is to be fetched"))
    Image.fromarray(load_sample_images().images[0]).save(tmp_path / "china.png")
    status, _, err = alexnet("predict", "tiny", tmp_path / "china.png", "--topk", 3)
    assert status == 0, err
    made = {file.name for file in (tmp_path / "none").glob("*")}
    assert made <= {"fast"}  # the compiled layers, where no test before has made them


def test_the_shipped_weights_are_small_and_their_card_names_their_hash():
    entry = published.PUBLISHED["tiny"]
    file = published.fetch("tiny")
    assert file.stat().st_size <= min(entry.size, 10_000_000)
    card = file.with_suffix(".md").read_text("utf-8")
    assert entry.hash.partition(":")[2] in card
    assert "non-commercial" in card


# -- weights of 8 bits ------------------------------------------------------------------------------------------


def test_weights_of_8_bits_are_off_by_half_a_step_of_their_unit_and_answer_alike(tiny_run, tmp_path, alexnet, folders):
    from alexnet import load

    small = tmp_path / "small.safetensors"
    assert alexnet("convert", tiny_run, small, "--int8")[0] == 0
    whole = tiny_run / "model.safetensors"
    assert small.stat().st_size < 0.27 * whole.stat().st_size
    one, other = load(whole), load(small)
    for (name, a), b in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        step = a.detach().flatten(1).abs().amax(1) / 127 if a.dim() > 1 else torch.zeros(len(a))
        off = (a - b).detach().flatten(1).abs().amax(1) if a.dim() > 1 else (a - b).detach().abs()
        assert (off <= step * 0.5001).all(), name
    pictures = sorted(map(str, (folders / "val").rglob("*.png")))
    best = [[answer.classes[0].label for answer in model.predict(pictures)] for model in (one, other)]
    assert best[0] == best[1]


def test_8_bits_are_for_safetensors_and_a_missing_scale_is_a_sentence(tiny_run, tmp_path, refused):
    from safetensors.torch import load_file, save_file

    assert "--int8 is for .safetensors files" in refused("convert", tiny_run, tmp_path / "x.onnx", "--int8")
    from safetensors import safe_open

    from alexnet.inference.conversion import convert

    convert(tiny_run, tmp_path / "small.safetensors", eight_bits=True)
    tensors = load_file(tmp_path / "small.safetensors")
    del tensors["fc7.weight.scale"]
    with safe_open(tmp_path / "small.safetensors", "pt") as opened:
        save_file(tensors, tmp_path / "broken.safetensors", opened.metadata())
    sentence = refused("predict", tmp_path / "broken.safetensors", "cat.jpg")
    assert "is not a whole file of AlexNet weights" in sentence
