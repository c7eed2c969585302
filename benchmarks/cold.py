"""How fast a raw pack is fed that the system has just forgotten: what the first epoch from a disk costs.

    python benchmarks/cold.py FOLDER [--runs 5]     # FOLDER is what benchmarks/data.py inputs has made

No rights are needed: posix_fadvise drops the pack's pages, and mincore says whether they have gone. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

import numpy as np
import torch
from data import compare, describe, loader

from alexnet.data.layouts.registry import find_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    describe()
    cold(arguments.folder, arguments.runs)


def cold(folder: Path, runs: int) -> None:
    """One epoch of a raw pack that the system has just forgotten, shuffled and by neighbours, and a plain reading."""
    raw = folder / "raw"

    def read() -> int:
        for path in sorted(raw.glob("train-0*.npy")):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass
        return len(find_data(raw).split("train"))

    measures = {
        "plain reading of the files, cold": read,
        "raw pack, first touch": lambda: loader(raw)(),
        "the same, neighbours=16": lambda: loader(raw, neighbours=16)(),
        "the same, then warm": lambda: loader(raw)(),
    }
    compare(measures, runs, {name: lambda: forget(raw) for name in list(measures)[:3]})


def forget(folder: Path) -> None:
    """Take the files of a pack out of the system's memory; they are then read from the disk."""
    gc.collect()  # what is still mapped would stay
    for path in folder.glob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can be forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if (share := in_memory(folder)) > 0.01:
        raise SystemExit(f"{share:.1%} of {folder} is still in memory, so nothing would be read from the disk")


def in_memory(folder: Path) -> float:
    """Share of a pack's pages that the system holds in memory, by mincore."""
    import ctypes
    import mmap

    library, held, total = ctypes.CDLL(None, use_errno=True), 0, 0
    for path in folder.glob("train-0*.npy"):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as pages:
            count = -(-len(pages) // mmap.PAGESIZE)
            flags, start = (ctypes.c_ubyte * count)(), np.frombuffer(pages, np.uint8)
            if library.mincore(ctypes.c_void_p(start.ctypes.data), ctypes.c_size_t(len(pages)), flags):
                raise OSError(ctypes.get_errno(), "mincore")
            held, total = held + sum(flag & 1 for flag in flags), total + count
            del start
    return held / total


if __name__ == "__main__":
    main()
