"""Data of every layout damaged at random: what can be read is read, all else is one sentence.

`make test` tries some damages of each; DAMAGE=1000 tries as many.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet.base.errors import AlexNetError
from alexnet.data.checking import check
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs import writing
from alexnet.data.packs.reading import HEADER, STATE, checksum
from alexnet.data.pictures import decode
from alexnet.data.sources import Sources
from archives import cifar10, tar, train_pictures, valid_pictures, write, write_kaggle, write_official
from conftest import COLOURS, coloured, encoded, write_folders, write_parquet

NAMES = sorted(COLOURS)
LABELS = [0, 1, 2, 2, 1, 0]
PICTURES = [encoded(coloured(NAMES[label], n, (8, 8))) for n, label in enumerate(LABELS)]
TRIES = int(os.environ.get("DAMAGE", "10"))
quick = settings(
    max_examples=TRIES, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


# -- good data ------------------------------------------------------------------------------------------------------


def parquet(root: Path) -> None:
    rows = list(zip(PICTURES, LABELS, strict=True))
    write_parquet(root / "train.parquet", rows, NAMES)
    write_parquet(root / "val.parquet", rows, NAMES)


def shards(root: Path) -> None:
    files = {}
    for n, label in enumerate(LABELS):
        files |= {f"{'long' * 30}/{n}.png": PICTURES[n], f"{'long' * 30}/{n}.cls": b"%d" % label}
    write(root, {"train-0.tar": tar(files), "val-0.tar": tar(files), "classes.txt": "\n".join(NAMES).encode()})


def cifar(root: Path) -> None:
    write(root, {name: pickle.dumps(batch, 2) for name, batch in cifar10()[0].items()})


def cifar_archive(root: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, batch in cifar10()[0].items():
            contents = pickle.dumps(batch, 2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    write(root, {"cifar-10-python.tar.gz": buffer.getvalue()})


def official(root: Path) -> None:
    write_official(root, train_pictures(2), valid_pictures(1))


def kaggle(root: Path) -> None:
    write_kaggle(root, True)


def tiny(root: Path) -> None:
    for one in NAMES:
        write(root / "train" / one / "images", {f"{n}.png": PICTURES[n] for n in range(2)})
    write(root / "val" / "images", {f"val_{n}.png": PICTURES[n] for n in range(3)})
    lines = "".join(f"val_{n}.png\t{name}\t0\t0\n" for n, name in enumerate(NAMES))
    write(root, {"val/val_annotations.txt": lines.encode(), "words.txt": b"blue\tthe sea\n"})


def packed(encoding: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        with TemporaryDirectory() as folder:
            write_folders(Path(folder) / "data", 2)
            writing.pack(Path(folder) / "data", root, 8, encoding, workers=1)

    return make


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "parquet": parquet, "shards": shards, "cifar": cifar, "cifar archive": cifar_archive, "official": official,
    "kaggle": kaggle, "tiny": tiny, "raw pack": packed("raw"), "jpeg pack": packed("jpeg"),
}  # fmt: skip


@cache
def good(name: str) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        LAYOUTS[name](Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -- what is done to it -----------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes]:
    """One file of it: bytes set, cut off, put in or taken out; headers, at both ends, more often than the rest."""
    name = draw(st.sampled_from(sorted(files)))
    contents = bytearray(files[name])
    for _ in range(draw(st.integers(1, 3))):
        near, far = min(600, len(contents)), len(contents)
        place = draw(st.one_of(st.integers(0, near), st.integers(max(0, far - near), far), st.integers(0, far)))
        kind = draw(st.sampled_from(["set", "cut", "put", "take", "number"]))
        if kind == "set":
            contents[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "number":
            contents[place : place + 8] = draw(st.sampled_from([bytes(8), b"\xff" * 8, b"\x7f" * 8, b"99999999"]))
        elif kind == "cut":
            del contents[place:]
        elif kind == "put":
            contents[place:place] = draw(st.binary(max_size=40))
        else:
            del contents[place : place + draw(st.integers(1, 600))]
    return name, bytes(contents)


def used(root: Path) -> None:
    """All that commands do with data: look, read, decode, list its faults."""
    with one_sentence():
        data = find_data(root)
        for split in data.splits.values():
            for i in range(len(split)):
                with one_sentence():
                    decode(split.read(i))
                    split.name(i)
    with one_sentence():
        check(root, full=True, workers=1)


@contextmanager
def one_sentence() -> Iterator[None]:
    """What goes wrong is an error of this package, in one line."""
    try:
        yield
    except AlexNetError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_data_are_read_as_far_as_they_are_whole_or_named(layout):
    @quick
    @given(damaged(good(layout)))
    def tried(damage: tuple[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            write(Path(folder), good(layout) | {damage[0]: damage[1]})
            used(Path(folder))
            path = Path(folder) / damage[0]
            if path.suffix in (".tar", ".parquet"):
                for _, source in Sources(str(path)):
                    assert isinstance(source, bytes | Path | AlexNetError)

    tried()


# -- the header of a pack, whose checksum is right --------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.sampled_from([0, -1, 1, 10**9, 2**63, 2**64, 10**40, 0.5, float("nan")]),
    st.sampled_from(["", "raw", "jpeg", "train", "../x", "/etc/passwd", "\0", "crop", "é\ud800"]),
    st.lists(st.sampled_from([None, -1, 0, 10**12, "x", [], {}]), max_size=4),
    st.dictionaries(st.sampled_from(["train", "name", "../x", "shards"]), st.sampled_from([None, 5, "x"]), max_size=2),
)  # fmt: skip


def places(value: Any, above: tuple = ()) -> list[tuple]:
    """Where every value within a value stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return (
        [above, *(place for key, one in inner for place in places(one, (*above, key)))] if above or inner else [above]
    )


