"""Networks that are built without memory and given their weights later compute what those built the usual way do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from alexnet.backbone import Backbone, dense
from alexnet.networks.model import AlexNet, initialise
from tooled import close, every_variant, in_plain, net, pictures


def assigned(usual: AlexNet) -> AlexNet:
    with torch.device("meta"):
        made = AlexNet(usual.variant, usual.classes, usual.channels, usual.input)
    made.load_state_dict(usual.state_dict(), assign=True)
    return made.to("cpu")


def emptied(usual: AlexNet) -> AlexNet:
    with torch.device("meta"):
        made = AlexNet(usual.variant, usual.classes, usual.channels, usual.input)
    made.to_empty(device="cpu")
    for buffer in made.buffers():  # whatever memory held before
        buffer.fill_(7)
    made.load_state_dict(usual.state_dict())
    return made


@pytest.mark.parametrize("way", [assigned, emptied])
@every_variant
def test_weights_that_come_later_make_the_network_that_is_built_with_them(name, way):
    usual = net(name)
    made, x = way(usual).eval(), pictures(usual)
    assert not any(one.is_meta for one in made.buffers())
    assert list(made.state_dict()) == list(usual.state_dict())
    with torch.no_grad():
        for run in (AlexNet.__call__, in_plain):
            close(run(made, x), run(usual, x))
        traced = torch.jit.trace(made, (x,))
        close(traced(x), usual(x))


@pytest.mark.parametrize("begin", [initialise, lambda net: net.apply(reset)], ids=["initialise", "reset_parameters"])
def test_a_network_that_is_begun_anew_where_memory_held_anything_has_its_norms(begin):
    made = emptied(net("alexnet2012"))
    for buffer in made.buffers():
        buffer.fill_(7)
    begin(made)
    for one, usual in zip(made.buffers(), net("alexnet2012").buffers(), strict=True):
        assert torch.equal(one, usual)


def reset(layer: nn.Module) -> None:
    getattr(layer, "reset_parameters", lambda: None)()


def test_buffers_follow_the_type_of_assigned_weights():
    usual, made = net("alexnet2012").double(), net("alexnet2012")
    made.load_state_dict(usual.state_dict(), assign=True)
    assert {one.dtype for one in (*made.buffers(), *made.parameters())} == {torch.float64}
    x = pictures(usual, dtype=torch.float64)
    close(in_plain(made, x), in_plain(usual, x), 1e-12)


@pytest.mark.parametrize("form", [lambda one: Backbone(one, "pool5"), dense], ids=["backbone", "dense"])
def test_parts_of_networks_are_filled_later_too(form):
    usual = form(net("alexnet2012")).eval()
    made = copy.deepcopy(usual).to_empty(device="cpu")
    for one in (*made.buffers(), *made.parameters()):
        one.data.fill_(7)
    made.load_state_dict(usual.state_dict())
    x = pictures(net("alexnet2012"))
    with torch.no_grad():
        for one, other in zip(*([y] if torch.is_tensor(y) else y.values() for y in (made(x), usual(x))), strict=True):
            close(one, other)
