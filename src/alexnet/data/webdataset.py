"""WebDataset: tar shards of pictures (.jpg) and class indices (.cls), from a folder, a pattern, or any address that
fsspec knows.

Each shard is listed first: on a disk by its headers alone, from afar by reading it through, for its headers lie between
the pictures. That listing is kept in the cache folder and taken again while the address gives the same length and
version. Pictures asked for in order, as packing does, are then read in order too, a block at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alexnet import labels
from alexnet.data import tars
from alexnet.data.faults import Fault, Tell, refuse
from alexnet.data.folders import subfolders
from alexnet.data.remote import Listing, Remote, keep, kept_at, recall
from alexnet.data.split import VALID, Data, Split
from alexnet.errors import AlexNetError
from alexnet.progress import Progress

PICTURES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp")
CLASS = "cls"
NAMES = ("classnames.txt", "classes.txt")  # a class a line, beside the shards
MOST_CLASSES = 1_000_000
REMEDY = "make the shard again"


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


def webdataset(where: str | Path, tell: Tell = refuse, quiet: bool = True) -> Data:
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
            splits["train" if split == "train" else "valid"] = _split(system, shards, split, bar, tell)
    count = 1 + max(int(split.labels.max(initial=-1)) for split in splits.values())
    classes = _names(system, paths[0], count, tell)
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


def _names(system: Any, shard: str, count: int, tell: Tell) -> list[str]:
    """Of a file beside the shards; without one, ImageNet's for 1,000 classes, else numbers."""
    folder = shard.rsplit("/", 1)[0]
    for place in (folder, folder.rsplit("/", 1)[0]):
        for name in NAMES:
            if system.exists(f"{place}/{name}"):
                names = system.cat_file(f"{place}/{name}").decode("utf-8").split("\n")
                names = [one.strip() for one in names if one.strip()]
                if len(names) < count:
                    what = f"names {len(names)} classes, the shards have {count}"
                    tell(Fault(f"{place}/{name}", what, "add the others"))
                    return labels.names(count)
                return names
    return labels.names(count)


def _split(system: Any, shards: list[str], origin: str, bar: Progress, tell: Tell) -> Split:
    listings: list[Listing] = []
    readers: list[Callable[[int, int], bytes]] = []
    for shard in shards:
        try:
            listing, reader = _from_disk(shard, tell) if _is_local(system) else _from_afar(system, shard, tell)
            listings.append(listing)
            readers.append(reader)
        except AlexNetError as error:
            tell(Fault.of(shard, error))
        bar.update(1)
    firsts = np.cumsum([0, *(len(one.names) for one in listings)])  # number of the first picture of each shard

    def place(i: int) -> tuple[int, int]:
        number = int(np.searchsorted(firsts, i, side="right")) - 1
        return number, i - int(firsts[number])

    def read(i: int) -> bytes:
        number, row = place(i)
        start, size = listings[number].places[row].tolist()
        return readers[number](start, size)

    def name(i: int) -> str:
        number, row = place(i)
        return listings[number].names[row]

    return Split(origin, np.concatenate([np.empty(0, np.int64), *(one.labels for one in listings)]), read, name)


def _from_disk(shard: str, tell: Tell) -> tuple[Listing, Callable[[int, int], bytes]]:
    path = Path(shard)
    with tars.opened(path) as file:
        return _list(file, shard, tell), lambda start, size: tars.read(path, start, size)


def _from_afar(system: Any, shard: str, tell: Tell) -> tuple[Listing, Callable[[int, int], bytes]]:
    """Listed once: what was found is kept for other runs, as long as the shard is the same."""
    remote = Remote(system, shard)
    file = kept_at(remote)
    listing = recall(file) if file else None
    if listing is None:
        faults: list[Fault] = []
        listing = _list(remote, shard, faults.append)
        for fault in faults:
            tell(fault)
        if file and not faults:
            keep(file, listing)
    return listing, remote.read_at


def _list(file: Any, shard: str, tell: Tell) -> Listing:
    """Every picture of a shard that has a class."""
    names: list[str] = []
    indices: list[int] = []
    places: list[tuple[int, int]] = []
    waiting: dict[str, dict[str, Any]] = {}
    torn: list[Fault] = []  # a part of the archive is lost, which may hold the other halves

    def note(fault: Fault) -> None:
        torn.append(fault)
        tell(fault)

    for one in tars.members(file, shard, tell=note):
        folder, _, base = one.name.rpartition("/")
        key, _, kind = base.partition(".")
        key = f"{folder}/{key}" if folder else key
        sample = waiting.setdefault(key, {})
        if kind.lower() in PICTURES:
            sample["picture"] = one
        elif kind.lower() == CLASS:
            sample["label"] = _label(file, one, shard, tell)
        if len(sample) == 2:
            picture = sample["picture"]
            if sample["label"] is not None:
                names.append(picture.name)
                indices.append(sample["label"])
                places.append((picture.start, picture.size))
            waiting[key] = {}
    for key, sample in waiting.items():
        if sample and not torn:
            tell(Fault(shard, f"has {key} without its .{CLASS if 'picture' in sample else PICTURES[0]}", REMEDY))
    return Listing(names, np.array(indices, np.int64), np.array(places, np.int64).reshape(-1, 2))


def _label(file: Any, one: tars.Member, shard: str, tell: Tell) -> int | None:
    file.seek(one.start)
    text = file.read(min(one.size, 64)).decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= MOST_CLASSES:
        remedy = "it must hold a class index, 0, 1, 2 and so on"
        tell(Fault(f"{shard}: {one.name}", f"holds '{text[:20]}'", remedy))
        return None
    return int(text)
