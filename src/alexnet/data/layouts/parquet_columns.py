"""The columns of a parquet file: which of them has pictures, which labels, what Hugging Face says of them."""

from __future__ import annotations

import json
from typing import Any

IMAGES = ("image", "img", "images", "picture", "photo", "pixel_values", "jpg", "jpeg", "png", "image_path", "path",
          "file_name", "filename", "file", "filepath")  # fmt: skip
LABELS = ("label", "labels", "fine_label", "class", "class_id", "class_label", "label_id", "cls", "target", "category",
          "y")  # fmt: skip
ANSWERS = {"rank", "probability"}  # of the tables of alexnet predict, whose column label is a network's answer


def image_column(schema: Any) -> str | None:
    """The column that holds pictures: one of bytes before one of paths, and by its name where several could."""
    return next(iter([*own_pictures(schema), *_paths(schema)]), None)


def own_pictures(schema: Any) -> list[str]:
    """The columns that could hold pictures themselves, those with a usual name first."""
    import pyarrow as pa

    def is_binary(type: Any) -> bool:
        type = type.value_type if pa.types.is_dictionary(type) else type
        return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_binary_view(type)

    def is_numbers(type: Any) -> bool:
        while pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
            type = type.value_type
        return pa.types.is_integer(type)

    def holds(type: Any) -> bool:
        if pa.types.is_list(type) or pa.types.is_large_list(type):
            return holds(type.value_type)
        if pa.types.is_struct(type):
            return type.get_field_index("bytes") >= 0 and is_binary(type.field("bytes").type)
        return is_binary(type)

    able = [field.name for field in schema if holds(field.type)]
    # Numbers only by their name: most lists of them are something else.
    numbers = [one.name for one in schema if is_numbers(one.type) and one.type.num_fields]
    named = _usual(able, IMAGES)
    return [*named, *(name for name in able if name not in named), *_usual(numbers, IMAGES)]


def _paths(schema: Any) -> list[str]:
    """The columns that could name files of pictures: texts, and so only by their names."""
    return _usual([one.name for one in schema if is_text(one.type)], IMAGES)


def is_text(type: Any) -> bool:
    """Whether a column of that type holds strings, as any of Arrow's types of them."""
    import pyarrow as pa

    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)


def _usual(names: list[str], known: tuple[str, ...]) -> list[str]:
    return [name for one in known for name in names if name.lower() == one]


def label_column(schema: Any, image: str) -> str | None:
    """The column of labels: by its name, else the one that Hugging Face's description calls so."""
    described = described_columns(schema)
    typed = [name for name in schema.names if described.get(name, {}).get("_type") == "ClassLabel"]
    named = [name for name in _usual(schema.names, LABELS) if name != image]
    return named[0] if named else typed[0] if len(typed) == 1 else None


def described_columns(schema: Any) -> dict[str, dict]:
    """Hugging Face's description of the columns, as far as it can be made out."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}
