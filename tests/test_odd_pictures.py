"""Pictures of rare kinds, and drawings that are none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alexnet.data.pictures import Unreadable, decode
from conftest import encoded


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("clear", [0, 257, 20000, 65535])
def test_gray_of_16_bits_with_a_transparent_value_is_laid_on_white(clear, channels):
    values = np.full((24, 32), 20001, np.uint16)  # of which the high byte is 20000's
    values[:, :16] = clear
    got = np.asarray(decode(encoded(Image.fromarray(values), "PNG", transparency=clear), channels))
    assert (got[:, :16] == 255).all()
    assert (got[:, 16:] == 20001 >> 8).all()


SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"


BEFORE = [
    "", "<?xml version='1.0'?>\n", "\ufeff<?xml version='1.0'?><!-- " + "of " * 99 + "-->", "<!-- drawn -->\n",
    "<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'>",
]  # fmt: skip


@pytest.mark.parametrize("before", BEFORE)
def test_a_drawing_is_named_as_svg_whatever_stands_before_it(before):
    with pytest.raises(Unreadable, match="not a picture but a drawing, SVG; save it as PNG"):
        decode((before + SVG).encode())
    with pytest.raises(Unreadable, match=r"^not a picture$"):
        decode((before + "<feed/>").encode())
