"""ImageNet, CIFAR and WebDataset in every form in which their owners hold them, and what can be wrong with each."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import fsspec
import numpy as np
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.data.layouts import remote, tars
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import pack
from alexnet.data.pictures import decode
from conftest import COLOURS, coloured, encoded

IDS = ["n01440764", "n01443537", "n02084071"]  # tench, goldfish, and a dog that is no class of ILSVRC
KNOWN = ["n01440764", "n01443537", "n01484850"]
HUMAN = ["tench", "goldfish", "great white shark"]
SHADES = list(COLOURS)


def jpeg(label: int, number: int) -> bytes:
    """A picture whose colour tells its class."""
    return encoded(coloured(SHADES[label], number), "JPEG", quality=95)


def shows(split, classes: list[str], expected: list[str]) -> None:
    """Every picture has the colour of its class."""
    for i in range(len(split)):
        strongest = np.asarray(decode(split.read(i))).astype(float).mean((0, 1)).argmax()
        label = {2: 0, 1: 1, 0: 2}[int(strongest)]  # blue, green, red
        assert classes[split.labels[i]] == expected[label], split.name(i)


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar(files))
    return path


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return buffer.getvalue()


def train_pictures(per_class: int = 4, ids: list[str] = KNOWN) -> dict[str, bytes]:
    return {
        f"{one}/{one}_{n}.JPEG": jpeg(label, n) for label, one in enumerate(ids) for n in range(per_class)
    }  # fmt: skip


def valid_pictures(per_class: int = 2) -> dict[str, bytes]:
    """ImageNet's own names, of the first pictures of each class in its table."""
    table, found = labels.validation(), {}
    for label in range(3):
        for number in [n for n, one in enumerate(table) if one == label][:per_class]:
            found[f"ILSVRC2012_val_{number + 1:08}.JPEG"] = jpeg(label, number)
    return dict(sorted(found.items()))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return root


def refusal(path) -> str:
    with pytest.raises(AlexNetError) as caught:
        find_data(path)
    return str(caught.value)


# -- tables -------------------------------------------------------------------------------------------------------


def test_the_tables_of_imagenet_have_their_known_properties():
    ids, table = list(labels.imagenet()), labels.validation()
    assert ids == sorted(ids)
    assert np.bincount(table).tolist() == [50] * 1000
    # The first three validation pictures, as published with the challenge: snake, ski, dog.
    assert [ids[n] for n in table[:3]] == ["n01751748", "n09193705", "n02105855"]
    devkit = labels.devkit()
    assert sorted(devkit) == list(range(1, 1001))
    assert sorted(devkit.values()) == ids
    assert [devkit[n] for n in (1, 2, 449)] == ["n02119789", "n02100735", "n01440764"]


def test_wordnet_ids_and_names_are_the_same_classes():
    assert labels.position(["tench", "goldfish"])["n01443537"] == 1
    assert labels.position(["n01440764", "n01443537"])["goldfish"] == 1
    assert labels.position(["tench", "cat"]) == {"tench": 0, "cat": 1}


# -- ImageNet -----------------------------------------------------------------------------------------------------


def write_official(root: Path, train: dict[str, bytes], valid: dict[str, bytes]) -> Path:
    classes: dict[str, dict[str, bytes]] = {}
    for name, contents in train.items():
        classes.setdefault(name.split("/")[0], {})[name.split("/")[1]] = contents
    # Out of order, as nothing promises one.
    inner = {f"{one}.tar": tar(classes[one]) for one in sorted(classes, reverse=True)}
    write_tar(root / "ILSVRC2012_img_train.tar", inner)
    write_tar(root / "ILSVRC2012_img_val.tar", valid)
    return root


