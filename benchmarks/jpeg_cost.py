"""What JPEG's loss costs the author's 18 % net on CIFAR-10: pictures as they are against pictures encoded once more.

    python benchmarks/jpeg_cost.py CIFAR10 OUT [--epochs 28] [--seeds 2]

CIFAR10 is a parquet data set. The second encoding has quality 75 and colour at half the resolution, as the one that
public JPEG copies have, and begins 5 pixels away, so that its blocks are others. Both are trained by the recipe
cifar10_18, shortened in proportion to --epochs, with the same seeds; the last weights count. Networks are kept in OUT,
so that it goes on where it was stopped; OUT/arms.md says what came out (benchmarks/arms.py).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from arms import Arm, compare
from PIL import Image

from alexnet.data.identity import identity
from alexnet.data.layouts.registry import find_data

SHIFT, QUALITY = 5, 75


def again(encoded: bytes) -> bytes:
    """The picture after one more JPEG whose blocks begin SHIFT pixels above and to the left, kept without loss."""
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    wide = np.pad(pixels, ((SHIFT, 0), (SHIFT, 0), (0, 0)), mode="edge")
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(wide).save(jpeg, "JPEG", quality=QUALITY, subsampling="4:2:0")
    Image.fromarray(np.asarray(Image.open(jpeg))[SHIFT:, SHIFT:]).save(png, "PNG")
    return png.getvalue()


def encode(source: Path, target: Path) -> None:
    """Write each parquet file of `source` to `target`, a new folder, with its pictures encoded once more."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for file in sorted(source.rglob("*.parquet")):
        table = pq.read_table(file)
        rows = [{**row, "bytes": again(row["bytes"])} for row in table["image"].to_pylist()]
        field = table.schema.field("image")
        at = table.schema.get_field_index("image")
        place = part / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.set_column(at, field, pa.array(rows, type=field.type)), place)
    os.replace(part, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    twice = asked.out / f"twice-{identity(find_data(asked.data))[:10]}"
    if not twice.exists():
        encode(asked.data, twice)
    arms = (Arm("as they are", asked.data), Arm("encoded once more", twice))
    compare(arms, "cifar10_18", [f"epochs={asked.epochs}"], asked.seeds, asked.out, asked.device)


if __name__ == "__main__":
    main()
