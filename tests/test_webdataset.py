"""WebDataset's shards in a folder, by pattern and from afar: each block asked for once, listings kept, faults named."""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import fsspec
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data.layouts import remote
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import pack
from archives import jpeg, refusal, shard, shards, shows, tar, train_pictures, write, write_tar
from conftest import coloured, encoded


def check_shards(data, train: int = 12) -> None:
    assert {name: len(s) for name, s in data.splits.items()} == {"train": train, "valid": 6}
    for split in data.splits.values():
        shows(split, data.classes, ["0", "1", "2"])
    assert data.split("train").name(0) == "imgs/00000.jpg"


def test_webdataset_shards_in_a_folder_by_pattern_and_by_address(tmp_path):
    write(tmp_path, shards())
    for where in (tmp_path, f"{tmp_path}/set-*.tar", f"file://{tmp_path}/set-*.tar", f"file://{tmp_path}"):
        check_shards(find_data(where))
    check_shards(find_data(f"file://{tmp_path}/set-{{train,validation}}-*.tar".replace("{train,validation}", "*")))
    one = find_data(f"{tmp_path}/set-train-{{000..001}}.tar")
    assert sum(map(len, one.splits.values())) == 12
    write(tmp_path, {"classnames.txt": b"blue\ngreen\nred\n"})
    assert find_data(tmp_path).classes == ["blue", "green", "red"]


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    for name, contents in shards().items():
        system.pipe_file(f"/set/{name}", contents)
    remote._block.cache_clear()
    yield system
    system.store.clear()  # not by its functions, which a test may still have replaced


@pytest.fixture
def asked(memory, monkeypatch) -> list[tuple[str, int]]:
    """What is asked of the memory file system: shard and first byte of each block of 4,096."""
    monkeypatch.setattr(remote, "BLOCK", 4096)
    found: list[tuple[str, int]] = []
    real = type(memory).cat_file

    def cat_file(self, path, start, end):
        found.append((path, start))
        return real(self, path, start, end)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    return found


def blocks() -> list[tuple[str, int]]:
    return [(f"/set/{name}", start) for name, whole in shards().items() for start in range(0, len(whole), 4096)]


def test_webdataset_from_afar_is_packed_without_a_local_copy(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 1000)  # pictures lie over several blocks
    check_shards(find_data("memory://set/*.tar"))
    write(tmp_path / "local", shards())
    pack(tmp_path / "local", tmp_path / "a", 32)
    pack("memory://set", tmp_path / "b", 32)
    for name in ("train-00000.npy", "train-labels.npy", "valid-names.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_block_is_asked_for_twice_while_listing_nor_while_packing(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(remote, "_block", lru_cache(1)(remote._block.__wrapped__))
    data = find_data("memory://set")
    assert asked == [one for one in blocks() if one in asked]  # in order, once; headers lie in most of them
    asked.clear()
    remote._block.cache_clear()
    split = data.split("train")
    for i in range(len(split)):
        split.read(i)
    assert asked == [one for one in blocks() if one in asked]
    assert len(asked) > 3


def test_threads_that_want_the_same_block_wait_for_one_reading(asked, memory, monkeypatch):
    split = find_data("memory://set").split("train")
    asked.clear()
    remote._block.cache_clear()
    counted = type(memory).cat_file
    monkeypatch.setattr(type(memory), "cat_file", lambda *some: time.sleep(0.02) or counted(*some))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(split.read, range(len(split))))
    assert len(asked) == len(set(asked)) > 3


