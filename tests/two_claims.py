"""`python two_claims.py WORDS`: the command alexnet where there are but two claims, of two small networks."""

from __future__ import annotations

import sys

import pytest

from alexnet.cli import run
from alexnet.networks.variants import VARIANTS
from alexnet.reproduction import planning
from alexnet.reproduction.claims import CLAIMS
from narrow import narrow

SETS = ("epochs=1", "batch_size=8", "learning_rate=0.002", "precision=float32", "variant=alexnet32")


def two_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two claims, which share a network, in the place of all, and that network narrow."""
    monkeypatch.setattr(planning, "CLAIMS", {name: CLAIMS[name] for name in ("dropout", "headline")})
    monkeypatch.setitem(VARIANTS, "alexnet32", narrow("alexnet32"))


if __name__ == "__main__":
    two_claims(pytest.MonkeyPatch())
    sys.exit(run(sys.argv[1:]))
