"""What JPEG's loss costs the author's 18 % net on CIFAR-10: pictures as they are against pictures encoded once more.

    python benchmarks/jpeg_cost.py CIFAR10 OUT [--epochs 28] [--seeds 2]

CIFAR10 is a parquet data set. The second encoding has quality 75 and colour at half the resolution, as the one that
public JPEG copies have, and begins 5 pixels away, so that its blocks are others. Both are trained by the recipe
cifar10_18, shortened in proportion to --epochs, with the same seeds; the last weights count. Networks are kept in OUT,
so that it goes on where it was stopped. OUT gets jpeg_cost.md.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alexnet.base import metrics
from alexnet.base.device import choose_device, device_name
from alexnet.base.run_files import METRICS
from alexnet.data.layouts.registry import find_data
from alexnet.reproduction.intervals import paired
from alexnet.reproduction.running import commit, hits, versions
from alexnet.training.loop import train
from alexnet.training.recipe import override, resolve

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
    """Write each parquet file of `source` to `target` with its pictures encoded once more."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*.parquet")):
        table = pq.read_table(file)
        rows = [{**row, "bytes": again(row["bytes"])} for row in table["image"].to_pylist()]
        field = table.schema.field("image")
        at = table.schema.get_field_index("image")
        pq.write_table(table.set_column(at, field, pa.array(rows, type=field.type)), target / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    twice = asked.out / "twice"
    if not twice.exists():
        encode(asked.data, twice)
    right: dict[str, list[np.ndarray]] = {}
    for seed in range(asked.seeds):
        for name, place in (("as they are", asked.data), ("encoded once more", twice)):
            data, folder = find_data(place, quiet=True), asked.out / f"{name.replace(' ', '-')}-{seed}"
            if not any(line["kind"] == "final" for line in metrics.read(folder / METRICS)):
                recipe = override(resolve("cifar10_18"), {"epochs": asked.epochs, "seed": seed})
                train(data, folder, recipe, resume=True, device=asked.device, say=print)
            right.setdefault(name, []).append(hits([folder], data, 1, asked.device)[0])
    lines = [f"# {__doc__.splitlines()[0]}", "", "| pictures | test error, %, by seed |", "| --- | --- |"]
    lines += [
        f"| {name} | {', '.join(f'{100 - 100 * one.mean():.2f}' for one in ones)} |" for name, ones in right.items()
    ]
    before, after = (np.stack(ones).astype(float) for ones in right.values())
    worse = paired(100 * (before - after))
    lines += ["", f"Once more costs {worse.mean:.2f} points ({worse.low:.2f} to {worse.high:.2f}, 95 % interval).", ""]
    made = ", ".join(f"{key} {value}" for key, value in versions().items())
    lines += [
        f"`python benchmarks/jpeg_cost.py DATA OUT --epochs {asked.epochs} --seeds {asked.seeds}`; "
        f"{device_name(choose_device(asked.device))}; {made}; commit {commit()}.",
    ]
    (asked.out / "jpeg_cost.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
