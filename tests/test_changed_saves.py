"""A file keeps a plan and weights: layers that compute otherwise are refused by name, by whatever would write them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import alexnet
from alexnet.base.errors import AlexNetError
from alexnet.engines.base import quiet
from alexnet.engines.choosing import made_up_batch
from alexnet.engines.loading import attach
from alexnet.inference import exporting
from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS
from alexnet.weights.classifier import Classifier, weights_bytes
from conftest import needs
from narrow import narrow
from narrow_classifier import made
from tooled import shared_relu

pytestmark = pytest.mark.cpu  # engines compute there alone


def hub(one: Classifier, folder: Path) -> None:
    needs("huggingface_hub")
    from alexnet.hub import AlexNet

    AlexNet.of(one).save_pretrained(folder)


WRITERS: dict[str, Callable[[Classifier, Path], object]] = {
    **{f"save {end or 'folder'}": lambda one, to, end=end: one.save(to / f"net{end}")
       for end in (".safetensors", ".pth", ".caffemodel", ".onnx", "")},
    **{f"export {kind}": lambda one, to, kind=kind: alexnet.export(one, to / "net", kind)
       for kind in ("onnx", "openvino")},
    **{f"engine {name}": lambda one, to, name=name: attach(one, name) for name in ("onnx", "openvino", "auto")},
    "bytes": lambda one, to: weights_bytes(one.model, one.preprocess, one.classes, ""),
    "hub": hub,
}  # fmt: skip


def gelu(net: AlexNet) -> None:
    for name, layer in list(net.named_children()):
        if isinstance(layer, nn.ReLU):
            setattr(net, name, nn.GELU())


def headed(head: Callable[[nn.Linear], nn.Module]) -> Callable[[AlexNet], None]:
    return lambda net: setattr(net, "fc8", head(net.fc8))


class Rounded(torch.Tensor):
    """As quantisers put in the place of a weight."""


class Other(AlexNet):
    def forward(self, x, masks=None, until=None):
        return 2 * super().forward(x, masks, until)


def out_of_order(net: AlexNet) -> None:
    net.order.remove("norm1")


def narrower(net: AlexNet) -> None:
    old = net.norm1
    net.norm1 = LocalResponseNorm(len(old.band), old.towers, 3, old.alpha, old.beta, old.k)


CHANGES: dict[str, tuple[Callable[[AlexNet], object], str]] = {
    "another activation": (gelu, r"^relu1 is GELU\(approximate='none'\) where alexnet2012 has ReLU, .*pt2"),
    "no norm": (lambda net: setattr(net, "norm1", nn.Identity()),
                r"^norm1 is Identity where alexnet2012 has LocalResponseNorm\(towers=2, size=5, .*torch\.save\.$"),
    "another number": (lambda net: setattr(net.norm2, "alpha", 0.5), "^norm2 has alpha 0.5 where alexnet2012 has "),
    "another window": (narrower, "^norm1 has size 3 where alexnet2012 has 5"),
    "another kernel": (lambda net: setattr(net, "pool1", nn.MaxPool2d(2, 2)), "^pool1 has kernel_size 2 where .* 3,"),
    "dilation": (lambda net: setattr(net.conv4, "dilation", (2, 2)), r"^conv4 has dilation \(2, 2\) where .*\(1, 1\)"),
    "another dropout": (lambda net: setattr(net.drop6, "p", 0.1), "^drop6 has p 0.1 where alexnet2012 has 0.5"),
    "another forward of a layer": (lambda net: setattr(net.relu2, "forward", torch.tanh), "^relu2 has another forward"),
    "another forward of all": (lambda net: setattr(net, "forward", lambda x: x), "^its forward is another"),
    "another class": (lambda net: setattr(net, "__class__", Other), "^its forward is another than alexnet2012's"),
    "a layer more": (lambda net: net.add_module("aux", nn.Linear(2, 2)), "^aux is Linear.* where .* has nothing"),
    "a layer less": (lambda net: delattr(net, "norm1"), "^norm1 is nothing where alexnet2012 has LocalResponseNorm"),
    "a layer not run": (out_of_order, "^its layers are run in another order"),
    "softmax": (lambda net: setattr(net, "prob", nn.LogSoftmax(1)), "^prob is LogSoftmax.* where .* has Softmax"),
    "pruned": (lambda net: prune.l1_unstructured(net.fc6, "weight", 0.5), "^fc6 has no weight .*prune.remove, or"),
    "parametrized": (lambda net: parametrizations.weight_norm(net.fc7), "^fc7 is Parametrized.*remove_parametriz"),
    "a layer wider": (lambda net: setattr(net.fc7, "weight", nn.Parameter(torch.ones(24, 3))), r"^fc7 has weight "),
    "quantised": (lambda net: setattr(net.fc6, "weight", nn.Parameter(net.fc6.weight.detach().as_subclass(Rounded))),
                  r"^fc6 has weight Rounded where alexnet2012 has weight \(24, "),
    "a head of ten outputs": (headed(lambda old: nn.Linear(old.in_features, 10)),
                              "^fc8 has 10 outputs and .classes 7 names; set .classes to its 10 names"),
    "reset to ten": (lambda net: net.reset_classifier(10), "^fc8 has 10 outputs and .classes 7 names"),
    "reset to none": (lambda net: net.reset_classifier(0), "^fc8 is Identity where alexnet2012 has Linear"),
    "a head of two layers": (headed(lambda old: nn.Sequential(nn.Linear(old.in_features, 9), nn.Linear(9, 7))),
                             "^fc8 is Sequential where alexnet2012 has Linear"),
    "a head without bias": (headed(lambda old: nn.Linear(old.in_features, 7, bias=False)), "^fc8 has no bias where"),
    "a pruned head": (lambda net: prune.identity(net.fc8, "weight"), "^fc8 has no weight where"),
}  # fmt: skip


def changed(change: Callable[[AlexNet], object]) -> Classifier:
    one = copy.deepcopy(made("alexnet2012"))
    change(one.model)
    return one


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", CHANGES)
def test_layers_that_compute_otherwise_than_the_plan_are_refused_and_nothing_is_written(name, writer, tmp_path):
    change, said = CHANGES[name]
    with pytest.raises(AlexNetError, match=said):
        WRITERS[writer](changed(change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_within_a_wrapper_is_named():
    one = copy.deepcopy(made("alexnet2012"))
    one.model = nn.DataParallel(one.model)
    with pytest.raises(AlexNetError, match=r"^\.model is a DataParallel, not an AlexNet; set it"):
        weights_bytes(one.model, one.preprocess, one.classes, "")


@pytest.mark.parametrize("name", VARIANTS)
def test_changes_that_leave_the_answers_are_saved_and_give_them_again(name, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, name, narrow(name))
    one = copy.deepcopy(made(name))
    shared_relu(one.model)
    one.model.to(memory_format=torch.channels_last).requires_grad_(False).train()
    one.model.conv1.register_forward_hook(lambda layer, x, y: None)
    one.model.pool1.inplace = True
    for layer in one.model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    one.model.eval()
    x = torch.randn(2, 3, one.model.input, one.model.input)
    before = torch.get_rng_state()
    one.save(tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(alexnet.load(tmp_path / "net.safetensors").model(x), one.model(x), atol=1e-4)


def test_names_for_a_new_head_make_it_whole_again(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "alexnet2012", narrow("alexnet2012"))
    one = changed(lambda net: net.reset_classifier(10))
    one.classes = [f"new {n}" for n in range(10)]
    one.save(tmp_path / "net.safetensors")
    again = alexnet.load(tmp_path / "net.safetensors")
    x = torch.randn(2, 3, one.model.input, one.model.input)
    assert again.classes == one.classes
    assert torch.allclose(again.model(x), one.model(x), atol=1e-5)


@pytest.mark.slow
def test_pt2_takes_any_layers_and_gives_their_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_rate", lambda engine, batch: 1.0)
    one = changed(gelu)
    one.model.norm1 = nn.Identity()
    alexnet.export(one, tmp_path / "net.pt2", "pt2")
    pixels = torch.from_numpy(made_up_batch(one.preprocess, 3))
    with quiet(), torch.no_grad():
        logits = torch.export.load(str(tmp_path / "net.pt2")).module()(pixels)[0]
        crops = one.preprocess.central(pixels.permute(0, 3, 1, 2))
        right = one.model(one.preprocess.normalise(crops))
        plain = made("alexnet2012").model(one.preprocess.normalise(crops))
    assert (logits - right).abs().max() < 1e-4 * right.std()
    assert (plain - right).abs().max() > 0.1 * right.std()


def test_pt2_with_other_outputs_than_names_is_refused(tmp_path):
    with pytest.raises(AlexNetError, match=r"the network has 9 outputs and \.classes 7 names; set \.classes"):
        alexnet.export(changed(headed(lambda old: nn.Sequential(nn.Linear(old.in_features, 9)))), tmp_path / "a", "pt2")
    assert not list(tmp_path.iterdir())
