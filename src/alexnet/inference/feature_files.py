"""Features in one file: .npy, .parquet, .h5 and .safetensors, made of what was gathered."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from alexnet.base.distributed import World, alone
from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new, next_step, reserve, write_all, write_whole, writing
from alexnet.base.text import encodable, printable
from alexnet.data.sources import Sources
from alexnet.inference.feature_folder import COPY, JOURNAL, NPY_HEADER, Gathered, gather
from alexnet.inference.features import Pool, check_layers
from alexnet.weights.classifier import Classifier


@dataclass(frozen=True)
class Extracted:
    """What was written: pictures, the shape of one row by layer, and the pictures that could not be read."""

    output: str
    pictures: int
    layers: dict[str, list[int]]
    failed: list[dict[str, str]]


def write_features(
    classifier: Classifier, sources: Sources, layers: Sequence[str], output: Path, pool: Pool | None = None,
    batch_size: int = 64, workers: int = 0, resume: bool = False, quiet: bool = True,
    world: World | None = None,
) -> Extracted:  # fmt: skip
    """Write layers' features of every readable picture, in order, to a .npy, .parquet, .h5 or .safetensors file.

    Of several processes in a `world` the first writes, and the others know of nothing written.
    """
    world = world or alone()
    with world.together():
        names = check_layers(classifier.model, layers)
        if world.first:
            check_features_file(output, len(names), resume)
    part = gathering_folder(output)
    found = gather(classifier, sources, names, part, pool, batch_size, workers, resume, quiet, world=world)
    failed: list[dict[str, str]] = []
    if world.first:
        failed = found.failed()
        with next_step("free space and go on with --resume"):
            FORMATS[output.suffix](found, output)
        shutil.rmtree(found.folder)
    return Extracted(str(output), found.rows, {name: list(shape) for name, shape in found.shapes.items()}, failed)


def check_features_file(output: Path, layers: int, resume: bool = False) -> None:
    """Refuse, before any work, a file that could not be written or could not hold the layers."""
    named_beside = [_names_file(output)] if output.suffix in (".npy", ".safetensors") else []
    if resume and gathering_folder(output).is_dir():  # it ended between the names and the features
        named_beside = []
    check_new("--output", output, FORMATS, named_beside)
    if output.suffix == ".npy" and layers > 1:
        raise AlexNetError(
            f"--output {output} holds one layer, {layers} were asked for; give a name that ends in "
            f"{', '.join(suffix for suffix in FORMATS if suffix != '.npy')}."
        )
    if output.suffix == ".h5":
        _h5py()


def gathering_folder(output: Path) -> Path:
    """Where the features are gathered before the output is whole."""
    return output.with_name(output.name + ".part")


def _names_file(output: Path) -> Path:
    return output.with_suffix(".filenames.txt")


def _names(found: Gathered) -> Callable[[BinaryIO], object]:
    """What writes the names, one a line: escapes for what is no text, and for backslashes that do not part folders."""
    names = (name.replace("\\", "\\\\") if os.sep == "/" else name for name in found.filenames())
    lines = (printable(name).encode() + b"\n" for name in names)
    return lambda file: file.writelines(lines)


def _to_npy(found: Gathered, output: Path) -> None:
    """(pictures, …) float32, and the names, one a line, in F.filenames.txt."""
    write_whole(_names_file(output), _names(found))
    (name,) = found.shapes
    with writing(output):
        os.replace(found.file(name), output)


def _to_safetensors(found: Gathered, output: Path) -> None:
    """A tensor a layer, named as the layer, and the names, one a line, in F.filenames.txt."""
    header, offset = {}, 0
    for name, shape in found.shapes.items():
        size = 4 * math.prod(shape) * found.rows
        header[name] = {"dtype": "F32", "shape": [found.rows, *shape], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in found.shapes:
            with open(found.file(name), "rb") as part:
                part.seek(NPY_HEADER)
                shutil.copyfileobj(part, file, COPY)

    write_all({_names_file(output): _names(found), output: write})


def _to_parquet(found: Gathered, output: Path) -> None:
    """`filename`, and a column a layer of lists of fixed length; maps are flattened, their shape in the field."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field("filename", pa.string())]
    for name, shape in found.shapes.items():
        kind = pa.list_(pa.float32(), math.prod(shape))
        fields.append(pa.field(name, kind, metadata={"shape": json.dumps(shape)}))
    schema = pa.schema(fields)
    step = max(1, COPY // (4 * sum(map(math.prod, found.shapes.values()))))
    arrays, names = {name: found.array(name) for name in found.shapes}, found.filenames()

    def write(file: BinaryIO) -> None:
        # Floats do not shrink, and a dictionary of them would only take time.
        with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
            for first in range(0, found.rows, step):
                columns = [pa.array((encodable(name) for name in islice(names, step)), pa.string())]
                for field in fields[1:]:
                    values = pa.array(arrays[field.name][first : first + step].reshape(-1))
                    columns.append(pa.FixedSizeListArray.from_arrays(values, field.type.list_size))
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    write_whole(output, write)


def _to_hdf5(found: Gathered, output: Path) -> None:
    """A data set a layer, named as the layer, (pictures, …) float32, and `filename`."""
    h5py = _h5py()
    part = found.folder / "whole.h5"
    names_size = (found.folder / JOURNAL).stat().st_size
    size = sum(found.file(name).stat().st_size for name in found.shapes) + 2 * names_size + 128 * found.rows
    with writing(output):
        with TemporaryFile(dir=found.folder) as room:
            reserve(room, size + (1 << 16))
        with h5py.File(part, "w") as file:
            names = file.create_dataset("filename", (found.rows,), h5py.string_dtype())
            for number, name in enumerate(found.filenames()):
                names[number] = encodable(name)
            for layer, shape in found.shapes.items():
                data, first = file.create_dataset(layer, (found.rows, *shape), "<f4"), 0
                for rows in found.parts(layer):
                    data[first : first + len(rows)] = rows
                    first += len(rows)
        os.replace(part, output)


def _h5py():
    try:
        import h5py
    except ImportError:
        raise AlexNetError(
            "a .h5 file needs h5py, which is not installed: in a clone of alexnet, pip install '.[hdf5]'; or give a "
            ".parquet file."
        ) from None
    return h5py


FORMATS: dict[str, Callable[[Gathered, Path], None]] = {
    ".npy": _to_npy,
    ".parquet": _to_parquet,
    ".h5": _to_hdf5,
    ".safetensors": _to_safetensors,
}
