"""However people save a network's tensors with PyTorch, the same network is read, and nothing in the file is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_model, save_file

import alexnet
from alexnet.base.errors import AlexNetError
from alexnet.base.hints import Hints, split, with_hints
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS, variant
from alexnet.weights import formats
from alexnet.weights.state import MODULES
from conftest import Bomb, coloured
from narrow import narrow

OrderedDict = collections.OrderedDict


@pytest.fixture(scope="module", autouse=True)
def thin():
    """alexnet_owt and two others at reduced width, under their own names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("alexnet_owt", "alexnet2012", "alexnet_bn"):
            plan = variant(name)
            patch.setitem(VARIANTS, name, replace(narrow(name), input=plan.input, stored=plan.stored))
        yield


@pytest.fixture(scope="module")
def peer() -> torch.nn.Module:
    """torchvision's module with the narrow network's layers, of random weights and 5 classes."""
    torch.manual_seed(1)
    module = torchvision.models.AlexNet.__new__(torchvision.models.AlexNet)
    torch.nn.Module.__init__(module)
    ours = AlexNet(variant("alexnet_owt"), 5, 3, 224)
    features, classifier = torch.nn.Sequential(), torch.nn.Sequential()
    for number in range(13):
        features.append(
            getattr(ours, {0: "conv1", 3: "conv2", 6: "conv3", 8: "conv4", 10: "conv5"}.get(number, "relu1"))
        )
    for number in range(7):
        classifier.append(getattr(ours, {1: "fc6", 4: "fc7", 6: "fc8"}.get(number, "relu1")))
    module.features, module.classifier = features, classifier
    return module


@pytest.fixture(scope="module")
def state(peer) -> dict[str, torch.Tensor]:
    return dict(peer.state_dict())


def under(prefix: str, state):
    return OrderedDict((prefix + key, value) for key, value in state.items())


def doubled(state):
    return {key: 2 * value for key, value in state.items()}


class Settings(dict):
    """A kind of dictionary, as configuration libraries have them."""


class Callback:
    """A class that is the key of a dictionary, as Lightning's callbacks were."""


