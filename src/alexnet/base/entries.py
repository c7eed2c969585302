"""Lists that write themselves: what a folder's modules say of themselves, so that a new file is all that it takes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, TypeVar

T = TypeVar("T")
_FOUND: dict[tuple[str, type], list[Any]] = {}


def entries(package: str, kind: type[T]) -> list[T]:
    """Every value of that kind in the modules of a folder of the package, by their `place`, the lowest first."""
    if (package, kind) not in _FOUND:
        folder = importlib.import_module(package)
        found: dict[int, Any] = {}  # by identity: modules import from each other
        for one in pkgutil.iter_modules(folder.__path__):
            for value in vars(importlib.import_module(f"{package}.{one.name}")).values():
                several = value if isinstance(value, tuple) else (value,)
                found |= {id(entry): entry for entry in several if isinstance(entry, kind)}
        _FOUND[package, kind] = sorted(found.values(), key=lambda entry: entry.place)
    return _FOUND[package, kind]
