"""Files that are written whole or not at all, and the folder where this program keeps its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet.errors import AlexNetError

CACHE_VARIABLE = "ALEXNET_CACHE"


def cache_folder() -> Path:
    """$ALEXNET_CACHE, or alexnet in the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Call `write(file)` on a file beside `path`, then put it in its place: a crash leaves the old or the new."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise AlexNetError(
            f"cannot write {path} ({error.strerror or error}); free space or give another place."
        ) from None
    finally:
        part.unlink(missing_ok=True)
