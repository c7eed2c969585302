"""What a network cannot be called or built with is one sentence, an AlexNetError that is a ValueError too."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import alexnet
from alexnet.base.errors import AlexNetError
from tooled import net, pictures

X = torch.zeros(1, 3, 28, 28)


@pytest.fixture(scope="module")
def model():
    return net("alexnet32")


CALLS = {
    "a number of a layer": (lambda m: m(X, until="conv9"), "alexnet32 has no layer 'conv9'; it has conv1, "),
    "a name among layers": (lambda m: m.activations(X, ["fc7", "fc9"]), "alexnet32 has no layer 'fc9'; it has conv1, "),
    "no layers": (lambda m: m.activations(X, []), "no layer was named; give one or more of conv1, "),
    "a mask": (lambda m: m(X, {"drop9": X}), "alexnet32 has no dropout layer 'drop9' to mask; it has drop"),
    "a size": (lambda m: m(torch.zeros(1, 3, 32, 32)), "shape (1, 3, 32, 32); it takes (N, 3, 28, 28): preprocess"),
    "no batch": (lambda m: m(X[0]), "shape (3, 28, 28); it takes (N, 3, 28, 28): preprocess them"),
    "an array": (lambda m: m(X.numpy()), "was given ndarray; it takes a Tensor (N, 3, 28, 28), as .preprocess"),
    "nothing": (lambda m: m(None), "was given NoneType; it takes a Tensor (N, 3, 28, 28), as .preprocess"),
    "a list": (lambda m: m([X]), "was given list; it takes a Tensor (N, 3, 28, 28), as .preprocess"),
    **{
        str(kind)[6:]: (lambda m, kind=kind: m(X.to(kind)),
                        f"pictures of {str(kind)[6:]} and its weights are float32; give what .preprocess makes")
        for kind in (torch.uint8, torch.int64, torch.bool, torch.float64, torch.float16)
    },
    "fewer classes than none": (lambda m: m.reset_classifier(-1), "reset_classifier was given -1; give how many"),
    "text for classes": (lambda m: m.reset_classifier("a"), "reset_classifier was given 'a'; give how many classes"),
}  # fmt: skip
BUILDS = {
    "10": ({"classes": "10"}, "alexnet32 was asked for classes = '10'; give a whole number"),
    "None": ({"classes": None}, "alexnet32 was asked for classes = None; give a whole number"),
    "10.0": ({"classes": 10.0}, "alexnet32 was asked for classes = 10.0; give a whole number"),
    "True": ({"classes": True}, "alexnet32 was asked for classes = True; give a whole number"),
    "0": ({"classes": 0}, "alexnet32 was asked for 0 classes and 3 input channels; give 1 or more of each"),
    "channels": ({"channels": "3"}, "alexnet32 was asked for channels = '3'; give a whole number"),
    "ten thousand million": (
        {"classes": 10**11},
        "asked for 100,000,000,000 classes and 3 input channels; give at",
    ),
    "channels of a slip": (
        {"channels": 10**8},
        "asked for 1,000 classes and 100,000,000 input channels; give at",
    ),
    "input text": ({"input": "28"}, "alexnet32 was asked for input = '28'; give a whole number"),
    "input 0": ({"input": 0}, "alexnet32 cannot take input 0: "),
    "a number for a name": ({"variant": 10}, "there is no variant '10'. The variants are"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_network_cannot_be_called_with_is_said_in_a_sentence(name, model):
    call, said = CALLS[name]
    with pytest.raises(AlexNetError, match=re.escape(said)) as error:
        call(model)
    assert isinstance(error.value, ValueError)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BUILDS)
def test_what_no_network_can_be_built_with_is_said_in_a_sentence(name):
    given, said = BUILDS[name]
    with pytest.raises(AlexNetError, match=re.escape(said)):
        alexnet.build(**{"variant": "alexnet32", **given})


def test_whole_numbers_of_other_libraries_build_a_network():
    assert alexnet.build("alexnet32", np.int64(7), input=np.int32(28))(X).shape == (1, 7)


def test_a_bare_name_is_one_layer(model):
    x = pictures(model)
    found = model.activations(x, "fc7")
    assert list(found) == ["fc7"]
    assert torch.equal(found["fc7"], model(x, until="fc7"))


class Grey(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x.float() / 255)


def test_types_that_do_compute_are_let_through():
    model, x = net("alexnet32"), pictures(net("alexnet32"))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x.bfloat16()).shape == model(x).shape == (2, 7)
    assert model.double()(x.double()).dtype == torch.float64
    model.float().conv1.register_forward_pre_hook(lambda layer, given: (given[0].float(),))
    assert model(x.to(torch.uint8)).dtype == torch.float32
    model = net("alexnet32")
    model.conv1 = Grey(model.conv1)
    assert model(x.to(torch.uint8)).dtype == torch.float32