def test_official_archives_are_read_without_unpacking(tmp_path):
    write_official(tmp_path, train_pictures(), valid_pictures())
    before = sorted(tmp_path.rglob("*"))
    data = find_data(tmp_path)
    assert data.classes == HUMAN
    train, valid = data.split("train"), data.split("valid")
    assert {train.name(i): train.read(i) for i in range(len(train))} == train_pictures()
    assert {valid.name(i): valid.read(i) for i in range(len(valid))} == valid_pictures()
    for split in (train, valid):
        shows(split, data.classes, HUMAN)
    assert sorted(tmp_path.rglob("*")) == before
    alone = find_data(tmp_path / "ILSVRC2012_img_train.tar")
    assert (len(alone.split("train")), len(alone.split("valid"))) == (9, 3)


def test_the_validation_archive_alone_has_all_classes_for_a_published_model(tmp_path):
    write_official(tmp_path, train_pictures(), valid_pictures())
    data = find_data(tmp_path / "ILSVRC2012_img_val.tar")
    assert list(data.splits) == ["valid"]
    assert data.classes == list(labels.imagenet().values())
    assert sorted(data.split("valid").labels) == [0, 0, 1, 1, 2, 2]


def test_a_flat_validation_folder_is_labelled_by_its_names(tmp_path):
    write(tmp_path / "train", train_pictures())
    write(tmp_path / "val", valid_pictures())
    data = find_data(tmp_path)
    assert "flat" in data.summary()
    assert data.classes == HUMAN
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, HUMAN)
    write(tmp_path / "val", {"cat.JPEG": jpeg(0, 0)})
    assert "cat.JPEG that is none of ImageNet's validation pictures" in refusal(tmp_path)
    (tmp_path / "val" / "cat.JPEG").rename(tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG")
    assert "ILSVRC2012_val_00050001.JPEG that is none" in refusal(tmp_path)


def test_a_flat_validation_folder_of_anything_else_is_refused_and_not_passed_over(tmp_path):
    write(tmp_path / "train", train_pictures())
    write(tmp_path / "val", {"1.JPEG": jpeg(0, 0)})
    assert "has pictures but no class folders" in refusal(tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")  # a test set without labels, as competitions have
    assert "tenth" in find_data(tmp_path).split("valid").origin


def write_kaggle(root: Path, solution: bool) -> Path:
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    write(base / "train", train_pictures(ids=IDS))
    write(base / "test", {"ILSVRC2012_test_00000001.JPEG": jpeg(0, 0)})
    valid = {f"ILSVRC2012_val_{n:08}.JPEG": jpeg(n % 3, n) for n in range(1, 7)}
    write(base / "val", valid)
    if solution:
        lines = [f"{Path(name).stem},{IDS[n % 3]} 85 1 499 272 " for n, name in enumerate(valid, 1)]
        (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines) + "\n")
        names = ["tench, Tinca tinca", "goldfish, Carassius auratus", "dog, domestic dog"]
        mapping = "".join(f"{one} {words}\n" for one, words in zip(IDS, names, strict=True))
        (root / "LOC_synset_mapping.txt").write_text(mapping)
    return root


def test_kaggles_tables_label_its_flat_validation_folder(tmp_path):
    data = find_data(write_kaggle(tmp_path, solution=True))
    assert data.classes == ["tench", "goldfish", "dog"]
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 12, "valid": 6}
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, data.classes)
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2\n")
    assert "has no line for ILSVRC2012_val_00000002.JPEG" in refusal(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("id,class\na,b\n")
    assert "is not Kaggle's table" in refusal(tmp_path)


def test_kaggle_without_its_tables_is_labelled_by_name(tmp_path):
    base = write_kaggle(tmp_path, solution=False) / "ILSVRC" / "Data" / "CLS-LOC"
    assert "has pictures of classes that are not trained on (n01" in refusal(tmp_path)
    for path in (base / "val").iterdir():
        path.unlink()
    for one in (base / "train").iterdir():
        if one.name not in KNOWN:
            one.rename(base / "train" / KNOWN[2])
    write(base / "val", valid_pictures())
    data = find_data(tmp_path)
    assert data.classes == HUMAN
    shows(data.split("valid"), data.classes, HUMAN)


def test_tiny_imagenet_as_stanford_packs_it(tmp_path):
    for label, one in enumerate(IDS):
        write(tmp_path / "train" / one / "images", {f"{one}_{n}.JPEG": jpeg(label, n) for n in range(4)})
        (tmp_path / "train" / one / f"{one}_boxes.txt").write_text(f"{one}_0.JPEG\t0\t0\t62\t62\n")
    valid = {f"val_{n}.JPEG": jpeg(n % 3, n) for n in range(6)}
    write(tmp_path / "val" / "images", valid)
    lines = [f"{name}\t{IDS[n % 3]}\t0\t32\t44\t62" for n, name in enumerate(valid)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "wnids.txt").write_text("\n".join(reversed(IDS)) + "\n")
    (tmp_path / "words.txt").write_text("n02084071\tdog, domestic dog\nn00001740\tentity\n")
    write(tmp_path / "test" / "images", {"test_0.JPEG": jpeg(0, 0)})
    data = find_data(tmp_path)
    assert data.classes == ["tench", "goldfish", "dog"]
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 12, "valid": 6}
    for name in ("train", "valid"):
        shows(data.split(name), data.classes, data.classes)
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join([*lines, "val_9.JPEG\tn99999999\t0"]))
    assert "classes that are not trained on (n99999999)" in refusal(tmp_path)


