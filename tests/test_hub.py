"""Our networks as Hugging Face's library and timm's users know models; nothing is fetched."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import alexnet
from alexnet.base.device import choose_device, tf32
from alexnet.base.errors import AlexNetError
from alexnet.data.preprocess import Preprocess
from alexnet.engines import loading
from alexnet.weights import huggingface
from alexnet.weights.base import ASSUMED
from alexnet.weights.classifier import Classifier, weights_of


@pytest.fixture(scope="module")
def one() -> Classifier:
    torch.manual_seed(0)
    model = alexnet.build("alexnet32", classes=3).eval()
    preprocess = Preprocess(32, 28, "RGB", (64.0,), torch.rand(3, 32, 32) * 255)
    return Classifier(model, preprocess, ["a", "b", "c"], "made for a test")


def same(a: Classifier, b: Classifier) -> bool:
    tensors = b.model.state_dict()
    alike = all(torch.equal(x, tensors[key]) for key, x in a.model.state_dict().items())
    facts = a.preprocess.facts() == b.preprocess.facts() and torch.equal(a.preprocess.mean, b.preprocess.mean)
    return alike and facts and a.classes == b.classes


@pytest.mark.parametrize("name", ["net.safetensors", "net.onnx", "folder", "folder.d/inner"])
def test_a_classifier_saves_itself_and_nothing_that_exists(tmp_path, one, name):
    (tmp_path / "folder.d").mkdir()
    files = one.save(tmp_path / name)
    assert all(file.exists() for file in files)
    assert same(one, alexnet.load(tmp_path / name))
    with pytest.raises(AlexNetError, match="exists already"):
        one.save(tmp_path / name)


def test_the_folder_is_what_hugging_faces_and_timms_users_expect(tmp_path, one):
    one.save(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert (config["num_classes"], config["label_names"]) == (3, ["a", "b", "c"])
    assert config["pretrained_cfg"]["input_size"] == [3, 28, 28]
    assert config["pretrained_cfg"]["mean"] == pytest.approx((one.preprocess.mean.mean((1, 2)) / 255).tolist())
    tensors = load_file(tmp_path / "net" / "model.safetensors")
    alexnet.build("alexnet32", classes=3).load_state_dict(tensors)  # strictly


def test_a_folder_that_cannot_be_written_over_whole_keeps_its_weights_and_their_description(tmp_path, one, monkeypatch):
    one.save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    synced: list[int] = []

    def fsync(number: int) -> None:
        synced.append(number)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    other = replace(one, classes=["d", "e", "f"])
    with pytest.raises(AlexNetError, match="No space left"):
        huggingface.write(weights_of(other), tmp_path, replace=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_hubs_mixin_saves_and_loads_a_whole_model(tmp_path, one, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from alexnet.hub import AlexNet

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("nothing is to be fetched"))
    net = AlexNet.of(one)
    net.save_pretrained(tmp_path / "net")
    assert same(one, alexnet.load(tmp_path / "net"))
    back = AlexNet.from_pretrained(tmp_path / "net")
    assert isinstance(back, hub.PyTorchModelHubMixin)
    assert same(one, back.whole)
    net.save_pretrained(tmp_path / "net")  # again, over what is there
    monkeypatch.undo()
    pushed: dict = {}
    monkeypatch.setattr(hub.hub_mixin.HfApi, "create_repo", lambda self, **given: type("R", (), {"repo_id": "me/net"}))
    monkeypatch.setattr(hub.hub_mixin.HfApi, "upload_folder", lambda self, **given: pushed.update(given, seen=sorted(
        path.name for path in __import__("pathlib").Path(given["folder_path"]).iterdir())))  # fmt: skip
    net.push_to_hub("me/net")
    assert pushed["seen"] == ["README.md", "config.json", "model.safetensors"]


def test_a_model_of_the_hub_keeps_what_its_training_held_out_and_that_its_classes_are_numbers(tmp_path, one):
    pytest.importorskip("huggingface_hub")
    from alexnet.hub import AlexNet

    one = replace(one, trained={"step": 3, "valid": 0.2}, naming=ASSUMED)
    AlexNet.of(one).save_pretrained(tmp_path / "net")
    for back in (alexnet.load(tmp_path / "net"), AlexNet.of(one).whole):
        assert (back.trained, back.naming) == (one.trained, ASSUMED)


@pytest.mark.parametrize("way", ["load", "the hub"])
def test_a_device_is_chosen_as_by_every_command_and_computes_in_float32(tmp_path, one, monkeypatch, way):
    one.save(tmp_path / "net")

    def loaded(place: str | torch.device) -> torch.nn.Module:
        if way == "load":
            return alexnet.load(tmp_path / "net", place).model
        pytest.importorskip("huggingface_hub")
        from alexnet.hub import AlexNet

        return AlexNet.from_pretrained(tmp_path / "net", map_location=place)

    def reach_the_gpu(*given: object) -> None:
        assert not torch.backends.cuda.matmul.allow_tf32
        raise Reached

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AlexNetError, match="--device cuda: "):
        loaded("cuda")
    assert next(loaded("auto").parameters()).device == choose_device()
    assert next(loaded(torch.device("cpu")).parameters()).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "built", reach_the_gpu)
    with tf32(True), pytest.raises(Reached):
        loaded("cuda")


class Reached(Exception):
    pass


def test_a_model_has_what_timms_users_ask_for(tmp_path, one):
    one.save(tmp_path / "net.safetensors")
    model = alexnet.load(tmp_path / "net.safetensors").model
    assert model.num_classes == 3
    assert model.pretrained_cfg["std"] == [64 / 255] * 3
    assert model.get_classifier() is model.fc8
    x = torch.randn(2, 3, 28, 28)
    features = model(x, until="drop7" if hasattr(model, "drop7") else "relu7")
    model.reset_classifier(7)
    assert (model.num_classes, model(x).shape) == (7, (2, 7))
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(2)
    assert model(x).shape == (2, 2)
    assert model.fc8.weight.requires_grad
