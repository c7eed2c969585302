"""A pack: every picture decoded once, at one size, in files that NumPy alone reads. `alexnet pack` makes it.

    PACK/pack.json           what it is; the last entry is the SHA-256 of the others, in the same form without spaces
    PACK/train-00000.npy …   raw: uint8 (n, S, S, 3), RGB; jpeg: uint8 (bytes,), n JPEG files one after another
    PACK/train-labels.npy    int64 (n of all files,), class indices
    PACK/train-ends.npy      jpeg only: int64 (n of all files,), where each picture ends in its file
    PACK/train-names.json    where each picture came from
    PACK/mean.npy            float32 (S, S, 3), the training pictures' mean

The same for each split. The bytes are those of the pictures alone: no date, no machine and no path is in them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tokenize
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.base.limits import memory, open_files, too_many_open
from alexnet.data.dataset import Data, Split
from alexnet.data.packs.shards import HEADER_BYTES, Shard, damaged
from alexnet.data.pictures import Source
from alexnet.data.statistics import Known

HEADER = "pack.json"
STATE = "packing.npz"  # of a pack that is being made
FORMAT, VERSION = "alexnet pack", 1
READ = 1 << 24  # bytes
LARGEST = 1 << 14  # pixels, side of a picture
OPEN_SHARE = 0.5  # of the files that a process may have open, for a pack's pictures


def is_pack(root: Path) -> bool:
    """Whether a folder holds a pack, or one that is being made."""
    return (root / HEADER).is_file() or (root / STATE).is_file()


def open_pack(root: Path) -> Data:
    """The splits of a pack; a file that is missing or of another length than the header says is refused, and all but
    the pictures by their checksums, too."""
    header = read_header(root)
    try:
        return _opened(root, header)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise AlexNetError(f"{root / HEADER} does not fit together ({error!r}); make the pack again.") from None


def _opened(root: Path, header: dict[str, Any]) -> Data:
    for entry in header["files"]:
        check_length(root, entry)
    _check_sums(root, header)
    classes, side = header["classes"], header["side"]
    if type(side) is not int or not 1 <= side <= LARGEST or header["encoding"] not in ("raw", "jpeg"):
        raise ValueError(f"pictures of {side} x {side}, {header['encoding']}")
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise ValueError("classes that are no names")
    mean = _array(root, "mean.npy", "f").astype(np.float32)
    colours = [np.array(header[key], np.float64) for key in ("colour_std", "colour_axes")]
    if not all(np.isfinite(one).all() and (np.abs(one) < 1e9).all() for one in colours):
        raise ValueError("colour axes that are no numbers of grey levels")
    known = Known(mean, *(one.astype(np.float32) for one in colours))
    if (known.mean.shape, known.colour_std.shape, known.colour_axes.shape) != ((side, side, 3), (3,), (3, 3)):
        raise ValueError("a mean or colour axes of another shape")
    square, splits = str(header.get("square", "crop")), {}
    files = sum(len(facts["shards"]) for facts in header["splits"].values())
    share = min(1.0, OPEN_SHARE * open_files() / max(1, files))
    for name, facts in header["splits"].items():
        if name not in ("train", "valid", "test") or not all(type(n) is int and n >= 0 for n in facts["shards"]):
            raise ValueError(f"a split {name} in files of {facts['shards']} pictures")
        store = PackStore(root, name, header["side"], header["encoding"], facts["shards"], known, square, share)
        labels = _array(root, f"{name}-labels.npy").astype(np.int64)
        if labels.shape != (len(store),) or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
            raise AlexNetError(f"{root} has labels that do not fit its pictures or classes; make the pack again.")
        splits[name] = Split(str(facts["origin"]), labels, store.read, store.name, store)
    words = f"pack of {header['side']} x {header['side']} pictures, {header['encoding']}, of {header['layout']}"
    if type(named := header.get("named", True)) is not bool:
        raise ValueError(f"named {named}")
    return Data(str(root), words, classes, splits, square=square, named=named)


def read_header(root: Path) -> dict[str, Any]:
    """The header, its own checksum verified."""
    if not (root / HEADER).is_file():
        raise AlexNetError(f"{root} is a pack that is not finished; give the alexnet pack command that began it again.")
    damaged = AlexNetError(f"{root / HEADER} is damaged (its checksum is another); make the pack again.")
    try:
        header = json.loads((root / HEADER).read_text("utf-8"))
        if header["format"] == FORMAT and header["version"] > VERSION:
            raise AlexNetError(
                f"{root} was made by a newer version (format {header['version']}, this one reads {VERSION}); update "
                "alexnet, or make the pack again."
            )
        stated = header.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if stated != checksum(header):
        raise damaged
    if not isinstance(files := header.get("files"), list) or not all(map(_is_entry, files)):
        raise AlexNetError(f"{root / HEADER} does not fit together (its list of files); make the pack again.")
    return header


def _is_entry(entry: Any) -> bool:
    kinds = {"name": str, "bytes": int, "sha256": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def checksum(header: dict[str, Any]) -> str:
    """SHA-256 of a header without its own entry `sha256`."""
    return hashlib.sha256(json.dumps(header, separators=(",", ":")).encode()).hexdigest()


def check_length(root: Path, entry: dict[str, Any]) -> None:
    """Refuse a file of the pack that is missing, cut short or too long."""
    path = root / Path(entry["name"]).name
    try:
        size = path.stat().st_size
    except OSError:
        raise AlexNetError(f"{path} is missing from the pack; copy it again or make the pack again.") from None
    if size != entry["bytes"]:
        raise AlexNetError(
            f"{path} has {size:,} bytes, its pack says {entry['bytes']:,}; copy it again or make the pack again."
        )


def _check_sums(root: Path, header: dict[str, Any]) -> None:
    """Refuse labels, names, ends and a mean that are not this pack's, as lengths are the same in packs of as many
    pictures; files of pictures are left to `verify`."""
    pictures = {f"{name}-{n:05}.npy" for name, facts in header["splits"].items() for n in range(len(facts["shards"]))}
    for _, fault in verify(root, [entry for entry in header["files"] if entry["name"] not in pictures]):
        if fault:
            raise AlexNetError(f"{root / Path(fault['file']).name} is not that of this pack ({fault['error']}).")


def verify(root: Path, entries: Iterable[dict[str, Any]] | None = None) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Read all files, or those `entries` of the header: bytes just read, and after each file that is not as it was
    made, its name and what is wrong."""
    for entry in read_header(root)["files"] if entries is None else entries:
        digest = hashlib.sha256()
        try:
            check_length(root, entry)
            with open(root / Path(entry["name"]).name, "rb") as file:
                while block := file.read(READ):
                    digest.update(block)
                    yield len(block), None
        except (AlexNetError, OSError) as error:
            yield 0, {"file": entry["name"], "error": str(error)}
            continue
        if digest.hexdigest() != entry["sha256"]:
            yield 0, {"file": entry["name"], "error": "its checksum is another; copy it again or make the pack again"}


