"""Hugging Face style parquet: image {bytes, path} and label, class names in the schema's metadata."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from alexnet.data.faults import Fault, Tell, refuse
from alexnet.data.folders import visible
from alexnet.data.split import VALID, Data, Split


def parquet(root: Path, tell: Tell = refuse) -> Data:
    """Hugging Face style: image {bytes, path}, label; class names in the schema's metadata; split in the file name."""
    files = parquet_files(root)
    named: dict[str, list[Path]] = {}
    for file in files:
        prefix = file.name.removesuffix(".parquet").split("-")[0]
        named.setdefault(prefix if prefix in ("train", *VALID) else "train", []).append(file)
    splits: dict[str, Split] = {}
    classes: list[str] | None = None
    for name in ("train", *VALID):
        if name not in named or ("valid" in splits and name in VALID):
            continue
        split, names = _parquet_split(sorted(named[name]), name, tell)
        if (split.labels < 0).all() and (name in VALID or not len(split)):
            continue  # a test split as published, without labels
        splits["train" if name == "train" else "valid"] = split
        classes = classes or names
    if not splits:
        tell(Fault(root, "has parquet files but no labels in them", "give a split with labels"))
    if classes is None:
        classes = [str(n) for n in range(1 + max([-1, *(int(s.labels.max()) for s in splits.values())]))]
    for place, split in splits.items():
        right = (split.labels >= 0) & (split.labels < len(classes))
        for row in np.flatnonzero(~right).tolist():
            what = (
                f"label {split.labels[row]} of {split.name(row)} ({split.origin}, row {row}) is outside the class list"
            )
            remedy = "mend the label or the class names in the schema"
            tell(Fault(root, f"{what}, 0 to {len(classes) - 1}", remedy, joint=": "))
        if not right.all():
            splits[place] = split.take(np.flatnonzero(right), split.origin)
    return Data(str(root), "parquet", classes, splits, files)


def parquet_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    for folder in (root, root / "data"):
        if folder.is_dir() and (found := [p for p in visible(folder) if p.suffix == ".parquet"]):
            return found
    return []


def _parquet_split(files: list[Path], origin: str, tell: Tell) -> tuple[Split, list[str] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, groups, classes = [np.empty(0, np.int64)], [], None
    for file in files:
        try:
            opened = pq.ParquetFile(file)
            column = opened.read(columns=["label"])["label"] if "label" in opened.schema_arrow.names else None
        except (pa.ArrowException, OSError) as error:
            tell(Fault(file, f"is not a whole parquet file ({error})", "copy it again"))
            continue
        columns = opened.schema_arrow.names
        image = next((name for name in ("image", "img") if name in columns), None)
        if image is None or column is None:
            what = f"has the columns {', '.join(columns)}"
            tell(Fault(file, what, "it needs 'image' (bytes, path) and 'label'"))
            continue
        if not pa.types.is_integer(column.type):
            tell(Fault(file, f"column label is {column.type}", "it must hold whole numbers from 0", joint=": "))
            continue
        labels.append(column.fill_null(-1).to_numpy().astype(np.int64))
        groups += [
            (str(file), image, group, opened.metadata.row_group(group).num_rows)
            for group in range(opened.metadata.num_row_groups)
        ]
        classes = classes or _class_names(opened.schema_arrow)
    starts = np.cumsum([0] + [rows for *_, rows in groups])

    # 64 groups of some 1,000 small pictures each are about 100 MB; a shuffled pass over more reads them again.
    @lru_cache(maxsize=64)
    def group(number: int):
        file, image, index, _ = groups[number]
        try:
            return pq.ParquetFile(file).read_row_group(index, columns=[image])[image].combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise Fault(file, f"has rows that cannot be read ({error})", "copy it again") from None

    def cell(i: int) -> dict:
        number = int(np.searchsorted(starts, i, side="right")) - 1
        return group(number)[i - int(starts[number])].as_py() or {}

    def name(i: int) -> str:
        return cell(i).get("path") or f"row {i}"

    return Split(origin, np.concatenate(labels), lambda i: cell(i).get("bytes") or b"", name), classes


def _class_names(schema) -> list[str] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]
