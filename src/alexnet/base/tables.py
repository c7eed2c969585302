"""Tables of results as .csv, .jsonl or .parquet, told by the name's end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from alexnet.base.files import write_whole
from alexnet.base.text import encodable

ROWS = 10_000  # of a parquet row group


def write_lists(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A .csv whose columns may have one name twice."""
    write_whole(path, lambda file: _csv(file, header, rows))


def write(path: Path, columns: Mapping[str, type], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under `columns`, whose values are str, int or float, or None; the file is in its place when the last is.

    Bytes of a name that are not UTF-8 stand as escapes, \\xe9.
    """
    write_whole(path, lambda file: WRITERS[path.suffix](file, columns, rows))


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


WRITERS: Mapping[str, Callable] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