def test_a_listing_is_kept_for_other_runs_until_the_shard_changes(tmp_path, asked, memory, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    check_shards(find_data("memory://set"))
    assert not list(tmp_path.iterdir())  # of memory:// nothing but a length is known, which would not tell a change
    real, tags = type(memory).info, {name: "first" for name in shards()}

    def info(self, path, **options):
        facts = real(self, path, **options)
        return facts | ({"ETag": tags[Path(path).name]} if facts["type"] == "file" else {})

    monkeypatch.setattr(type(memory), "info", info)
    before = find_data("memory://set")
    asked.clear()
    after = find_data("memory://set")
    assert asked == []
    check_shards(after)
    for one, two in zip(before.splits.values(), after.splits.values(), strict=True):
        assert (one.labels == two.labels).all()
        assert [one.read(i) for i in range(len(one))] == [two.read(i) for i in range(len(two))]
    other = tar({name: (b"2" if name.endswith("cls") else text) for name, text in shard(range(5)).items()})
    assert len(other) == len(shards()["set-train-000.tar"])
    memory.pipe_file("/set/set-train-000.tar", other)
    tags["set-train-000.tar"] = "second"
    asked.clear()
    assert find_data("memory://set").split("train").labels[:5].tolist() == [2] * 5
    assert {path for path, _ in asked} == {"/set/set-train-000.tar"}
    for kept in (tmp_path / "listings").iterdir():
        kept.write_bytes(kept.read_bytes()[:-50])
    asked.clear()
    assert find_data("memory://set").split("train").labels[:5].tolist() == [2] * 5
    assert {path for path, _ in asked} == {path for path, _ in blocks()}


def test_names_in_one_piece_are_those_of_the_list_in_a_third_of_its_memory():
    names = ["", "a/0.png", "blåbär/1.png", "broken \udcff \ud800", *(f"sample_{n:08}.jpg" for n in range(2000))]
    texts = remote.Texts(iter(names))
    assert list(texts) == names
    assert [texts[-1], *texts[1:4]] == [names[-1], *names[1:4]]
    assert list(remote.Texts([])) == []
    with pytest.raises(IndexError):
        texts[len(names)]
    held = len(texts._whole) + texts._ends.nbytes
    assert held < (sum(map(sys.getsizeof, names)) + sys.getsizeof(names)) / 3


def test_a_faulty_listing_is_not_kept_and_a_folder_that_cannot_be_written_is_no_error(
    tmp_path, asked, memory, monkeypatch
):
    monkeypatch.setattr(remote, "VERSIONS", {"created"})
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    check_shards(find_data("memory://set"))
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    memory.pipe_file("/set/set-train-002.tar", tar({"a.jpg": jpeg(0, 0)}))
    faults: list[str] = []
    find_data("memory://set", tell=lambda fault: faults.append(str(fault)))
    assert len(faults) == 1
    assert len(list((tmp_path / "cache" / "listings").iterdir())) == 3
    assert "a without its .cls" in refusal("memory://set")


def test_a_shard_that_vanishes_or_stalls_or_answers_short_is_named_after_three_tries(asked, memory, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    split = find_data("memory://set").split("train")
    split.read(0)
    remote._block.cache_clear()
    memory.rm("/set/set-train-001.tar")
    asked.clear()
    with pytest.raises(AlexNetError, match=r"set-train-001\.tar cannot be read .*, tried 3 times"):
        split.read(11)
    assert len(asked) == 3
    assert len(set(asked)) == 1
    monkeypatch.setattr(remote, "PATIENCE", 0.05)
    tries: list[tuple] = []
    monkeypatch.setattr(type(memory), "cat_file", lambda self, *some: tries.append(some) or time.sleep(1))
    with pytest.raises(AlexNetError, match=r"set-train-000\.tar cannot be read \(no answer in 0.05 s\), tried 3"):
        split.read(4)
    assert len(tries) == 3
    monkeypatch.setattr(type(memory), "cat_file", lambda self, *some: tries.append(some) or b"short")
    with pytest.raises(AlexNetError, match=r"gave 5 bytes where 4,096 were asked for\), tried 3"):
        split.read(4)
    assert len(tries) == 6
    monkeypatch.setattr(type(memory), "info", lambda self, *some: tries.append(some) or time.sleep(1))
    with pytest.raises(AlexNetError, match=r"no answer in 0.05 s"):
        remote.Remote(memory, "/set/set-train-000.tar")
    assert len(tries) == 9


def test_a_read_that_fails_once_is_tried_again_and_counts_nothing_twice(memory, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.setattr(remote, "BLOCK", 4096)
    expected = [one for name, one in sorted(shard(range(12)).items()) if name.endswith("jpg")]
    real, calls = type(memory).cat_file, []

    def flaky(self, path, start, end):
        calls.append(start)
        if len(calls) % 2:
            raise TimeoutError("the line is down")
        return real(self, path, start, end)

    monkeypatch.setattr(type(memory), "cat_file", flaky)
    split = find_data("memory://set").split("train")
    assert [split.read(i) for i in range(len(split))] == expected


def test_a_tar_beside_class_folders_is_not_what_is_read(tmp_path):
    write(tmp_path, train_pictures() | {"original.tar": tar({})})
    assert find_data(tmp_path).layout == "class folders"
    write(tmp_path / "shards" / "train", {"0.tar": shards()["set-train-000.tar"]})
    write(tmp_path / "shards" / "val", {"0.tar": shards()["set-validation-000.tar"]})
    assert {name: len(s) for name, s in find_data(tmp_path / "shards").splits.items()} == {"train": 5, "valid": 6}


@pytest.mark.parametrize("kind", ["gif", "tif", "tiff", "jpe", "jp2", "ico", "tga", "png", "webp", "bmp", "dib"])
def test_every_kind_of_picture_is_one_in_a_shard_too(tmp_path, kind):
    format = {"jpe": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(kind, kind.upper())
    files = {f"{n}.{kind}": encoded(coloured("red", n, (32, 32)), format) for n in range(4)}
    write_tar(tmp_path / "a.tar", files | {f"{n}.cls": b"%d" % (n % 2) for n in range(4)})
    split = find_data(tmp_path, whole=True).split("all")
    assert [split.read(n) for n in range(4)] == list(files.values())
    assert split.labels.tolist() == [0, 1, 0, 1]
    write_tar(tmp_path / "a.tar", files | {"0.cls": b"0", "9.cls": b"0"})
    assert f"has 9 without its .{kind}" in str(faults_of(tmp_path))


@pytest.mark.parametrize("order", list(itertools.permutations(["cls", "gif", "jpg", "tif"])))
def test_of_two_pictures_of_a_sample_the_usual_kind_is_taken_in_any_order(tmp_path, order):
    picture = encoded(coloured("red", 0, (8, 8)), "JPEG")
    held = {"cls": b"1", "gif": b"a preview", "jpg": picture, "tif": b"a mask"}
    write_tar(tmp_path / "a.tar", {f"{n}.{kind}": held[kind] for n in range(3) for kind in order})
    data = find_data(tmp_path, whole=True)
    assert [data.split("all").read(n) for n in range(3)] == [picture] * 3
    assert "has 6 further files of samples with picture and label" in data.summary()


def faults_of(path) -> list[str]:
    told: list[str] = []
    find_data(path, tell=lambda fault: told.append(str(fault)))
    return told


def test_webdataset_faults_are_named(tmp_path):
    def said(files: dict[str, bytes]) -> str:
        write_tar(tmp_path / "train-0.tar", files)
        return refusal(tmp_path)

    good = shard(range(6))
    assert "has a without its .cls" in said({**good, "a.jpg": jpeg(0, 0)})
    assert "has a without its .jpg" in said({**good, "a.cls": b"0"})
    assert "a.cls holds 'cat'; it must hold a class index" in said({**good, "a.cls": b"cat", "a.jpg": jpeg(0, 0)})
    assert "a.cls holds '-1'" in said({**good, "a.cls": b"-1", "a.jpg": jpeg(0, 0)})
    assert "has no tar shards" in refusal(f"{tmp_path}/none-*.tar")
    assert "cannot be looked at" in refusal("nosuchprotocol://bucket/a.tar")
    whole = tar(good)
    (tmp_path / "train-0.tar").write_bytes(whole[: len(whole) // 2])
    assert "train-0.tar is cut short" in refusal(tmp_path)


@pytest.mark.parametrize("way", ["{}", "file://{}", "file://{}/*.tar"])
def test_what_systems_hide_beside_shards_is_passed_over(tmp_path, way):
    write(tmp_path, shards())
    for name in ("._set-train-000.tar", ".set-train-000.tar.part.tar"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X" + bytes(600))
    where = way.format(tmp_path)
    check_shards(find_data(tmp_path if where == str(tmp_path) else where))
