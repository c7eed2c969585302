"""What `help` says of the library's public names is usable alone, and every type is said."""

from __future__ import annotations

import inspect
import operator
import re
import sys

import pytest

import alexnet
from alexnet.inference import loaded


@pytest.mark.parametrize("name", [*alexnet.__all__, "Loaded.predict", "Loaded.features"])
def test_help_of_a_public_name_stands_alone_and_says_every_type(name):
    place = alexnet if name in alexnet.__all__ else loaded
    function = operator.attrgetter(name)(place)
    if inspect.isclass(function):
        return
    given = inspect.signature(function)
    untyped = [p.name for p in given.parameters.values() if p.annotation is p.empty and p.name != "self"]
    assert untyped == []
    assert given.return_annotation is not given.empty
    home = vars(sys.modules[function.__module__])
    words = set(re.findall(r"[A-Za-z_]+", " ".join(re.findall(r"`[^`]+`|\b[A-Z]{3,}\b", function.__doc__))))
    assert {word for word in words if word in home and not hasattr(alexnet, word)} <= set(given.parameters)
