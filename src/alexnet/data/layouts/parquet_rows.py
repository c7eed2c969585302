"""Pictures of a parquet file, row by row, whatever size its groups of rows have."""

from __future__ import annotations

import errno
import logging
import math
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.limits import open_files, too_many_open
from alexnet.base.text import counted
from alexnet.data.faults import Fault, is_pointer
from alexnet.data.pictures import Source, Unreadable

HELD = 1 << 27  # bytes of row groups that are kept in memory; one that is larger waits in a temporary file
OPEN_SHARE = 0.25  # of the files that a process may have open, for those of a split that wait
LARGEST = 1 << 28  # bytes of an encoded picture


class Full(AlexNetError):
    """No room, or no further file, for what a row group holds."""


class Table(NamedTuple):
    """A file: where its pictures are, and a label for each, a class name's place in `names` where it has names."""

    file: Path
    column: str
    labels: np.ndarray  # int64, -1 where there is none
    names: list[str] | None
    stated: bool  # whether the names are those of the file's description, in its order
    groups: list[int]  # rows of each row group


def opened(file: str | Path, dictionary: Sequence[str] = ()) -> Any:
    """The parquet file, read a piece at a time; one that is none is Unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, read_dictionary=list(dictionary))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if full := too_many_open(error, file):
            raise Full(str(full)) from None
        if is_pointer(file):
            raise Unreadable("only a pointer of Git LFS to the data, which git lfs pull brings") from None
        raise Unreadable(f"not a whole parquet file ({first_line(error)})") from None


Cell = tuple[bytes | str | np.ndarray | Unreadable, str]  # a picture as bytes, a path or pixels; its name, maybe empty


def cells(parquet: Any, column: str, groups: Sequence[int] | None = None) -> Iterator[Cell]:
    """The pictures of a column, row by row; so few rows are read at once that memory holds them whatever they are."""
    facts = parquet.metadata
    for group in range(facts.num_row_groups) if groups is None else groups:
        chunks = [facts.row_group(group).column(number) for number in range(facts.num_columns)]
        size = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.split(".")[0] == column)
        # In a column with a dictionary each of the rows may be as large as the whole.
        at_once = min(1024, max(1, HELD // 4 // max(1, size)))
        for batch in parquet.iter_batches(batch_size=at_once, row_groups=[group], columns=[column]):
            for cell in batch.column(0):
                yield _cell(cell)


def _cell(cell: Any) -> Cell:
    import pyarrow as pa

    try:
        kind = cell.type
        if not cell.is_valid:
            return b"", ""
        if pa.types.is_struct(kind):
            name = cell["path"].as_py() if kind.get_field_index("path") >= 0 else None
            contents = cell["bytes"].as_py()
            if contents is None and isinstance(name, str):
                return name, name
            return contents or b"", name if isinstance(name, str) else ""
        if isinstance(cell, pa.ListScalar):
            return _list(cell)
        value = cell.as_py()
        return value, value if isinstance(value, str) else ""
    except (pa.ArrowException, ValueError, TypeError, OverflowError, MemoryError) as error:
        return Unreadable(f"a row that cannot be read ({first_line(error)})"), ""


def _list(cell: Any) -> Cell:
    """A list of one picture, a picture's bytes as numbers, or its pixels as lists of lists (H, W[, 3])."""
    import pyarrow as pa

    values, shape = cell.values, list[int]()
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray) and len(values):
        shape.append(len(values) // math.prod(shape))
        if len({*values.value_lengths().to_pylist()}) > 1:
            return Unreadable("a list of rows of different lengths, which is no picture"), ""
        values = values.flatten()
    if pa.types.is_integer(values.type):
        pixels = values.to_numpy(zero_copy_only=False)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 255 or values.null_count:
            return Unreadable("a list of numbers outside 0 to 255, which is no picture"), ""
        pixels = pixels.astype(np.uint8)
        if not shape:
            return pixels.tobytes(), ""
        pixels = pixels.reshape(*shape, -1)
        if pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))):
            return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels, ""
        return Unreadable(f"a list of lists of {' x '.join(map(str, pixels.shape))} numbers, which is no picture"), ""
    if shape or len(values) != 1:
        return Unreadable(f"a list of {counted(len(values), 'picture')} in a row; give one a row"), ""
    return _cell(values[0])