class PackStore:
    """The pictures of one split; picture i is the i-th over all its files, mapped where memory can hold them.

    Of its files a `share` is open at once, those that were used last.
    """

    def __init__(
        self, root: Path, split: str, side: int, encoding: str, shards: list[int], known: Known,
        square: str = "crop", share: float = 1.0,
    ) -> None:  # fmt: skip
        self.root, self.split, self.side, self.encoding, self.known = root, split, side, encoding, known
        self.square = square
        self.starts = np.cumsum([0, *shards])
        # No method of its own: a store that nobody holds any more closes its files at once.
        mapped = encoding == "raw" and self.decoded_bytes <= memory()
        shard = partial(_shard, root, split, (side, side, 3) if encoding == "raw" else (), self.starts, mapped)
        self._open = lru_cache(maxsize=max(1, int(share * len(shards))))(shard)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def decoded_bytes(self) -> int:
        """What the pictures take when they are decoded."""
        return len(self) * self.side * self.side * 3

    @cached_property
    def _ends(self) -> np.ndarray:
        found = _array(self.root, f"{self.split}-ends.npy")
        if found.shape != (len(self),):
            raise damaged(self.root / f"{self.split}-ends.npy")
        return found

    @cached_property
    def _names(self) -> list[str]:
        path = self.root / f"{self.split}-names.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or len(found) != len(self) or not all(isinstance(one, str) for one in found):
            raise damaged(path)
        return found

    def name(self, i: int) -> str:
        """Where the picture came from."""
        return self._names[i]

    def read(self, i: int) -> Source:
        """The picture as uint8 (S, S, 3), or as the bytes of a JPEG file."""
        number, row = self._place(i)
        if self.encoding == "jpeg":
            return self._contents(number, row).tobytes()
        out = np.empty((self.side, self.side, 3), np.uint8)
        self._open(number).read(out.reshape(-1), row * out.size)
        return out

    def fill(self, indices: np.ndarray, out: np.ndarray, target: np.ndarray) -> None:
        """Put those pictures into those rows of `out`, uint8 (n, S, S, 3)."""
        in_order = np.argsort(indices)  # of the disk
        numbers = np.searchsorted(self.starts, indices[in_order], side="right") - 1
        rows = indices[in_order] - self.starts[numbers]
        flat = out.reshape(len(out), -1)
        for number, row, place in zip(numbers.tolist(), rows.tolist(), target[in_order].tolist(), strict=True):
            if self.encoding == "raw":
                self._open(number).read(flat[place], row * flat.shape[1])
            else:
                self._decode(number, row, out[place])

    def ahead(self, indices: np.ndarray) -> None:
        """Tell the system that pictures of a raw pack will be wanted soon, neighbours together."""
        if self.encoding != "raw" or not len(indices):
            return
        size, rows = self.side * self.side * 3, np.unique(indices)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) > 1) | (np.diff(shards) > 0)) + 1
        for run, number in zip(np.split(rows, breaks), np.split(shards, breaks), strict=True):
            first = int(run[0] - self.starts[number[0]])
            self._open(int(number[0])).ahead(first * size, len(run) * size)

    def _contents(self, number: int, row: int) -> np.ndarray:
        """A JPEG file, uint8 (bytes,)."""
        i = int(self.starts[number]) + row
        start = int(self._ends[i - 1]) if row else 0
        size, path = int(self._ends[i]) - start, self.root / f"{self.split}-{number:05}.npy"
        if not 0 <= size <= path.stat().st_size:
            raise damaged(self.root / f"{self.split}-ends.npy")
        contents = np.empty(size, np.uint8)
        self._open(number).read(contents, start)
        return contents

    def _decode(self, number: int, row: int, out: np.ndarray) -> None:
        contents = self._contents(number, row)
        try:
            out[:] = _pixels(contents)
        except Exception:  # Pillow raises many kinds for a damaged file
            raise damaged(self._open(number).path) from None

    def _place(self, i: int) -> tuple[int, int]:
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        return number, i - int(self.starts[number])


