"""A pack, as alexnet pack makes it, as DATA."""

from __future__ import annotations

from pathlib import Path

from alexnet.data.dataset import Data
from alexnet.data.faults import Tell, refuse
from alexnet.data.layouts.base import Layout
from alexnet.data.packs.reading import is_pack, open_pack


def _read(root: Path, tell: Tell = refuse) -> Data:
    return open_pack(root)


LAYOUT = Layout(10, "a pack", is_pack, _read)
