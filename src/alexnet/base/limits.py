"""What this process may take of its machine: memory, also in a container, and open files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from alexnet.base.errors import AlexNetError

MACHINE = Path("/")  # where Linux tells of itself, /proc and /sys


def memory() -> int:
    """Bytes of memory that the machine or the container has; where the system does not say, 4 GiB."""
    return min([_pages("SC_PHYS_PAGES"), *(limit for limit, _ in _groups())])


def free_memory() -> int:
    """Bytes of memory that can be had now without swapping; where the system does not say, 4 GiB."""
    free = _numbers(MACHINE / "proc/meminfo").get("MemAvailable:")
    machine = _pages("SC_AVPHYS_PAGES") if free is None else free << 10
    return min([machine, *(max(0, limit - used) for limit, used in _groups())])


def open_files() -> int:
    """How many files a process may have open at once; where the system does not say, 256."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return most if 0 < most < 1 << 20 else 1 << 20  # -1 is without limit
    except (ImportError, ValueError, OSError):
        return 256


def too_many_open(error: Exception, path: object) -> AlexNetError | None:
    """The error of a file that is whole but one too many; None where `error` is another."""
    if getattr(error, "errno", None) not in (errno.EMFILE, errno.ENFILE):
        return None
    return AlexNetError(
        f"{path} cannot be opened as too many files are open already, of {open_files():,} that a process may have; "
        "allow more with ulimit -n and give the command again."
    )


def _pages(kind: str) -> int:
    try:
        return os.sysconf(kind) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def _groups() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group that this process is in and that has a limit (Linux, cgroup v1
    and v2). A container may see its own group as the root, under whatever name it has outside."""
    try:
        lines = (MACHINE / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and "memory" not in kinds.split(","):
            continue
        root = MACHINE / "sys/fs/cgroup" / ("memory" if kinds else "")
        limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        inner = root / path.lstrip("/")
        for group in (inner, *inner.parents):
            most, taken = _number(group / limit), _number(group / used)
            if most is not None and taken is not None:
                stat = _numbers(group / "memory.stat")
                # Pages of files count as used, and are given back where memory is wanted.
                yield most, max(0, taken - stat.get("total_inactive_file", stat.get("inactive_file", 0)))
            if group == root:
                break


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # `max` is without limit
        return None


def _numbers(path: Path) -> dict[str, int]:
    """The lines of a file that are a word and a number."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return {}
    return {one[0]: int(one[1]) for one in words if len(one) > 1 and one[1].isdigit()}
