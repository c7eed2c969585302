"""Parquet files as people write them: a column of pictures, one of labels, class names in Hugging Face's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet.base.errors import AlexNetError, first_line
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.dataset import Data, Split, arranged, by_split, called, class_difference, some
from alexnet.data.faults import Fault, Note, Tell, refuse
from alexnet.data.layouts import split_column
from alexnet.data.layouts.base import Layout
from alexnet.data.layouts.numbered import tell_of_missing
from alexnet.data.layouts.parquet_columns import (
    LABELS,
    described_columns,
    image_column,
    is_text,
    label_column,
    own_pictures,
)
from alexnet.data.layouts.parquet_files import are_parquet, is_answers, is_parquet, parquet_files
from alexnet.data.layouts.parquet_rows import Rows, Table, opened
from alexnet.data.pictures import Unreadable

MOST_CLASSES, MOST_TOLD = 1_000_000, 100
ORDER: tuple[str, ...] = ("train", "valid", "test")


class FileRows(NamedTuple):
    """The rows of a file that are of one split, all of them where none are named."""

    table: Table
    rows: np.ndarray | None = None  # bool (n,)

    @property
    def unlabelled(self) -> bool:
        """Whether none of them has a label."""
        labels = self.table.labels
        return bool((labels if self.rows is None else labels[self.rows]).max(initial=-1) < 0)


def parquet(root: Path, tell: Tell = refuse) -> Data:
    """Pictures as bytes, structs of bytes and path, paths or lists of one; labels as numbers, names or booleans.

    The split is in a column of it, else in the names of the files, or of the folders that they lie in.
    """
    files = parquet_files(root, tell)
    above = root.parent if root.is_file() else root
    paths = {file: file.relative_to(above).as_posix() for file in files}
    if root.is_dir():
        tell_of_missing(paths.values(), root, tell)
    chosen = by_split(paths, root, tell)
    parts: dict[str, list[FileRows]] = {}
    origins: dict[str, str] = {}
    for kind, found in chosen.items():
        to_guess = kind == "test" and len(chosen) > 1
        for table, said in _tables(sorted(found), tell, to_guess):
            for own in sorted(filter(None, {*said})) if said else [kind]:
                rows = np.array([one == own for one in said], bool) if said else None
                parts.setdefault(own, []).append(FileRows(table, rows))
                origins.setdefault(own, own if said else called(paths[found[0]]))
    # A split as competitions publish it, without labels.
    for kind in [kind for kind, some_parts in parts.items() if all(one.unlabelled for one in some_parts)]:
        if kind != "train" or len(parts) > 1:
            tell(Note(root, f"has no labels in its split {kind}", "it is not used"))
            del parts[kind]
    parts = _without_numbers_beside_names(parts, tell)
    everything = list({one.table.file: one.table for some_parts in parts.values() for one in some_parts}.values())
    if not everything:
        tell(Fault(root, "has parquet files but no labels in them", "give a split with labels"))
    classes, named = _classes(everything, root, tell)
    splits = {}
    for place, kind in arranged({kind: kind for kind in ORDER if kind in parts}).items():
        splits[place] = _split(parts[kind], origins[kind], classes, root, tell)
    if not named and splits:
        _check_numbers(splits, root, tell)
    return Data(str(root), "parquet", classes, splits, files, named=named)


# -- what a file holds --------------------------------------------------------------------------------------------


def _tables(files: Sequence[Path], tell: Tell, to_guess: bool) -> list[tuple[Table, list[str | None] | None]]:
    """The files that can be read, each with the splits of its rows where a column says them; `to_guess` where one may
    have no column of labels."""
    tables = []
    for file in files:
        try:
            tables.append((_table(file, tell, to_guess), _stated(file, tell)))
        except Unreadable as error:
            tell(Fault(file, f"is {error}", "copy it again"))
        except Fault as fault:
            tell(fault)
    return tables


def _stated(file: Path, tell: Tell) -> list[str | None] | None:
    """The split of each row by the first column that says one, in words or in numbers that the schema names."""
    import pyarrow as pa

    parquet = opened(file)
    schema = parquet.schema_arrow
    for name in split_column.split_columns(schema.names):
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind) or not pa.types.is_nested(kind):
            words = described_columns(schema).get(name, {}).get("names")
            named = dict(enumerate(map(str, words))) if isinstance(words, list) else {}
            batches = parquet.iter_batches(batch_size=1 << 16, columns=[name])
            try:
                found = (value for batch in batches for value in batch.column(0).to_pylist())
                values = ["" if value is None else named.get(value, str(value)) for value in found]
            except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
                what = f"has a column {name} that cannot be read ({first_line(error)})"
                raise Fault(file, what, "copy it again") from None
            if said := split_column.kinds(file, name, values, tell):
                return said
    return None


def _table(file: Path, tell: Tell, to_guess: bool) -> Table:
    import pyarrow as pa

    parquet = opened(file)
    schema = parquet.schema_arrow
    if is_answers(schema):
        raise Fault(file, "holds a network's answers (rank, probability) and no labels", "take it out of DATA")
    image = image_column(schema)
    label = label_column(schema, image or "")
    groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
    if image is not None and label is None and to_guess:
        return Table(file, image, np.full(sum(groups), -1), None, False, groups)
    if image is None or label is None:
        what = f"has the columns {some(schema.names)}"
        needed = "a column of pictures (bytes, or a struct of bytes and path)" if image is None else "a column 'label'"
        raise Fault(file, what, f"it needs {needed}; name it {'image' if image is None else 'label'}")
    if others := [name for name in own_pictures(schema) if name != image]:
        tell(Note(file, f"has other columns of pictures beside {image} ({some(others)})", "they are not used"))
    others = [name for name in schema.names if name.lower() in LABELS or name == "coarse_label"]
    if others := [name for name in others if name not in (label, image)]:
        tell(Note(file, f"has other columns of labels beside {label} ({some(others)})", "they are not used"))
    kind = schema.field(label).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parquet = opened(file, [label])  # each name once, however many rows have it
    try:
        parts, names = [np.empty(0, np.int64)], dict[str, int]()
        for batch in parquet.iter_batches(batch_size=1 << 16, columns=[label]):
            parts.append(_numbers(batch.column(0), names, file, label))
    except (pa.ArrowException, OSError, MemoryError, OverflowError, ValueError) as error:
        raise Fault(file, f"has labels that cannot be read ({first_line(error)})", "copy it again") from None
    found = np.concatenate(parts)
    if len(found) != parquet.metadata.num_rows:
        raise Fault(
            file, f"has {counted(len(found), 'label')} for {counted(parquet.metadata.num_rows, 'row')}", "copy it again"
        )
    stated = described_columns(schema).get(label, {}).get("names")
    if pa.types.is_boolean(kind) and not isinstance(stated, list):
        stated = ["False", "True"]
    own = (
        list(names) if names else labels.distinct([str(name) for name in stated]) if isinstance(stated, list) else None
    )
    return Table(file, image, found, own, not names and own is not None, groups)


def _numbers(column: Any, names: dict[str, int], file: Path, label: str) -> np.ndarray:
    """Labels as int64, -1 where there is none; of class names their places in `names`, to which new ones are added."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if (pc.max(pc.list_value_length(column)).as_py() or 0) > 1:
            raise Fault(file, f"has several labels a row in its column {label}", "give one label a picture")
        column = pc.list_element(column, 0) if len(column) and pc.min(pc.list_value_length(column)).as_py() else None
        if column is None:
            raise Fault(file, f"has rows without a label in its column {label}", "give one label a picture")
        kind = column.type
    if pa.types.is_string_view(kind):
        column, kind = column.cast(pa.large_string()), pa.large_string()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column, kind = column.dictionary_encode(), pa.dictionary(pa.int32(), kind)
    if pa.types.is_dictionary(kind):
        if not is_text(kind.value_type):
            return _numbers(column.dictionary_decode(), names, file, label)
        table = np.array([_place(names, one.as_py()) for one in column.dictionary], np.int64)
        indices = _whole(column.indices)
        return np.where(indices >= 0, table[indices] if len(table) else -1, -1)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64()).fill_null(-1.0).to_numpy(zero_copy_only=False)
        if not (
            np.isfinite(values).all() and (values == np.round(values)).all() and np.abs(values).max(initial=0) < 2**53
        ):
            raise Fault(
                file, f"column {label} has fractions", "it must hold whole numbers from 0, or names", joint=": "
            )
        return values.astype(np.int64)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _whole(column)
    raise Fault(file, f"column {label} is {kind}", "it must hold whole numbers from 0, or class names", joint=": ")