class RowGroup:
    """The pictures of a row group: in memory while they are small together, else in a temporary file."""

    def __init__(self, file: Path, column: str, group: int) -> None:
        import pyarrow as pa

        self.file, self._lock = file, threading.Lock()
        self._contents = tempfile.SpooledTemporaryFile(HELD // 4)  # noqa: SIM115, __del__ closes it
        self._rows: list[tuple[tuple[int, int] | str | np.ndarray | Unreadable, str]] = []
        known: dict[bytes, tuple[int, int]] = {}  # a dictionary may name one picture for many rows
        self.size = 0
        try:
            for source, name in cells(opened(file), column, [group]):
                if isinstance(source, bytes):
                    place = known.setdefault(blake2b(source, digest_size=16).digest(), (self.size, len(source)))
                    if place[0] == self.size:
                        self._contents.write(source)
                        self.size += len(source)
                    self._rows.append((place, name))
                else:
                    self._rows.append((source, name))
                    self.size += source.nbytes if isinstance(source, np.ndarray) else 0
        except Unreadable as error:
            raise Fault(file, f"is {error}", "copy it again") from None
        except OSError as error:
            self._contents.close()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                way = "free some, name another folder in TMPDIR, or write the file with smaller row groups"
                raise Full(f"no space is left in {tempfile.gettempdir()} for what {file} holds; {way}.") from None
            if full := too_many_open(error, f"a temporary file for {file}"):
                raise Full(str(full)) from None
            raise Fault(file, f"has rows that cannot be read ({first_line(error)})", "copy it again") from None
        except (pa.ArrowException, MemoryError, OverflowError, ValueError) as error:
            raise Fault(file, f"has rows that cannot be read ({first_line(error)})", "copy it again") from None

    def __del__(self) -> None:
        self._contents.close()

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return 0 if self.size > HELD // 4 else self.size

    @property
    def waits(self) -> int:
        """Bytes in a temporary file."""
        return self.size - self.held

    def name(self, row: int) -> str:
        return self._rows[row][1] if row < len(self._rows) else ""

    def read(self, row: int) -> Source:
        """Encoded bytes, a path or pixels."""
        if row >= len(self._rows):
            raise Fault(self.file, f"has fewer rows than it says, {len(self._rows):,}", "copy it again")
        source, _ = self._rows[row]
        if isinstance(source, Unreadable):
            raise source
        if isinstance(source, tuple):
            start, size = source
            if size > LARGEST:
                raise Unreadable(f"{size:,} bytes, more than the {LARGEST:,} that are read")
            with self._lock:
                self._contents.seek(start)
                return self._contents.read(size)
        return picture_beside(self.file, source) if isinstance(source, str) else source


def picture_beside(file: str | Path, name: str) -> Path:
    """The picture that a row names: a path of its own, or one below the parquet file's folder."""
    if "\0" in name:
        raise Unreadable("a path with a zero byte")
    return Path(file).parent / name


class Rows:
    """The rows of some files by number; the row groups used last are kept."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.groups = [(table, group) for table in tables for group in range(len(table.groups))]
        self.starts = np.cumsum([0, *(count for table in tables for count in table.groups)])
        self._kept: OrderedDict[int, RowGroup | AlexNetError] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, i: int) -> Source:
        """The picture; empty bytes where the row has none."""
        group, row = self._place(i)
        return group.read(row)

    def name(self, i: int) -> str:
        """Its path or name as the row has it, else the number of the row."""
        group, row = self._place(i)
        return group.name(row) or f"row {i}"

    def _place(self, i: int) -> tuple[RowGroup, int]:
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
            else:
                try:
                    self._kept[number] = self._made(number)
                except Full:
                    raise
                except AlexNetError as error:
                    self._kept[number] = error
                self._forget()
            found = self._kept[number]
        if isinstance(found, AlexNetError):
            raise found
        return found, i - int(self.starts[number])

    def _made(self, number: int) -> RowGroup:
        table, group = self.groups[number]
        waiting = self._sizes("waits")
        try:
            return RowGroup(table.file, table.column, group)
        except Full:
            if not waiting:
                raise
        self._drop(waiting)
        return RowGroup(table.file, table.column, group)

    def _forget(self) -> None:
        """Let go of those used longest ago until the others fit: into memory, and those that wait in files into half of
        the room that there is for them, as they were slow to read."""
        held, waiting = self._sizes("held"), self._sizes("waits")
        while len(held) > 1 and sum(held.values()) > HELD:
            oldest = next(iter(held))
            del self._kept[oldest], held[oldest]
        free = shutil.disk_usage(tempfile.gettempdir()).free if waiting else 0
        while len(waiting) > 1 and (sum(waiting.values()) > free or len(waiting) > OPEN_SHARE * open_files()):
            oldest = next(iter(waiting))
            free += waiting.pop(oldest)
            self._drop([oldest])

    def _sizes(self, kind: str) -> dict[int, int]:
        """The row groups that have bytes held, or waiting, those used longest ago first."""
        sizes = {number: getattr(one, kind, 0) for number, one in self._kept.items()}
        return {number: size for number, size in sizes.items() if size}

    def _drop(self, waiting: Iterable[int]) -> None:
        for number in waiting:
            del self._kept[number]
        _say_read_again()


@cache  # once is enough
def _say_read_again() -> None:
    logging.getLogger("alexnet").warning(
        f"large row groups of parquet files do not fit into {tempfile.gettempdir()} together, so they are read again "
        "and again: alexnet pack DATA PACK reads each once, and TMPDIR names another folder"
    )
