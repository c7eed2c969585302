"""The formulas of what is sent against what really is, with torch.distributed, in a network namespace of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hosts import inside, missing


@pytest.mark.slow
def test_what_goes_over_the_wire_is_what_the_formulas_say():
    if reason := missing(lossy=False):
        pytest.skip(reason)
    words = inside(Path(__file__).with_name("wire.py"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(found) == {"data", "hybrid", "towers"}
    for way, (wire, formula) in found.items():
        assert formula < wire < 1.04 * formula, way  # and headers, acknowledgements, sums of counts
