"""WebDataset: tar shards of pictures (.jpg) and class indices (.cls), from a folder, a pattern, or any address that
fsspec knows.

Each shard is listed once, from its beginning to its end. Pictures asked for in order, as packing does, are then read in
order too, a block at a time.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alexnet import labels
from alexnet.data import tars
from alexnet.data.folders import subfolders
from alexnet.data.split import VALID, Data, Split
from alexnet.errors import AlexNetError
from alexnet.progress import Progress

PICTURES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp")
CLASS = "cls"
NAMES = ("classnames.txt", "classes.txt")  # a class a line, beside the shards
BLOCK = 1 << 23  # bytes that are read at once from afar
ATTEMPTS, PATIENCE, PAUSE = 3, 60.0, 1.0  # tries of a read, seconds that each may take, seconds between them
MOST_CLASSES = 1_000_000
T = TypeVar("T")


def is_address(name: str) -> bool:
    """Whether DATA is an address or a pattern of shards and no path."""
    return "://" in name or (bool(re.search(r"[*?\[{]", name)) and name.endswith(".tar"))


def is_webdataset(root: Path) -> bool:
    """Whether a folder holds tar files, itself or in train/ and the like."""
    return (root.is_dir() and bool(_in_folder(root))) or (root.is_file() and root.suffix == ".tar")


def _in_folder(root: Path) -> list[str]:
    folders = [root, *(root / name for name in ("train", *VALID))]
    # Where there are class folders too, a tar beside them is what they were unpacked from.
    plain = [folder for folder in folders if folder.is_dir() and not subfolders(folder)]
    return [str(path) for folder in plain for path in sorted(folder.glob("*.tar"))]


def webdataset(where: str | Path, quiet: bool = True) -> Data:
    """Splits by the words train, val, valid, validation and test in the shards' names; all are training otherwise."""
    import fsspec

    name = str(where)
    try:
        if isinstance(where, Path):
            system, paths = fsspec.filesystem("file"), _in_folder(where) if where.is_dir() else [name]
        else:
            system, paths = _addressed(name)
    except (ImportError, ValueError, OSError) as error:
        raise AlexNetError(
            f"DATA {name} cannot be looked at ({error}); see to the address or install what it needs."
        ) from None
    if not paths:
        raise AlexNetError(f"DATA {name} has no tar shards; give a folder, a pattern or an address of some.")
    named: dict[str, list[str]] = {}
    for path in paths:
        named.setdefault(_split_of(path), []).append(path)
    chosen = {s: named[s] for s in ("train", next((v for v in VALID if v in named), "valid")) if s in named}
    splits = {}
    with Progress("listing shards", sum(map(len, chosen.values())), "shards", quiet=quiet) as bar:
        for split, shards in chosen.items():
            splits["train" if split == "train" else "valid"] = _split(system, shards, split, bar)
    count = 1 + max(int(split.labels.max(initial=-1)) for split in splits.values())
    classes = _names(system, paths[0], count)
    files = [Path(path) for shards in chosen.values() for path in shards] if _is_local(system) else []
    return Data(name, f"WebDataset of {sum(map(len, chosen.values()))} shards", classes, splits, files)


def _addressed(name: str) -> tuple[Any, list[str]]:
    import fsspec

    system, _ = fsspec.core.url_to_fs(_expand(name)[0])
    paths: list[str] = []
    for one in _expand(name):
        path = system._strip_protocol(one)
        if re.search(r"[*?\[]", path):
            paths += sorted(system.glob(path))
        elif system.isdir(path):
            paths += sorted(p for p in system.find(path) if p.endswith(".tar"))
        else:
            paths.append(path)
    return system, paths


def _expand(name: str) -> list[str]:
    """`a{08..11}b` as a08b, a09b, a10b, a11b."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if match is None:
        return [name]
    low, high, width = int(match[1]), int(match[2]), len(match[1])
    if not low <= high <= low + 1_000_000:
        raise AlexNetError(f"DATA {name} has a range {match[0]} that does not go up; give {{first..last}}.")
    return [
        one
        for n in range(low, high + 1)
        for one in _expand(f"{name[: match.start()]}{n:0{width}}{name[match.end() :]}")
    ]


def _split_of(path: str) -> str:
    words = re.split(r"[^A-Za-z]+", "/".join(path.split("/")[-2:]).lower())
    return next((word for word in reversed(words) if word in ("train", *VALID)), "train")


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _names(system: Any, shard: str, count: int) -> list[str]:
    """Of a file beside the shards; without one, ImageNet's for 1,000 classes, else numbers."""
    folder = shard.rsplit("/", 1)[0]
    for place in (folder, folder.rsplit("/", 1)[0]):
        for name in NAMES:
            if system.exists(f"{place}/{name}"):
                names = system.cat_file(f"{place}/{name}").decode("utf-8").split("\n")
                names = [one.strip() for one in names if one.strip()]
                if len(names) < count:
                    raise AlexNetError(
                        f"{place}/{name} names {len(names)} classes, the shards have {count}; add the others."
                    )
                return names
    return labels.names(count)


