"""Pickles give their data and run none of their code."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pickle
import random
import subprocess

import numpy as np
import pytest

from alexnet.base import restricted_pickle
from alexnet.base.errors import AlexNetError

DATA = {
    "data": np.arange(24, dtype=np.uint8).reshape(2, 12),
    "fortran": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
    "wide": np.arange(3, dtype="<i8"),
    "empty": np.zeros((0, 5), np.float32),
    "mask": np.array([True, False]),
    "labels": [6, 9, -4, 300, 70_000, 2**40, -(2**70)],
    "names": ("airplane", "été", b"\x00\xff", None, True, 2.5),
    "nested": {"a": {1: [[], {}, ()]}},
    "one": np.float32(1.5),
    "ordered": collections.OrderedDict(x=1, y=[2]),
}


def same(got, expected) -> None:
    if isinstance(expected, np.ndarray):
        assert isinstance(got, np.ndarray)
        assert (got.dtype.newbyteorder("="), got.shape) == (expected.dtype.newbyteorder("="), expected.shape)
        assert (got == expected).all()
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key, value in expected.items():
            same(got[key], value)
    else:
        assert got == expected
        assert isinstance(expected, np.generic) or type(got) is type(expected)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_of_every_protocol_is_what_pickle_reads(protocol):
    same(restricted_pickle.loads(pickle.dumps(DATA, protocol), "a pickle"), DATA)


def test_shared_values_stay_shared():
    array, row = np.arange(3), [1]
    got = restricted_pickle.loads(pickle.dumps({"a": array, "b": array, "c": [row, row]}, 2), "a pickle")
    assert got["a"] is got["b"]
    assert got["c"][0] is got["c"][1]


def python2(data: np.ndarray, labels: list[int], names: list[str]) -> bytes:
    """What Python 2's cPickle writes at protocol 2: byte strings, and old module names; as CIFAR's archives are."""

    def text(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + len(value).to_bytes(4, "little") + value
        )

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"".join(b"M" + n.to_bytes(2, "little") for n in data.shape) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    items = text(b"data") + array + state + text(b"labels") + b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    items += text(b"filenames") + b"](" + b"".join(text(name.encode()) for name in names) + b"e"
    return b"\x80\x02}(" + items + b"u."


def test_a_pickle_of_python_2_gives_text_and_arrays():
    data = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
    contents = python2(data, [6, 9, 9, 4, 1], [f"{n}.png" for n in range(5)])
    by_pickle = pickle.loads(contents, encoding="latin-1")  # noqa: S301, our own bytes
    got = restricted_pickle.loads(contents, "a pickle")
    same(got, by_pickle)
    assert (got["data"] == data).all()
    assert got["labels"] == [6, 9, 9, 4, 1]


class Calls:
    """An object whose pickle calls a function of choice."""

    def __init__(self, function, *arguments) -> None:
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("objects", [False, True])
def test_no_code_is_run(tmp_path, protocol, objects):
    witness = tmp_path / "witness"
    for function, arguments in [
        (os.system, (f"touch {witness}",)),
        (subprocess.call, (["touch", str(witness)],)),
        (eval, (f"open({str(witness)!r}, 'w')",)),
        (io.open, (str(witness), "w")),
    ]:
        contents = pickle.dumps({"data": [Calls(function, *arguments)]}, protocol)
        if objects:
            got = restricted_pickle.loads(contents, "a pickle", objects)["data"][0]
            assert got.kind.endswith(f".{function.__name__}")
        else:
            with pytest.raises(AlexNetError, match=rf"holds more than data \(a call of .*\.{function.__name__}\)"):
                restricted_pickle.loads(contents, "a pickle")
    assert not witness.exists()


def test_objects_are_refused_or_inert():
    contents = pickle.dumps({"when": datetime.date(2012, 9, 30)}, 2)
    with pytest.raises(AlexNetError, match=r"a call of datetime\.date"):
        restricted_pickle.loads(contents, "a pickle")
    when = restricted_pickle.loads(contents, "a pickle", objects=True)["when"]
    assert when.kind == "datetime.date"
    # An old-style instance of Python 2, and one with a state.
    old = b"\x80\x02(coptions\nOptionsParser\nq\x01o}U\x05depthK\x03sb."
    got = restricted_pickle.loads(old, "a pickle", objects=True)
    assert (got.kind, got.arguments, got.state) == ("options.OptionsParser", (), {"depth": 3})


@pytest.mark.parametrize(
    "contents",
    [
        pickle.dumps({1, 2}, 4),
        pickle.dumps({(1, 2): 3}, 4),
        pickle.dumps(np.zeros(2, [("a", "i4")]), 4),
        b"\x80\x02Pname\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02}}b.",
    ],
)
def test_what_is_no_plain_data_is_refused(contents):
    with pytest.raises(AlexNetError, match="holds more than data"):
        restricted_pickle.loads(contents, "a pickle")


def test_a_few_bytes_cannot_ask_for_much_memory():
    long = (
        b"\x80\x02(c_codecs\nencode\nq\x00X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20) + b"X\x06\0\0\0latin1"
    )
    bomb = long + b"\x86q\x010" + b"h\x00h\x01R" * 1000 + b"t."
    with pytest.raises(AlexNetError, match="more memory"):
        restricted_pickle.loads(bomb, "a pickle")
    huge = b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x."
    with pytest.raises(AlexNetError, match="not a whole pickle"):
        restricted_pickle.loads(huge, "a pickle")


def test_an_array_has_the_bytes_that_its_shape_says():
    contents = python2(np.zeros((2, 300), np.uint8), [0], ["a"])
    with pytest.raises(AlexNetError, match=r"shape \(2, 301\) with 600 bytes"):
        restricted_pickle.loads(contents.replace(b"M\x2c\x01", b"M\x2d\x01"), "a pickle")


def test_every_cut_and_many_changes_end_in_one_sentence():
    whole = pickle.dumps(DATA, 2)
    for cut in range(0, len(whole), 3):
        with pytest.raises(AlexNetError):
            restricted_pickle.loads(whole[:cut], "a pickle")
    dice = random.Random(2012)
    for _ in range(1000):
        changed = bytearray(whole)
        changed[dice.randrange(len(whole))] = dice.randrange(256)
        try:
            restricted_pickle.loads(bytes(changed), "a pickle", objects=True)
        except AlexNetError:
            continue


def test_a_file_that_is_missing_or_too_large_is_named(tmp_path, monkeypatch):
    file = tmp_path / "data_batch_1"
    with pytest.raises(AlexNetError, match="data_batch_1 cannot be read"):
        restricted_pickle.load(file)
    file.write_bytes(pickle.dumps([1], 2))
    assert restricted_pickle.load(file) == [1]
    monkeypatch.setattr(restricted_pickle, "LIMIT", 4)
    with pytest.raises(AlexNetError, match="more than the 4 that are read"):
        restricted_pickle.load(file)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_plain_data_are_read_like_lists(protocol):
    made = np.array([{"conv1": [np.arange(3.0)]}, [1]], object)
    got = restricted_pickle.loads(pickle.dumps(made, protocol), "a pickle")
    assert got.shape == (2,)
    assert list(got[0]) == ["conv1"]
    np.testing.assert_array_equal(got[0]["conv1"][0], np.arange(3.0))
    assert got[1] == [1]


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def name(module: str, what: str) -> bytes:
    return short(module) + short(what) + b"\x93"


# Four lists, each twice in the next: number 3 of the memo would be text of 2^n parts, were it made text.
DEEP = b"\x80\x04]\x94" + b"".join(b"(h" + bytes([n]) * 1 + b"h" + bytes([n]) + b"l\x94" for n in range(3))
EMPTY = name("numpy.core.multiarray", "_reconstruct") + b")R"
BYTE = name("numpy", "dtype") + short("u1") + b"\x85R"


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (DEEP + name("numpy", "dtype") + b"h\x03\x85R.", "whose type is a list"),
        (DEEP + EMPTY + b"(K\x01h\x03" + BYTE + b"\x89C\x00tb.", "whose shape is none"),
        (DEEP + b"h\x03h\x03\x93.", "a name that is no text"),
        (DEEP + short("m") + b"X" + (2000).to_bytes(4, "little") + b"n" * 2000 + b"\x93.", "a name of 2,002 letters"),
    ],
    ids=["a type", "a shape", "a name", "a long name"],
)
def test_lists_within_lists_are_never_made_text(contents, words):
    with pytest.raises(AlexNetError, match=rf"not a whole pickle \(.*{words}\)"):
        restricted_pickle.loads(contents, "a pickle", objects=True)


def of_size(opcode: bytes, size: int, count: int) -> bytes:
    return opcode + count.to_bytes(size, "little")


COPIES = {  # a long value as number 0 of the memo, what is done with it as number 1 and 2, and how often
    "arrays of objects": b"](" + b"N" * 300_000 + b"e\x94" + name("numpy", "dtype") + short("O") + b"\x85R\x94(K\x01"
    + of_size(b"J", 4, 300_000) + b"\x85h\x01\x89h\x00t\x94" + b"(" + (EMPTY + b"h\x02b") * 20 + b"l.",
    "bytes": of_size(b"\x96", 8, 1 << 20) + b"a" * (1 << 20) + b"\x94" + name("_codecs", "encode") + b"\x94h\x00"
    + short("latin1") + b"\x86\x94" + b"(" + b"h\x01h\x02R" * 20 + b"l.",
    "dictionaries": b"(" + b"".join(of_size(b"J", 4, n) + b"N\x86" for n in range(20_000)) + b"l\x94"
    + name("collections", "OrderedDict") + b"\x94h\x00\x85\x94" + b"(" + b"h\x01h\x02R" * 20 + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("what", COPIES)
def test_copies_of_one_long_value_are_counted(what):
    with pytest.raises(AlexNetError, match="more memory"):
        restricted_pickle.loads(b"\x80\x05" + COPIES[what], "a pickle")


def test_many_objects_once_are_no_more_memory_than_their_file_needs():
    made = np.array([None] * 300_000, object)
    assert restricted_pickle.loads(pickle.dumps(made, 4), "a pickle").shape == (300_000,)


@pytest.mark.parametrize("text", [b"'\\xff\\x00'", b'"it\'s"', b"''", b"'\xe9'"])
def test_python_2s_text_of_any_bytes_is_what_pickle_reads(text):
    contents = b"(dp0\nS'data'\np1\nS" + text + b"\np2\ns."
    by_pickle = pickle.loads(contents, encoding="latin-1")  # noqa: S301, our own bytes
    assert restricted_pickle.loads(contents, "a pickle") == by_pickle
