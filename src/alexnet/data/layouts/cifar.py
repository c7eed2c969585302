"""CIFAR-10 and CIFAR-100 as their author publishes them for Python: pickles, which are read and never run."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet.base import restricted_pickle
from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.data.dataset import Data, Split
from alexnet.data.faults import Fault, Tell, refuse
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.tars import DAMAGED

LARGEST = 1 << 28  # bytes of a pickle; CIFAR-100's training pictures are 154 million
# Folder: training files, test file, names and their key, key of the labels. Where most are there, the others are lost.
KINDS: dict[str, tuple[list[str], str, tuple[str, str], str]] = {
    "cifar-10-batches-py": (
        [f"data_batch_{n}" for n in range(1, 6)], "test_batch", ("batches.meta", "label_names"), "labels"
    ),
    "cifar-100-python": (["train"], "test", ("meta", "fine_label_names"), "fine_labels"),
}  # fmt: skip


def is_cifar(root: Path) -> bool:
    """Whether this is the archive, the folder that it unpacks to, or a folder that holds either."""
    return _found(root) is not None


def cifar(root: Path, tell: Tell = refuse) -> Data:
    """The 50,000 training and 10,000 test pictures, 32 x 32; CIFAR-100 by its fine labels."""
    found = _found(root)
    assert found is not None
    kind, load, files = found
    train, test, (meta, names), key = KINDS[kind]
    try:
        classes = _strings(load(meta), names, f"{root} ({meta})")
    except AlexNetError as error:
        tell(Fault.of(f"{root} ({meta})", error))
        classes = [str(n) for n in range(10 if kind.startswith("cifar-10-") else 100)]
    batches = {"train": train, "valid": [test]}
    splits = {name: _split(load, batch, key, len(classes), root, tell) for name, batch in batches.items()}
    return Data(str(root), "CIFAR-10" if kind.startswith("cifar-10-") else "CIFAR-100", classes, splits, files)


def _found(root: Path) -> tuple[str, Callable[[str], Any], list[Path]] | None:
    """Which of the two it is, how a file of it is read, and from where."""
    for kind, (train, test, (meta, _), _) in KINDS.items():
        wanted = [*train, test, meta]
        for folder in (root, root / kind):
            there = [folder / name for name in wanted if (folder / name).is_file()]
            if 2 * len(there) > len(wanted):
                return kind, lambda name, folder=folder: _from_folder(folder / name), there
        archive = kind.removesuffix("-batches-py").removesuffix("-python") + "-python.tar.gz"
        for path in (root, root / archive):
            if path.name == archive and path.is_file():
                return kind, lambda name, path=path, kind=kind: _from_archive(path, f"{kind}/{name}"), [path]
    return None


def _from_folder(path: Path) -> Any:
    if not path.is_file():
        raise Fault(path, "is missing", "unpack the archive again")
    return restricted_pickle.load(path)


def _from_archive(path: Path, name: str) -> Any:
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.name == name and member.isreg():
                    if member.size > LARGEST:
                        raise AlexNetError(f"{path} has a member {name} of {member.size:,} bytes; get the original.")
                    file = tar.extractfile(member)
                    assert file is not None
                    return restricted_pickle.loads(file.read(), f"{path} ({name})")
    except (*DAMAGED, zlib.error, OSError, EOFError) as error:
        raise AlexNetError(f"{path} is not a whole archive ({error}); copy it again.") from None
    raise AlexNetError(f"{path} has no member {name}; get the original.")


def _split(load: Callable[[str], Any], files: list[str], key: str, classes: int, root: Path, tell: Tell) -> Split:
    pixels, labels, names = [np.empty((0, 3072), np.uint8)], [], []
    for file in files:
        try:
            data, found, own = _batch(load(file), key, classes, f"{root} ({file})")
        except AlexNetError as error:
            tell(Fault.of(f"{root} ({file})", error))
            continue
        pixels.append(data)
        labels += found
        names += own
    everything = np.concatenate(pixels).reshape(-1, 3, 32, 32)

    def read(i: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(everything[i].transpose(1, 2, 0)))

    return Split(" and ".join(files), np.array(labels, np.int64), read, lambda i: names[i])


def _batch(batch: Any, key: str, classes: int, what: str) -> tuple[np.ndarray, list[int], list[str]]:
    """Pixels uint8 (n, 3072), labels and names of a file."""
    data = batch.get("data") if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise Fault(what, "has no pictures of 3 x 32 x 32 bytes", "get the original")
    found = batch.get(key)
    if not isinstance(found, list) or not all(type(n) is int and 0 <= n < classes for n in found):
        raise Fault(what, f"has labels that are not 0 to {classes - 1}", "get the original")
    own = _strings(batch, "filenames", what)
    if not len(found) == len(data) == len(own):
        raise Fault(what, f"has {counted(len(data), 'picture')} and {counted(len(found), 'label')}", "get the original")
    return data, found, own


def _strings(batch: Any, key: str, what: str) -> list[str]:
    found = batch.get(key) if isinstance(batch, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Fault(what, f"has no list {key}", "get the original")
    return found


LAYOUT = Layout(40, "CIFAR's python archives", is_cifar, cifar)