def _split(system: Any, shards: list[str], origin: str, bar: Progress) -> Split:
    names: list[str] = []
    indices: list[int] = []
    places: list[tuple[int, int]] = []  # start and size
    firsts = [0]  # number of the first picture of each shard
    for shard in shards:
        for name, label, place in _patiently(shard, lambda shard=shard: _list(system, shard)):  # type: ignore[misc]
            names.append(name)
            indices.append(label)
            places.append(place)
        firsts.append(len(names))
        bar.update(1)
    where = np.array(places, np.int64).reshape(-1, 2)
    blocks = lru_cache(maxsize=16)(lambda shard, number: _block(system, shard, number))
    local = _is_local(system)

    def read(i: int) -> bytes:
        shard = shards[int(np.searchsorted(firsts, i, side="right")) - 1]
        start, size = where[i].tolist()
        if local:
            return tars.read(Path(shard), start, size)
        parts = [blocks(shard, n) for n in range(start // BLOCK, (start + size - 1) // BLOCK + 1)]
        low = start % BLOCK
        found = b"".join(parts)[low : low + size]
        if len(found) != size:
            raise AlexNetError(f"{shard} has become shorter than it was; nothing was counted twice: get it again.")
        return found

    return Split(origin, np.array(indices, np.int64), read, lambda i: names[i])


def _list(system: Any, shard: str) -> list[tuple[str, int, tuple[int, int]]]:
    """Name, class and place of each picture of a shard, in its order."""
    found: list[tuple[str, int, tuple[int, int]]] = []
    waiting: dict[str, dict[str, Any]] = {}
    with system.open(shard, "rb", block_size=BLOCK, cache_type="readahead") as file:
        for one in list(tars.members(file, shard)):
            folder, _, base = one.name.rpartition("/")
            key, _, kind = base.partition(".")
            key = f"{folder}/{key}" if folder else key
            sample = waiting.setdefault(key, {})
            if kind.lower() in PICTURES:
                sample["picture"] = one
            elif kind.lower() == CLASS:
                sample["label"] = _label(file, one, shard)
            if len(sample) == 2:
                picture = sample["picture"]
                found.append((picture.name, sample["label"], (picture.start, picture.size)))
                waiting[key] = {}
    halves = [key for key, sample in waiting.items() if sample]
    if halves:
        missing = CLASS if "picture" in waiting[halves[0]] else PICTURES[0]
        raise AlexNetError(f"{shard} has {halves[0]} without its .{missing}; make the shard again.")
    return found


def _label(file: Any, one: tars.Member, shard: str) -> int:
    file.seek(one.start)
    text = file.read(min(one.size, 64)).decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= MOST_CLASSES:
        raise AlexNetError(f"{shard}: {one.name} holds '{text[:20]}'; it must hold a class index, 0, 1, 2 and so on.")
    return int(text)


def _block(system: Any, shard: str, number: int) -> bytes:
    return _patiently(shard, lambda: system.cat_file(shard, number * BLOCK, (number + 1) * BLOCK))


def _patiently(shard: str, read: Callable[[], T]) -> T:
    """What `read` gives, tried ATTEMPTS times; one that fails or stalls each time is an error that names the shard."""
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        answer: list[T] = []
        faults: list[BaseException] = []
        # Nothing can stop a read that stalls; its thread ends with the program.
        thread = threading.Thread(target=_answer, args=(read, answer, faults), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if answer:
            return answer[0]
        if faults and isinstance(faults[0], AlexNetError):
            raise faults[0]
        fault = f"{faults[0] or type(faults[0]).__name__}" if faults else f"no answer in {PATIENCE:g} s"
    raise AlexNetError(
        f"{shard} cannot be read ({fault}), tried {ATTEMPTS} times; see to it, then go on with --resume."
    )


def _answer(read: Callable[[], T], answer: list[T], faults: list[BaseException]) -> None:
    try:
        answer.append(read())
    except BaseException as error:
        faults.append(error)
