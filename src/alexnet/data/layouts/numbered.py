"""Files that say in their names how many they are, train-00001-of-00003.parquet: whether all are there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from alexnet.base.text import counted
from alexnet.data.faults import Fault, Tell

# Hugging Face's older files have a checksum after it, another in each.
OF = re.compile(r"(.*?)(\d{1,6})-of-(\d{1,6})(?:-[0-9a-f]{8,})?(\.[^/]*)?", re.DOTALL)


def tell_of_missing(paths: Iterable[str], root: object, tell: Tell) -> None:
    """Say where a set of such files, one in a folder, is not whole; paths with slashes."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        if match := OF.fullmatch(path):
            found.setdefault((match[1], match[3], match[4] or ""), set()).add(int(match[2]))
    for (before, count, after), numbers in found.items():
        if len(numbers) < int(count):
            what = f"has {len(numbers):,} of the {counted(int(count), 'file')} {before}*-of-{count}{after}"
            tell(Fault(root, what, "fetch the others, or give what is there other names if you want no more"))
