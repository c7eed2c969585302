"""Files of weights that are damaged or made to harm: one sentence, in bounded time and memory."""

from __future__ import annotations

import io
import time
import tracemalloc
import zipfile

import pytest
import torch

from alexnet.base.errors import AlexNetError
from alexnet.weights import formats, torch_file


def altered(contents: bytes, at: int, value: bytes) -> bytes:
    """A zip archive with other bytes at a place of its only member's entry in the directory, and of what stands before
    the member, where most facts lie two bytes nearer."""
    out, entry = bytearray(contents), contents.index(b"PK\x01\x02")
    out[entry + at : entry + at + len(value)] = value
    if at:
        out[at - 2 : at - 2 + len(value)] = value
    return bytes(out)


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [(0, b"XXXX", "directory"), (10, b"\x09\x00", "compression|supported"), (8, b"\x01", "encrypted")],
    ids=["a directory that is none", "a compression of others", "a password"],
)
def test_a_zip_archive_that_cannot_be_opened_is_named(tmp_path, at, value, why):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("net.pkl", b"x" * 50)
    file = tmp_path / "file.pth"
    file.write_bytes(altered(made.getvalue(), at, value))
    with pytest.raises(AlexNetError, match=rf"is damaged, or another kind of file than it seems \(.*({why}).*copy it"):
        formats.read(file)


def test_of_a_member_that_is_a_word_no_more_is_unpacked(tmp_path):
    file = tmp_path / "file.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/byteorder", bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(AlexNetError, match="bytes of numbers in another order"):
            formats.read(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


class Layer:
    """A class whose instances hold each other, as modules do."""


def maze(kind: str):
    """Seven rooms with doors to the next twelve times over: 12^6 ways through a few hundred bytes."""
    one: object = {} if kind == "dictionaries" else Layer()
    for _ in range(7):
        doors, one = {f"to {n}": one for n in range(12)}, Layer()
        if kind == "dictionaries":
            one = doors
        else:
            one.__dict__ |= {"_modules": doors, "_parameters": {}}
    return one


@pytest.mark.parametrize("kind", ["dictionaries", "modules", "lists"])
def test_a_maze_without_weights_is_left_at_once(tmp_path, kind):
    what = maze(kind)
    if kind == "lists":
        for _ in range(40):
            what = [what, what]
        what = {"args": what}
    torch.save(what, tmp_path / "maze.pth")
    began = time.process_time()
    with pytest.raises(AlexNetError, match=r"no state_dict|holds more than weights"):
        formats.read(tmp_path / "maze.pth")
    assert time.process_time() - began < 5


def test_lists_within_lists_are_no_type_of_tensors():
    deep: list = []
    for _ in range(3):
        deep = [deep, deep]
    made = torch_file.calls(lambda *_: pytest.fail("nothing is stored")).functions
    storage = torch_file.Storage(torch.float32, 1, lambda *_: b"")
    with pytest.raises(ValueError, match=r"a tensor of $"):
        made["torch._utils _rebuild_tensor_v3"](storage, 0, (1,), (1,), False, None, deep)
    inner = made["torch._tensor _rebuild_from_type_v2"](deep, None, (), None)
    assert inner.kind == ""
