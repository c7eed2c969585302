"""ImageNet, CIFAR and WebDataset in small, as their owners' archives and folders hold them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from alexnet.base.errors import AlexNetError
from alexnet.data import labels
from alexnet.data.layouts.registry import find_data
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


# -- damaged archives ---------------------------------------------------------------------------------------------


def special(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return buffer.getvalue()


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


def refusal(path) -> str:
    with pytest.raises(AlexNetError) as caught:
        find_data(path)
    return str(caught.value)
