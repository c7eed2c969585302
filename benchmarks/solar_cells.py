"""Photographs of solar cells as a data set of two classes, for benchmarks/transfer.py.

    pip install elpv-dataset==1.0.0.post1
    python benchmarks/solar_cells.py OUT

The package ships 2,624 grey pictures of 300 x 300 pixels that a camera took of cells that glow under current, each with
the chance that it is defective as experts saw it (Buerhop-Lutz et al., PVSC 2018; Deitsch et al., Solar Energy 185,
2019; CC BY-NC-SA 4.0). Cells that are surely whole or surely defective are taken, and none between.

Cells of one module look alike and have numbers in a row, mostly 60. So whole rows of 60 are held out, every fifth, for
no module to be learned from and asked after; where modules are of another size, one at a row's edge still is. In OUT
the names of files are shuffled (seed 2012), so that the first few of a class are of many modules.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROW, FIFTH = 60, 5
CLASSES = {"0.0": "whole", "1.0": "defective"}


def split(number: int) -> str:
    """Of the cell of that number, from 0."""
    return "val" if number // ROW % FIFTH == FIFTH - 1 else "train"


def write(package: Path, out: Path) -> None:
    """Copy the package's pictures to OUT/SPLIT/CLASS/."""
    rows = [line.split() for line in (package / "data" / "labels.csv").read_text("utf-8").splitlines() if line.strip()]
    order = np.random.default_rng(2012).permutation(len(rows))
    for number, (file, chance, _) in enumerate(rows):
        if chance in CLASSES:
            folder = out / split(number) / CLASSES[chance]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / "data" / file, folder / f"{order[number]:04}.png")


if __name__ == "__main__":
    found = find_spec("elpv_dataset")
    if len(sys.argv) != 2 or found is None or found.origin is None:
        sys.exit("usage: python benchmarks/solar_cells.py OUT, with the package elpv-dataset 1.0.0.post1 installed")
    write(Path(found.origin).parent, Path(sys.argv[1]))
