"""The formulas of what is sent against what really is, with torch.distributed, in a network namespace of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = ["unshare", "--user", "--map-root-user", "--net"]


def can() -> bool:
    """Whether this machine lets us make a network of our own."""
    found = shutil.which("unshare") and shutil.which("ip")
    return bool(found) and not subprocess.run([*WORDS, "ip", "link", "set", "lo", "up"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can(), reason="no network namespaces here")
def test_what_goes_over_the_wire_is_what_the_formulas_say():
    program = f"ip link set lo up && exec {sys.executable} {Path(__file__).parent / 'wire.py'}"
    done = subprocess.run([*WORDS, "sh", "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(found) == {"data", "hybrid", "towers"}
    for way, (wire, formula) in found.items():
        assert formula < wire < 1.04 * formula, way  # and headers, acknowledgements, sums of counts