WRAPS = {
    "as it is": lambda s: s,
    "half precision": lambda s: {k: x.half() for k, x in s.items()},
    "bfloat16": lambda s: {k: x.bfloat16() for k, x in s.items()},
    "double precision": lambda s: {k: x.double() for k, x in s.items()},
    "parameters": lambda s: OrderedDict((k, torch.nn.Parameter(x)) for k, x in s.items()),
    "DataParallel": lambda s: {"state_dict": under("module.", s), "best_acc1": torch.tensor(56.5), "optimizer": {}},
    "DataParallel of features": lambda s: {
        "state_dict": {k.replace("features.", "features.module."): x for k, x in s.items()}, "arch": "alexnet"
    },
    "compiled": lambda s: {"model": under("_orig_mod.module.", s)},
    "Lightning": lambda s: {
        "state_dict": under("model.", s), "pytorch-lightning_version": "2.4.0", "callbacks": {Callback: {"best": 1}},
        "hyper_parameters": Settings(lr=0.1), "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
    "a loss beside": lambda s: {"state_dict": {**under("net.", s), "criterion.weight": torch.ones(5)}},
    "a backbone": lambda s: {"meta": {"epoch": 1}, "state_dict": under("backbone.", s)},
    "deep prefixes": lambda s: {"state_dict": under("module.encoder.backbone.model.", s)},
    "the second of a Sequential": lambda s: {"state_dict": {"0.mean": torch.zeros(3), **under("1.", s)}},
    "args": lambda s: {"model": s, "args": argparse.Namespace(lr=0.01, out=pathlib.Path("x")), "scaler": None},
    "net": lambda s: {"net": s, "acc": np.float64(91.2), "when": datetime.datetime(2012, 9, 30)},
    "weights": lambda s: {"weights": s, "seen": {1, 2}, "sizes": torch.Size([3])},
    "a level deeper": lambda s: {"model": {"state_dict": s}},
    "a kind of dictionary": lambda s: {"state": Settings(s)},
    "counters of other tools": lambda s: {**s, "total_ops": torch.zeros(1), "features.0.total_ops": torch.zeros(())},
    "an average": lambda s: {"model": doubled(s), "model_ema": {"n_averaged": torch.tensor(3), **under("module.", s)}},
    "an average by timm": lambda s: {"state_dict": doubled(s), "state_dict_ema": s},
    "an average among prefixes": lambda s: {"state_dict": {**under("net.", doubled(s)), **under("ema_net.", s)}},
    "views of one tensor": lambda s: dict(
        zip(s, (x.view(y.shape) for x, y in zip(torch.cat([x.flatten() for x in s.values()]).split(
            [x.numel() for x in s.values()]), s.values(), strict=True)), strict=True)
    ),
    "transposed views": lambda s: {k: x.t().contiguous().t() if x.dim() == 2 else x for k, x in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", WRAPS)
def test_the_same_network_is_read_however_it_is_wrapped(tmp_path, state, name, zipped, caplog):
    file = tmp_path / "checkpoint"
    torch.save(WRAPS[name](state), file, _use_new_zipfile_serialization=zipped)
    got = formats.read(file)
    for key, module in MODULES.items():
        tolerance = 1e-2 if name in ("half precision", "bfloat16") else 0
        torch.testing.assert_close(
            got.tensors[f"{key}.weight"], state[f"{module}.weight"], rtol=tolerance, atol=tolerance
        )
        torch.testing.assert_close(got.tensors[f"{key}.bias"], state[f"{module}.bias"], rtol=tolerance, atol=tolerance)
    assert ("sets of weights: taken are" in caplog.text) == name.startswith("an average")
    assert ("left out" in caplog.text) == (name in ("a loss beside", "the second of a Sequential", "an average"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_same_network_is_read_by_whatever_protocol_it_was_saved(tmp_path, state, protocol, zipped):
    file = tmp_path / "checkpoint"
    torch.save(state, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    got = formats.read(file)
    assert all(torch.equal(got.tensors[f"{key}.weight"], state[f"{x}.weight"]) for key, x in MODULES.items())


@pytest.mark.parametrize(("key", "times"), [("model", 2), ("model_ema", 1)])
def test_either_of_two_sets_can_be_asked_for(tmp_path, state, key, times):
    torch.save({"model": doubled(state), "model_ema": under("module.", state)}, tmp_path / "two.pth")
    got = formats.read(tmp_path / "two.pth", Hints(key=key))
    assert torch.equal(got.tensors["fc8.bias"], times * state["classifier.6.bias"])
    with pytest.raises(AlexNetError, match="no weights under 'net'; it has them under model, model_ema"):
        formats.read(tmp_path / "two.pth", Hints(key="net"))


class Own(torch.nn.Module):
    """Somebody's module around torchvision's."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


def test_a_whole_module_is_read_as_data(tmp_path, peer, state, caplog):
    torch.save(peer, tmp_path / "module.pth")
    assert torch.equal(formats.read(tmp_path / "module.pth").tensors["fc7.weight"], state["classifier.4.weight"])
    assert "whole module" not in caplog.text
    torch.save(Own(peer), tmp_path / "own.pth")  # of a class that may compute anything
    assert torch.equal(formats.read(tmp_path / "own.pth").tensors["fc7.weight"], state["classifier.4.weight"])
    assert "test_wrapped.Own: its weights are read and its code is not run" in caplog.text


def test_folders_of_hugging_face_are_read_whole_and_in_shards(tmp_path, state):
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    usual = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 224, 224], "crop_pct": 0.875}
    config = {"architecture": "alexnet", "label_names": list("abcde"), "pretrained_cfg": usual}
    (tmp_path / "config.json").write_text(json.dumps(config))
    one = alexnet.load(tmp_path)
    assert (one.classes, one.preprocess.scale, one.preprocess.stored) == (list("abcde"), (63.75,) * 3, 256)
    assert one.preprocess.mean.flatten().tolist() == [127.5] * 3
    shards = tmp_path / "sharded"
    shards.mkdir()
    keys = list(state)
    for number, part in enumerate((keys[:8], keys[8:])):
        save_file({key: state[key] for key in part}, shards / f"part-{number}.safetensors")
    index = {"weight_map": {key: f"part-{int(n >= 8)}.safetensors" for n, key in enumerate(keys)}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(alexnet.load(shards).model.fc8.weight, state["classifier.6.weight"])
    index["weight_map"][keys[0]] = "../model.safetensors"
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AlexNetError, match="names files that are not beside it"):
        alexnet.load(shards)
    torch.save(state, tmp_path / "old.bin")
    (tmp_path / "bin").mkdir()
    (tmp_path / "old.bin").rename(tmp_path / "bin" / "pytorch_model.bin")
    assert torch.equal(alexnet.load(tmp_path / "bin").model.fc8.weight, state["classifier.6.weight"])


@pytest.mark.parametrize("name", ["alexnet2012", "alexnet_bn", "alexnet32", "cifar10_11"])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_bare_state_dict_of_our_own_networks_loads_with_its_variant(tmp_path, name, form):
    model = alexnet.build(name, classes=7)
    file = tmp_path / f"bare.{form}"
    if form == "pth":
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), file)
    one = alexnet.load(file, variant=name)
    assert one.model.variant.name == name
    assert all(torch.equal(x, one.model.state_dict()[key]) for key, x in model.state_dict().items())
    with pytest.raises(AlexNetError, match=r"alexnet_owt (has|with 7 classes)|lacks fc8.bias"):
        alexnet.load(file, variant="alexnet_owt")


def test_a_bare_state_dict_that_fits_several_networks_asks_for_the_variant(tmp_path):
    torch.save(AlexNet(variant("alexnet64"), 7, 3, 56).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(AlexNetError, match=r"fit several networks \(alexnet64, .*name one with --variant"):
        alexnet.load(tmp_path / "bare.pth")


def test_stock_loaders_take_a_file_of_ours(tmp_path, tiny_run):
    one = alexnet.load(tiny_run)
    other = alexnet.build("alexnet32", classes=3)
    assert load_model(other, tiny_run / "model.safetensors") == (set(), [])
    assert all(torch.equal(x, one.model.state_dict()[key]) for key, x in other.state_dict().items())


def test_files_with_their_mean_among_the_tensors_still_load(tmp_path, tiny_run):
    from safetensors import safe_open
    from safetensors.torch import load_file

    one = alexnet.load(tiny_run)
    with safe_open(tiny_run / "model.safetensors", "pt") as opened:
        facts = json.loads(opened.metadata()["alexnet"])
    del facts["mean"]
    facts["version"] = 1
    tensors = {**load_file(tiny_run / "model.safetensors"), "mean": one.preprocess.mean}
    save_file(tensors, tmp_path / "old.safetensors", {"alexnet": json.dumps(facts)})
    old = alexnet.load(tmp_path / "old.safetensors")
    assert torch.equal(old.preprocess.mean, one.preprocess.mean)
    assert old.classes == one.classes
    facts["version"] = 3
    save_file(tensors, tmp_path / "new.safetensors", {"alexnet": json.dumps(facts)})
    with pytest.raises(AlexNetError, match="version is 3, this program reads up to 2"):
        alexnet.load(tmp_path / "new.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_are_not_run(tmp_path, state, zipped):
    what = {"state_dict": state, "hook": Bomb(str(tmp_path / "made"))}
    torch.save(what, tmp_path / "bomb.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(formats.read(tmp_path / "bomb.pth").tensors["fc8.bias"], state["classifier.6.bias"])
    assert not (tmp_path / "made").exists()


def test_files_that_are_something_else_are_called_by_their_name(tmp_path):
    file = tmp_path / "file.pth"
    for contents, words in {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:7be5": "pointer of Git LFS",
        b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>": "is a web page",
        b"\x89HDF\r\n\x1a\n" + bytes(64): "HDF5",
        b'name: "AlexNet"\nlayer {\n  name: "data"\n  type: "Input"\n}\n': "description of a Caffe net",
    }.items():
        file.write_bytes(contents)
        with pytest.raises(AlexNetError, match=words):
            formats.read(file)
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:  # the members that torch.export.save makes
        for name in ("archive_format", "byteorder", "models/model.json", "data/weights/model_weights_config.json"):
            archive.writestr(f"net/{name}", "pt2")
    with pytest.raises(AlexNetError, match=r"a program of torch.export \(.pt2\), which can hold code"):
        formats.read(tmp_path / "net.pt2")


def test_the_same_weights_under_two_names_are_found_by_either(tmp_path, state):
    torch.save({"model": state, "best": state, "opt": {"a": {}, "b": {}}}, tmp_path / "two.pth")
    for key in ("model", "best"):
        got = formats.read(tmp_path / "two.pth", Hints(key=key))
        assert torch.equal(got.tensors["fc8.bias"], state["classifier.6.bias"])


def test_one_output_is_said_to_be_always_certain(tmp_path, state, caplog):
    torch.save({**state, "classifier.6.weight": state["classifier.6.weight"][:1], "classifier.6.bias": torch.zeros(1)},
               tmp_path / "one.pth")  # fmt: skip
    formats.read(tmp_path / "one.pth")
    assert "has one output, and the probability of one class is always 100 %" in caplog.text


# -- hints ------------------------------------------------------------------------------------------------------


def test_hints_travel_with_the_name_of_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("a\nb\n")
    (tmp_path / "x?variant=odd").write_text("a file that is called so")
    whole = with_hints("net.pth", Hints(variant="alexnet64", classes="names.txt", mean="1,2,3"))
    assert whole == f"net.pth?variant=alexnet64&mean=1,2,3&classes={tmp_path}/names.txt"
    assert split(whole) == ("net.pth", Hints("alexnet64", "1,2,3", f"{tmp_path}/names.txt"))
    assert split("x?variant=odd") == ("x?variant=odd", Hints())
    with pytest.raises(AlexNetError, match=r"what follows its \? is no hint \(vraiant\); it takes"):
        split("net.pth?vraiant=alexnet64")


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        (Hints(variant="alexnet64"), "--variant says alexnet64"),
        (Hints(mean="1,2,3"), "carries its own mean"),
        (Hints(key="model"), "no file that --key is for"),
        (Hints(order="hwc"), "no file that --order is for"),
        (Hints(classes="numeric"), "names its classes itself"),
    ],
)
def test_a_hint_that_contradicts_the_file_is_refused(tiny_run, hints, words):
    with pytest.raises(AlexNetError, match=words):
        formats.read(tiny_run / "model.safetensors", hints)


@pytest.mark.parametrize(("order", "error"), [(None, 1.0), ("imagefolder", 0.0), ("numeric", 1.0), ("names.txt", 0.0)])
def test_a_nameless_network_is_held_against_numbered_folders_in_the_order_that_is_said(
    tmp_path, state, caplog, order, error
):
    """Output 2 is folder 10 in ImageFolder's order; the network always answers 2."""
    bias = torch.zeros(12)
    bias[2] = 9.0
    weight = torch.zeros(12, state["classifier.6.weight"].shape[1])
    torch.save({**state, "classifier.6.weight": weight, "classifier.6.bias": bias}, tmp_path / "net.pth")
    for n in range(12):
        (tmp_path / "data" / "train" / str(n)).mkdir(parents=True)
        coloured("red", n).save(tmp_path / "data" / "train" / str(n) / "0.png")
    (tmp_path / "data" / "val" / "10").mkdir(parents=True)
    coloured("blue", 1).save(tmp_path / "data" / "val" / "10" / "0.png")
    for n in set(map(str, range(12))) - {"10"}:
        (tmp_path / "data" / "val" / n).mkdir()
        coloured("red", 1).save(tmp_path / "data" / "val" / n / "0.png")
    (tmp_path / "names.txt").write_text("\n".join(sorted(map(str, range(12)))))
    one = alexnet.load(tmp_path / "net.pth", classes=tmp_path / order if order == "names.txt" else order)
    from alexnet.data.layouts.registry import find_data
    from alexnet.inference.matching import with_names

    named = with_names(one, find_data(tmp_path / "data"))
    assert (named.classes[2] != "10") == bool(error)
    one.save(tmp_path / "again.safetensors")  # what is assumed stays assumed in another file
    again = alexnet.load(tmp_path / "again.safetensors")
    assert (again.naming, with_names(again, find_data(tmp_path / "data")).classes) == (one.naming, named.classes)
    assert ("in the order of their numbers; torchvision's ImageFolder orders them as text" in caplog.text) == (
        not order
    )


def test_a_nameless_network_and_named_folders_ask_for_the_order(tmp_path, state, folders):
    from alexnet.data.layouts.registry import find_data
    from alexnet.inference.matching import with_names

    three = {"classifier.6.weight": state["classifier.6.weight"][:3], "classifier.6.bias": torch.zeros(3)}
    torch.save({**state, **three}, tmp_path / "net.pth")
    data = find_data(folders)
    with pytest.raises(AlexNetError, match=r"none of its 3 classes, and DATA .* has 3 \(blue, green, red\)"):
        with_names(alexnet.load(tmp_path / "net.pth"), data)
    assert with_names(alexnet.load(tmp_path / "net.pth", classes="imagefolder"), data).classes == data.classes


def test_class_names_are_read_from_lines_and_from_json(tmp_path):
    from alexnet.data import labels

    for text in ("a\nb c\n\n", '["a", "b c"]', '{"0": "a", "1": "b c"}', '{"0": ["n01", "a"], "1": ["n02", "b c"]}'):
        (tmp_path / "names").write_text(text)
        assert labels.read(tmp_path / "names") == ["a", "b c"]
    (tmp_path / "names").write_text("a\na\n")
    assert labels.read(tmp_path / "names") == ["a (class 0)", "a (class 1)"]
    for text in ("", "[" * 100_000, '{"1": "a"}'):
        (tmp_path / "names").write_text(text)
        with pytest.raises(AlexNetError, match="--classes"):
            labels.read(tmp_path / "names")


def test_pickles_of_the_tests_are_what_they_are_meant_to_be():
    assert pickle.loads(pickle.dumps(Settings(a=1))) == {"a": 1}  # noqa: S301, our own bytes