def _whole(column: Any) -> np.ndarray:
    """Whole numbers of any width as int64, -1 where there is none."""
    import pyarrow as pa

    return column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def _place(names: dict[str, int], name: str | None) -> int:
    return -1 if name is None else names.setdefault(name, len(names))


# -- all files together -------------------------------------------------------------------------------------------


def _without_numbers_beside_names(parts: dict[str, list[FileRows]], tell: Tell) -> dict[str, list[FileRows]]:
    """The files but those whose labels are bare numbers where others have names, whose order nothing says."""
    tables = {one.table.file: one.table for some_parts in parts.values() for one in some_parts}
    named = next((table for table in tables.values() if table.names is not None and not table.stated), None)
    if named is None:
        return parts
    bare = {file for file, table in tables.items() if table.names is None and table.labels.max(initial=-1) >= 0}
    for file in sorted(bare):
        tell(Fault(file, f"has numbers where {named.file.name} has names of classes", "give names in both"))
    return {kind: [one for one in found if one.table.file not in bare] for kind, found in parts.items()}


def _classes(tables: Sequence[Table], root: Path, tell: Tell) -> tuple[list[str], bool]:
    """The class names of all files, and whether they have names; without any, ImageNet's or numbers."""
    with_names = [table for table in tables if table.names is not None]
    if not with_names:
        most = max((int(table.labels.max(initial=-1)) for table in tables), default=-1)
        if most >= MOST_CLASSES:
            tell(Fault(root, f"has a label {most:,}", f"labels are whole numbers from 0 to below {MOST_CLASSES:,}"))
            below = [table.labels[table.labels < MOST_CLASSES] for table in tables]
            most = max(int(one.max(initial=-1)) for one in below)
        return labels.names(most + 1), False
    if not all(table.stated for table in with_names):
        return sorted({name for table in with_names for name in table.names or ()}), True
    first = with_names[0].names or []
    for table in with_names[1:]:
        if set(table.names or ()) != set(first):
            what = (
                f"has other class names than {with_names[0].file.name} ({class_difference(table.names or [], first)})"
            )
            tell(Fault(table.file, what, "give files of the same classes"))
    return first, True


