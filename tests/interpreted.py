"""What each test of the GPU's passes needs: Triton, and its interpreter where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import DEVICE

triton = pytest.importorskip("triton")
RELEASE, NUMPY = (tuple(map(int, one.__version__.split(".")[:2])) for one in (triton, np))
MARKS = [
    pytest.mark.skipif(
        DEVICE.type == "cpu" and RELEASE < (3, 9) and NUMPY >= (2, 4),
        reason="this interpreter of Triton's takes numbers from arrays, which NumPy no longer gives",
    ),
    pytest.mark.device,
    pytest.mark.skipif(DEVICE.type not in ("cpu", "cuda"), reason="Triton is for Nvidia's GPUs"),
]
