"""Tables of results as .csv, .jsonl or .parquet, told by the name's end, and where outputs may be written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from alexnet.base.errors import AlexNetError
from alexnet.base.files import write_whole
from alexnet.base.text import encodable

SUFFIXES = (".csv", ".jsonl", ".parquet")
ROWS = 10_000  # of a parquet row group


def check_output(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Refuse, before any work, a file that could not be written, or that is there already."""
    if path.suffix not in suffixes:
        *others, last = suffixes
        endings = f"{', '.join(others)} or {last}" if others else last
        raise AlexNetError(f"{option} was given {path}; it writes {endings}.")
    if not path.parent.is_dir():
        raise AlexNetError(f"{option} {path}: there is no folder {path.parent}; make it, or give another place.")
    if path.exists():
        raise AlexNetError(f"{option} {path} exists already; give another name, or move it away.")
    if not os.access(path.parent, os.W_OK):
        raise AlexNetError(f"{option} {path} cannot be written; give a place that you may write.")


def write_lists(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A .csv whose columns may have one name twice."""
    write_whole(path, lambda file: _csv(file, header, rows))


def write(path: Path, columns: Mapping[str, type], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under `columns`, whose values are str, int or float, or None; the file is in its place when the last is.

    Bytes of a name that are not UTF-8 stand as escapes, \\xe9.
    """
    writers: dict[str, Callable] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    write_whole(path, lambda file: writers[path.suffix](file, columns, rows))


def _csv(file, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(map(_text, columns))
    writer.writerows(map(_text, row) for row in rows)
    text.detach()


def _jsonl(file, columns: Mapping[str, type], rows: Iterable[Sequence[Any]]) -> None:
    for row in rows:
        file.write(json.dumps(dict(zip(columns, map(_text, row), strict=True))).encode() + b"\n")


def _parquet(file, columns: Mapping[str, type], rows: Iterable[Sequence[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(file, schema) as writer:
        source = iter(rows)
        while part := list(islice(source, ROWS)):
            columns_of = [[_text(x) for x in column] for column in zip(*part, strict=True)]
            arrays = [pa.array(column, field.type) for column, field in zip(columns_of, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def seven(x: float) -> float:
    """With seven digits, which are all that float32 has."""
    return float(f"{x:.7g}")


def _text(value: Any) -> Any:
    return encodable(value) if isinstance(value, str) else value
