"""Published weights by name: where they are, how they are recognised, and the cache where they are kept."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet.base.errors import AlexNetError
from alexnet.base.files import CACHE_VARIABLE, cache_folder, write_whole
from alexnet.base.progress import Progress
from alexnet.base.text import printable

CHUNK = 1 << 20
PACKAGE = "package:"


@dataclass(frozen=True)
class Published:
    """A file of weights; `size` in bytes, at most; `hash` is sha256:… or, where no other was published, sha1:…

    `url` package:NAME is a file beside this one.
    """

    url: str
    hash: str
    size: int
    licence: str
    about: str
    square: str | None = None  # how its pictures became squares, where the file does not say

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2].removeprefix(PACKAGE)


PUBLISHED = {
    "tiny": Published(
        f"{PACKAGE}tiny.safetensors",
        "sha256:90e973d15cebbda66c97b91fc9e1e994bd631667cdacc626ec3b53e0843e8768",
        8_240_528,
        "non-commercial research and education, as ImageNet's pictures",
        "alexnet64 trained on Tiny ImageNet's 200 classes: 55.85 % top-1, 30.01 % top-5 error, one view (tiny.md)",
    ),
    "torchvision": Published(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        244_408_911,
        "BSD-3-Clause",
        "alexnet_owt trained on ILSVRC-2012: 56.522 % top-1, 79.066 % top-5 accuracy, one view",
    ),
    "bvlc": Published(
        "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",  # the only one that its makers have published
        250_000_000,
        "unrestricted use",
        "bvlc_alexnet trained on ILSVRC-2012 with Caffe: 57.1 % top-1, 80.2 % top-5 accuracy, one view",
        "squash",
    ),
}


def fetch(name: str, quiet: bool = True) -> Path:
    """The file of published weights of that name: from the cache, or downloaded into it and checked by its hash."""
    entry = PUBLISHED[name]
    if entry.url.startswith(PACKAGE):
        path = Path(__file__).with_name(entry.filename)
        _check(path, entry)
        return path
    path = cache_folder() / entry.filename
    if path.exists():
        _check(path, entry)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlexNetError(
            f"cannot make the cache folder {path.parent} ({error.strerror}); set {CACHE_VARIABLE}."
        ) from None
    digest = _hasher(entry)

    def download(file) -> None:
        with Progress(name, entry.size, "bytes", quiet=quiet) as bar:
            for chunk in _chunks(name, entry, path):
                if bar.done + len(chunk) > entry.size:
                    raise AlexNetError(
                        f"{entry.url} is larger than the {entry.size:,} bytes expected; nothing was kept."
                    )
                digest.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
        if digest.hexdigest() != entry.hash.partition(":")[2]:
            raise AlexNetError(f"{entry.url} has another hash than {entry.hash}; nothing was kept: try again later.")

    write_whole(path, download)
    return path


def _chunks(name: str, entry: Published, path: Path) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(entry.url, timeout=30) as answer:
            while chunk := answer.read(CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException) as error:  # no network, no such address, a broken connection
        reason = printable(str(getattr(error, "reason", error)).strip())
        raise AlexNetError(
            f"the weights '{name}' are not here and cannot be fetched ({reason}); get {entry.url} elsewhere and put it "
            f"at {path}."
        ) from None


def _hasher(entry: Published) -> hashlib._Hash:
    return hashlib.new(entry.hash.partition(":")[0], usedforsecurity=True)


def _check(path: Path, entry: Published) -> None:
    digest = _hasher(entry)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != entry.hash.partition(":")[2]:
        raise AlexNetError(f"{path} has another hash than {entry.hash}; delete it and get {entry.url} again.")