def test_class_folders_of_wordnet_ids_get_names(tmp_path):
    write(tmp_path, train_pictures())
    assert find_data(tmp_path).classes == HUMAN
    (tmp_path / "n01484850").rename(tmp_path / "shark")
    assert find_data(tmp_path).classes == ["n01440764", "n01443537", "shark"]


# -- damaged archives ---------------------------------------------------------------------------------------------


def special(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return buffer.getvalue()


def test_members_that_lead_out_of_an_archive_or_are_no_files_are_refused(tmp_path):
    path = tmp_path / "ILSVRC2012_img_val.tar"
    for contents, said in [
        (special("../../ILSVRC2012_val_00000001.JPEG"), "leads out of it (../../"),
        (special("/etc/passwd"), "leads out of it (/etc/passwd)"),
        (special("a.JPEG", tarfile.SYMTYPE, "/etc/passwd"), "no plain file (a.JPEG)"),
        (special("a.JPEG", tarfile.LNKTYPE, "b.JPEG"), "no plain file (a.JPEG)"),
        (special("a.JPEG", tarfile.FIFOTYPE), "no plain file (a.JPEG)"),
        (b"no tar at all", "is not a whole tar archive"),
    ]:
        path.write_bytes(contents)
        assert said in refusal(tmp_path)


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    whole = tar(valid_pictures())
    path = tmp_path / "ILSVRC2012_img_val.tar"
    end = len(whole.rstrip(b"\0"))
    for cut in [*range(1, end, 997), *range(512, end, 512)]:
        path.write_bytes(whole[:cut])
        said = refusal(tmp_path)
        assert "cut short" in said or "not a whole tar" in said, cut
    train = tar({f"{one}.tar": tar({"a.JPEG": jpeg(n, 0), "b.JPEG": jpeg(n, 1)}) for n, one in enumerate(KNOWN)})
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train)
    path.unlink()
    data = find_data(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train[:3000])
    with pytest.raises(AlexNetError, match="cut short"):
        data.split("train").read(2)


def test_a_header_that_claims_gigabytes_takes_none(tmp_path):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 6 << 30
    path = tmp_path / "ILSVRC2012_img_val.tar"
    with open(path, "wb") as file:
        file.write(member.tobuf())
        file.truncate(7 << 30)  # sparse
    assert "a header of more than a megabyte" in refusal(tmp_path)


def test_a_listing_has_what_tarfile_lists(tmp_path):
    files = {f"{'d' * n}/{'long' * n}.jpg": bytes([n]) * (n * 100) for n in range(1, 60)}
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{format}.tar"
        with tarfile.open(path, "w", format=format) as archive:
            for name, contents in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(contents)
                if format == tarfile.USTAR_FORMAT and len(name) > 100:
                    continue
                archive.addfile(member, io.BytesIO(contents))
        with tarfile.open(path) as archive:
            expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
        assert [tuple(one) for one in tars.archive_members(path)] == expected
        assert all(tars.read(path, start, size) == files[name] for name, start, size in expected)


