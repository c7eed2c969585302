"""WebDataset: tar shards of pictures (.jpg) and class indices (.cls), from a folder, a pattern, or any address that
fsspec knows.

Each shard is listed first: on a disk by its headers alone, from afar by reading it through, for its headers lie between
the pictures. That listing is kept in the cache folder and taken again while the address gives the same length and
version. Pictures asked for in order, as packing does, are then read in order too, a block at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.base.progress import Progress
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.dataset import Data, Split, arranged, by_split, called, some, split_word
from alexnet.data.faults import Fault, Note, Tell, decoded, refuse
from alexnet.data.layouts import tars
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.folders import holds_pictures
from alexnet.data.layouts.imagenet import WORDNET
from alexnet.data.layouts.numbered import tell_of_missing
from alexnet.data.layouts.remote import Listing, Remote, Texts, keep, kept_at, recall
from alexnet.data.layouts.walking import subfolders, visible

# Of two pictures of a sample the kind that stands first is taken; those that are not named here are not read.
PICTURES = (
    "jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "jpe", "jfif", "gif", "tif", "tiff", "apng", "dib", "pbm", "pnm",
    "tga", "jp2", "j2k", "avif", "heic", "heif", "ico",
)  # fmt: skip
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
    folders = [root, *(one for one in subfolders(root) if split_word(one.name))]
    # Where there are class folders too, a tar beside them is what they were unpacked from.
    plain = [one for one in folders if one.is_dir() and not any(map(holds_pictures, subfolders(one)))]
    return [str(path) for folder in plain for path in visible(folder) if path.name.endswith(".tar")]


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
    if where.is_dir() if isinstance(where, Path) else not re.search(r"[*?\[{]|\.tar$", name):
        tell_of_missing(paths, name, tell)
    chosen = by_split({path: _telling(path, where) for path in paths}, name, tell)
    splits = {}
    with Progress("listing shards", sum(map(len, chosen.values())), "shards", quiet=quiet) as bar:
        for split, shards in arranged(chosen).items():
            splits[split] = _split(system, shards, called(_telling(shards[0], where)), bar, tell)
    count = 1 + max((int(split.labels.max(initial=-1)) for split in splits.values()), default=-1)
    names = _names(system, paths[0], count, tell)
    files = [Path(path) for shards in chosen.values() for path in shards] if _is_local(system) else []
    return Data(
        name,
        f"WebDataset of {sum(map(len, chosen.values()))} shards",
        names or labels.names(count),
        splits,
        files,
        named=names is not None,
    )


def _addressed(name: str) -> tuple[Any, list[str]]:
    import fsspec

    system, _ = fsspec.core.url_to_fs(_expand(name)[0])
    paths: list[str] = []
    for one in _expand(name):
        path = system._strip_protocol(one)
        if re.search(r"[*?\[]", path):
            paths += sorted(filter(_is_visible, system.glob(path)))
        elif system.isdir(path):
            paths += sorted(p for p in system.find(path) if p.endswith(".tar") and _is_visible(p))
        else:
            paths.append(path)
    return system, paths


def _is_visible(path: str) -> bool:
    return not path.rpartition("/")[2].startswith(".")


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


def _telling(path: str, where: str | Path) -> str:
    """The part of a shard's path that may say its split: below a folder that was given, else its last two names."""
    if isinstance(where, Path) and where.is_dir():
        return Path(path).relative_to(where).as_posix()
    return "/".join(path.split("/")[-1 if isinstance(where, Path) else -2 :])


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _names(system: Any, shard: str, count: int, tell: Tell) -> list[str] | None:
    """Of a file beside the shards or above their folder; None without one."""
    folder = shard.rsplit("/", 1)[0]
    for place in (folder, folder.rsplit("/", 1)[0]):
        for file in (f"{place}/{name}" for name in NAMES):
            if system.exists(file):
                try:
                    names = [one.strip() for one in decoded(system.cat_file(file)).split("\n") if one.strip()]
                except (ValueError, OSError) as error:
                    tell(Fault(file, f"cannot be read ({error})", "save it as UTF-8, a class a line"))
                    return None
                if len(names) < count:
                    what = f"names {counted(len(names), 'class')}, the shards have {count}"
                    tell(Fault(file, what, "add the others"))
                    return None
                return names
    return None


