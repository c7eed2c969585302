"""Packs of the coloured pictures in several small files each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet.base.distributed import World
from alexnet.base.errors import AlexNetError
from alexnet.data.packs import job, writing
from alexnet.data.packs.writing import pack
from conftest import once


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


def small(patch: pytest.MonkeyPatch) -> None:
    """Files of 8 pictures of 32 x 32, in place of thousands."""
    patch.setattr(job, "SHARD", {"raw": 8 * 32 * 32 * 3, "jpeg": 8 * 32 * 32 * 3})
    patch.setattr(writing, "CHUNK", 3 * 32 * 32 * 3)
    patch.setattr(writing, "LEAST", 3)


def both_packs(tmp_path_factory: pytest.TempPathFactory, folders: Path) -> dict[str, Path]:
    """The coloured pictures of conftest in both encodings, 32 x 32, in several files each."""

    def make(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            small(patch)
            patch.setattr(job, "SHARD", {"raw": 8 * 32 * 32 * 3, "jpeg": 16 * 32 * 32 * 3})
            for encoding in ("raw", "jpeg"):
                pack(folders, root / encoding, 32, encoding)

    root = once(tmp_path_factory, "packs", make)
    return {encoding: root / encoding for encoding in ("raw", "jpeg")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


PROGRAM = """
import sys
from alexnet.data.packs import job, writing
job.SHARD, writing.CHUNK, writing.LEAST = {"raw": 8 * 32 * 32 * 3}, 3 * 32 * 32 * 3, 3
writing.pack(sys.argv[1], sys.argv[2], 32, workers=2)
"""


def refusal(action, *arguments) -> str:
    with pytest.raises(AlexNetError) as caught:
        action(*arguments)
    return str(caught.value)