# -- CIFAR --------------------------------------------------------------------------------------------------------


def cifar10() -> tuple[dict[str, dict], np.ndarray, list[int]]:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (24, 3, 32, 32), np.uint8)
    found = [n % 2 for n in range(24)]
    files: dict[str, dict] = {"batches.meta": {"label_names": ["airplane", "automobile"], "num_vis": 3072}}
    for n, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        rows = range(4 * n, 4 * n + 4)
        files[name] = {
            "batch_label": name, "labels": [found[r] for r in rows], "filenames": [f"{r}.png" for r in rows],
            "data": pictures[list(rows)].reshape(4, 3072),
        }  # fmt: skip
    return files, pictures, found


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_cifar_10s_archive_is_read_and_its_pickles_are_not_run(tmp_path, form):
    files, pictures, found = cifar10()
    bytes_of = {f"cifar-10-batches-py/{name}": pickle.dumps(batch, 2) for name, batch in files.items()}
    if form == "archive":
        root = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(root, "w:gz") as archive:
            for name, contents in bytes_of.items():
                member = tarfile.TarInfo(name)
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    else:
        write(tmp_path, bytes_of)
        root = tmp_path / "cifar-10-batches-py" if form == "folder" else tmp_path
    data = find_data(root)
    assert data.classes == ["airplane", "automobile"]
    train, valid = data.split("train"), data.split("valid")
    assert train.labels.tolist() + valid.labels.tolist() == found
    got = [np.asarray(split.read(i)).transpose(2, 0, 1) for split in (train, valid) for i in range(len(split))]
    assert (np.stack(got) == pictures).all()
    assert train.name(7) == "7.png"


def test_cifar_100_has_its_fine_labels(tmp_path):
    data = np.zeros((2, 3072), np.uint8)
    batch = {"data": data, "fine_labels": [0, 1], "coarse_labels": [0, 0], "filenames": ["a", "b"]}
    meta = {"fine_label_names": ["apple", "bear"], "coarse_label_names": ["x"]}
    files = {"train": batch, "test": batch, "meta": meta}
    write(tmp_path / "cifar-100-python", {name: pickle.dumps(value, 2) for name, value in files.items()})
    found = find_data(tmp_path)
    assert (found.layout, found.classes) == ("CIFAR-100", ["apple", "bear"])
    assert found.split("train").labels.tolist() == [0, 1]


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("false",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": np.zeros((4, 3000), np.uint8)}, "no pictures of 3 x 32 x 32 bytes"),
        ({"data": np.zeros((3, 3072), np.uint8)}, "has 3 pictures and 4 labels"),
        ({"labels": [0, 1, 2, 0]}, "labels that are not 0 to 1"),
        ({"labels": Evil()}, "holds more than data (a call of posix.system)"),
    ],
)
def test_cifar_that_is_wrong_is_named(tmp_path, change, said):
    files, _, _ = cifar10()
    files["data_batch_3"] |= change
    write(tmp_path, {name: pickle.dumps(batch, 2) for name, batch in files.items()})
    text = refusal(tmp_path)
    assert "data_batch_3" in text
    assert said in text


# -- WebDataset ---------------------------------------------------------------------------------------------------


def shard(numbers: range) -> dict[str, bytes]:
    files = {}
    for n in numbers:
        key = f"imgs/{n:05}.v1" if n % 2 else f"imgs/{n:05}"
        pair = {f"{key}.cls".replace(".v1.cls", ".cls"): str(n % 3).encode(), f"{key}.json": b"{}"}
        files |= pair | {f"imgs/{n:05}.jpg": jpeg(n % 3, n)}
    return files


def shards() -> dict[str, bytes]:
    return {
        "set-train-000.tar": tar(shard(range(0, 5))),
        "set-train-001.tar": tar(shard(range(5, 12))),
        "set-validation-000.tar": tar(shard(range(20, 26))),
    }


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