def _split(parts: Sequence[FileRows], origin: str, classes: list[str], root: Path, tell: Tell) -> Split:
    place = {name: number for number, name in enumerate(classes)}
    found, rows = [np.empty(0, np.int64)], Rows([part.table for part in parts])
    of_it = [np.empty(0, bool)]
    for table, own_rows in parts:
        own = table.labels
        of_it.append(np.ones(len(own), bool) if own_rows is None else own_rows)
        if table.names is not None and table.names != classes:
            known = np.array([place.get(name, -1) for name in table.names], np.int64)
            inside = (own >= 0) & (own < len(known))
            own = np.where(inside, known[np.where(inside, own, 0)], own) if len(known) else own
        found.append(own)
    split, here = Split(origin, np.concatenate(found), rows.read, rows.name), np.concatenate(of_it)
    right = (split.labels >= 0) & (split.labels < len(classes))
    wrong = np.flatnonzero(here & ~right)
    if len(wrong) > MOST_TOLD:
        what = f"has {counted(len(wrong), 'label')} outside the class list in its split {origin}"
        tell(Fault(root, what, f"the first {MOST_TOLD} are these"))
    for row in wrong[:MOST_TOLD].tolist():
        what = f"label {split.labels[row]} of {_name(split, row)} ({origin}, row {row}) is outside the class list"
        remedy = "mend the label or the class names in the schema"
        tell(Fault(root, f"{what}, 0 to {len(classes) - 1}", remedy, joint=": "))
    right &= here
    return split if right.all() else split.take(np.flatnonzero(right), origin)


def _name(split: Split, row: int) -> str:
    try:
        return split.name(row)
    except AlexNetError:
        return "a picture"


def _check_numbers(splits: dict[str, Split], root: Path, tell: Tell) -> None:
    """Say where numbers without names do not begin at 0."""
    least = min([int(split.labels.min()) for split in splits.values() if len(split)], default=0)
    if least > 0:
        what = f"has labels from {least} on and no class names, so that class 0 is empty"
        tell(Note(root, what, "number them from 0, or name them, if that is not so"))


LAYOUTS = (
    Layout(20, "a folder of parquet files with the columns image and label", is_parquet, parquet),
    Layout(85, "", are_parquet, parquet),
)