@pytest.mark.parametrize("encoding", ["raw pack", "jpeg pack"])
def test_every_field_of_a_packs_header_may_be_anything(encoding):
    header = json.loads(good(encoding)[HEADER])
    header.pop("sha256")

    @quick
    @given(st.sampled_from(places(header)[1:]), ODD, st.booleans())
    def tried(place: tuple, value: Any, lost: bool) -> None:
        changed = json.loads(json.dumps(header))
        held = changed
        for key in place[:-1]:
            held = held[key]
        if lost:
            del held[place[-1]]
        else:
            held[place[-1]] = value
        whole = json.dumps({**changed, "sha256": checksum(changed)}, indent=1).encode()
        with TemporaryDirectory() as folder:
            write(Path(folder), good(encoding) | {HEADER: whole})
            used(Path(folder))

    tried()


def restated(root: Path, name: str, contents: bytes) -> None:
    """Another file in a pack, with a header that says so."""
    header = json.loads((root / HEADER).read_bytes())
    header.pop("sha256")
    for entry in header["files"]:
        if entry["name"] == name:
            entry |= {"bytes": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    write(root, {name: contents, HEADER: json.dumps({**header, "sha256": checksum(header)}).encode()})


NPY = {"labels": "train-labels.npy", "mean": "mean.npy", "ends": "train-ends.npy"}


@pytest.mark.parametrize("name", NPY)
@pytest.mark.parametrize("array", [
    np.zeros(0), np.array(1.0), np.ones(4, bool), np.array(["a"] * 4), np.ones((1,) * 30), np.full(4, -1),
    np.full(4, 2**62), np.full(4, np.nan), np.zeros(4, [("a", "i4")]), np.zeros((8, 8, 3), np.complex64),
], ids=lambda one: f"{one.dtype}{one.shape}")  # fmt: skip
def test_a_packs_arrays_may_be_any(tmp_path, name, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    write(tmp_path, good("jpeg pack"))
    restated(tmp_path, NPY[name], buffer.getvalue())
    used(tmp_path)


def test_an_array_that_claims_gigabytes_takes_none(tmp_path):
    write(tmp_path, good("raw pack"))
    text = repr({"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"
    whole = (tmp_path / "train-labels.npy").read_bytes()
    restated(tmp_path, "train-labels.npy", (header + whole[len(header) :])[: len(whole)])
    with pytest.raises(AlexNetError, match=r"train-labels.npy cannot be read \(its length is another\)"):
        find_data(tmp_path)


@cache
def unfinished() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A source, and a pack of it that was interrupted before its header was written."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_folders(root / "data", 2)
        real = writing._finish
        writing._finish = lambda job: None  # type: ignore[assignment]
        try:
            writing.pack(root / "data", root / "pack", 8, workers=1)
        finally:
            writing._finish = real
        return tuple(  # type: ignore[return-value]
            {str(p.relative_to(root / one)): p.read_bytes() for p in (root / one).rglob("*") if p.is_file()}
            for one in ("data", "pack")
        )


def test_an_interrupted_pack_whose_state_is_damaged_is_refused():
    source, pack = unfinished()
    assert STATE in pack

    @quick
    @given(damaged({STATE: pack[STATE]}))
    def tried(damage: tuple[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            write(root / "data", source)
            write(root / "pack", pack | {STATE: damage[1]})
            with one_sentence():
                writing.pack(root / "data", root / "pack", 8, workers=1)

    tried()