def _shard(root: Path, split: str, picture: tuple[int, ...], starts: np.ndarray, mapped: bool, number: int) -> Shard:
    """A file of pictures of one shape; of bytes where that is ()."""
    path = root / f"{split}-{number:05}.npy"
    size = path.stat().st_size - HEADER_BYTES if path.exists() else 0
    return Shard(path, (int(starts[number + 1] - starts[number]), *picture) if picture else (size,), mapped)


def _pixels(jpeg: np.ndarray) -> np.ndarray:
    """A JPEG file, uint8 (bytes,), as uint8 (H, W, 3).

    torchvision's decoder gives Pillow's pixels in two thirds of its time, for Pillow keeps a fourth byte of each.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        return decode_jpeg(torch.from_numpy(jpeg), ImageReadMode.RGB).permute(1, 2, 0).numpy()
    except RuntimeError:  # a damaged file, which Pillow names too, or a torchvision that was built without JPEG
        return np.asarray(Image.open(io.BytesIO(jpeg.tobytes()), formats=("JPEG",)))


def _array(root: Path, name: str, kinds: str = "iu") -> np.ndarray:
    """An array of the pack of a kind of numbers, after its header was held against the length of its file."""
    try:
        with open(root / name, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize != os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError("its length is another")
            if dtype.kind not in kinds:
                raise ValueError(f"it holds {dtype}")
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, tokenize.TokenError) as error:
        raise too_many_open(error, root / name) or AlexNetError(
            f"{root / name} cannot be read ({error}); copy it again or make the pack again."
        ) from None