def _split(system: Any, shards: list[str], origin: str, bar: Progress, tell: Tell) -> Split:
    names: list[Sequence[str]] = []
    places: list[np.ndarray] = []
    numbers: list[np.ndarray] = [np.empty(0, np.int64)]
    readers: list[Callable[[int, int], bytes]] = []
    for shard in shards:
        try:
            listing, reader = _from_disk(shard, tell) if _is_local(system) else _from_afar(system, shard, tell)
            names.append(listing.names)
            places.append(listing.places)
            numbers.append(listing.labels)
            readers.append(reader)
        except AlexNetError as error:
            tell(Fault.of(shard, error))
        bar.update(1)
    firsts = np.cumsum([0, *map(len, names)])  # number of the first picture of each shard

    def place(i: int) -> tuple[int, int]:
        number = int(np.searchsorted(firsts, i, side="right")) - 1
        return number, i - int(firsts[number])

    def read(i: int) -> bytes:
        number, row = place(i)
        start, size = places[number][row].tolist()
        return readers[number](start, size)

    def name(i: int) -> str:
        number, row = place(i)
        return names[number][row]

    return Split(origin, np.concatenate(numbers), read, name)


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
    """Every picture of a shard with a class: by the name without its ending, else by what is before its first dot."""
    found: list[tuple[tars.ArchiveMember, int]] = []
    waiting: dict[str, dict[str, Any]] = {}  # by name without its ending
    kinds: Counter[str] = Counter()
    torn: list[Fault] = []  # a part of the archive is lost, which may hold the other halves
    paired, rest, last = set[str](), 0, ""  # the last sample that was found

    def note(fault: Fault) -> None:
        torn.append(fault)
        tell(fault)

    for one in tars.members(file, shard, tell=note):
        stem, _, kind = one.name.rpartition(".")
        if one.name.rpartition("/")[2].startswith("."):
            continue
        kinds[kind.lower()] += 1
        part = "picture" if kind.lower() in PICTURES else "label" if kind.lower() == CLASS else None
        if part is None:
            continue
        sample = waiting.setdefault(stem, {})
        if stem == last and part == "picture" and _rank(one) < _rank(found[-1][0]):
            found[-1] = (one, found[-1][1])
        if part in sample:
            rest += 1
            if part == "picture" and _rank(sample[part]) < _rank(one):
                continue
        sample[part] = one if part == "picture" else _label(file, one, shard, tell)
        if len(sample) == 2:
            del waiting[stem]
            if sample["label"] is not None:
                found.append((sample["picture"], sample["label"]))
                last = stem
            paired.add(_key(one.name))
    if len(waiting) != 1 and not torn and not found and not kinds[CLASS]:
        tell(_without_labels(shard, kinds, [one["picture"].name for one in waiting.values()]))
        return _listing([])
    joined, further, alone = _by_first_dot(waiting, paired)
    found += [(sample["picture"], sample["label"]) for sample in joined if sample["label"] is not None]
    for stems in [] if torn else alone:
        _tell_halves(stems, waiting, shard, kinds, tell)
    rest += further
    if rest:
        tell(Note(shard, f"has {counted(rest, 'further file')} of samples with picture and label", "they are not used"))
    return _listing(sorted(found, key=lambda pair: pair[0].start))


def _by_first_dot(
    waiting: Mapping[str, dict[str, Any]], paired: set[str]
) -> tuple[list[dict[str, Any]], int, list[list[str]]]:
    """Of halves, by what is before their first dot: whole samples, how many files are further ones, and names alone."""
    joined, further, alone = [], 0, []
    for key, stems in _by_key(waiting).items():
        both = {part: one for stem in stems for part, one in waiting[stem].items()}
        if len(both) == len(stems) == 2:
            joined.append(both)
        elif key in paired and "label" not in both:
            further += len(stems)
        else:
            alone.append(stems)
    return joined, further, alone


def _by_key(stems: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(_key(stem), []).append(stem)
    return found


def _tell_halves(
    stems: Iterable[str], samples: Mapping[str, Mapping[str, Any]], shard: str, kinds: Counter[str], tell: Tell
) -> None:
    usual = next((kind for kind, _ in kinds.most_common() if kind in PICTURES), PICTURES[0])
    for stem in stems:
        lost = CLASS if "picture" in samples[stem] else usual
        tell(Fault(shard, f"has {stem} without its .{lost}", REMEDY))


def _rank(one: tars.ArchiveMember) -> int:
    return PICTURES.index(one.name.rpartition(".")[2].lower())


def _key(name: str) -> str:
    """What WebDataset takes for the name of a sample: all before the first dot of its last part."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _without_labels(shard: str, kinds: Counter[str], pictures: list[str]) -> Fault:
    seen = some([f"{count:,} .{kind}" for kind, count in kinds.most_common()])
    what = f"has pictures and no .{CLASS} beside them that says their class (it holds {seen})"
    if not pictures:
        return Fault(shard, f"has no pictures (it holds {seen or 'no files'})", REMEDY)
    if WORDNET.fullmatch(Path(shard).stem):
        what = "holds the pictures of one class of ImageNet, still packed"
        remedy = "unpack each such archive into a folder of its name, or give the folder of ILSVRC2012_img_train.tar"
        return Fault(shard, what, f"{remedy}, which is read as it is")
    folders = sorted({name.split("/")[-2] for name in pictures if "/" in name})
    if len(folders) > 1:
        return Fault(shard, what, f"if its folders ({some(folders)}) are the classes, unpack it and give the folder")
    return Fault(shard, what, REMEDY)


def _listing(found: list[tuple[tars.ArchiveMember, int]]) -> Listing:
    places = np.array([(one.start, one.size) for one, _ in found], np.int64).reshape(-1, 2)
    return Listing(Texts(one.name for one, _ in found), np.array([label for _, label in found], np.int64), places)


def _label(file: Any, one: tars.ArchiveMember, shard: str, tell: Tell) -> int | None:
    file.seek(one.start)
    contents = file.read(min(one.size, 64))
    text = contents.decode("ascii", "replace").strip()
    if not (text.isascii() and text.isdigit()) or int(text) >= MOST_CLASSES:
        remedy = "it must hold a class index, 0, 1, 2 and so on"
        shown = f"'{text[:20]}'" if text.isprintable() and text.isascii() else f"bytes, {contents[:8]!r}"
        tell(Fault(f"{shard}: {one.name}", f"holds {shown}", remedy))
        return None
    return int(text)


LAYOUT = Layout(50, "WebDataset shards", is_webdataset, webdataset, shows=True, is_name=is_address)
