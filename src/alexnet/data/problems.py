"""What `alexnet check` finds broken or odd, what to do about it, and the report of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from alexnet.base.text import counted, printable
from alexnet.data.faults import Fault, Note

REMEDIES = {
    "structure": "what it touches is not looked at; mend it, then check again",
    "unreadable": "get it again or delete it; it is left out of training and of every count",
    "damaged": "copy the file again, or make the pack again",
    "two classes": "delete the one that is wrong; a network cannot learn both",
    "two splits": "delete one; errors on pictures that were trained on are too good",
    "twice": "delete one; the picture counts twice",
    "other format": "rename it; it is read by its contents, here and not everywhere",
    "CMYK": "nothing; it is read as RGB, though some programs fail at it",
    "unused bits": "save it with 8 bits, or scaled to all 16; as it is, it is read as almost black",
    "several pictures": "nothing, if the first is meant, which alone is read; else save each as a file of its own",
    "metadata": "nothing; its pixels are whole, though some programs fail at it",
    "not used": "nothing, if that is as it should be",
    "one split only": "put pictures of the class into the other split",
}
BROKEN = ("structure", "unreadable", "damaged", "two classes")  # these give exit status 1; the others are odd


@dataclass(frozen=True)
class Problem:
    """Something broken or odd: its kind is a key of REMEDIES, whose remedy it has unless it has one of its own."""

    kind: str
    split: str
    file: str
    fault: str
    own: str = ""

    @property
    def remedy(self) -> str:
        return self.own or REMEDIES[self.kind]

    def facts(self) -> dict[str, str]:
        """As plain data."""
        return {"kind": self.kind, "split": self.split, "file": self.file, "fault": self.fault, "remedy": self.remedy}


@dataclass
class Report:
    """What DATA is, what was looked at, and what is wrong."""

    data: str
    layout: str = ""
    classes: int = 0
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    looked_at: int = 0  # pictures decoded
    sizes: dict[str, list[int]] = field(default_factory=dict)  # width and height: least, median, most
    kinds: dict[str, int] = field(default_factory=dict)  # such as JPEG RGB, of the pictures looked at
    problems: list[Problem] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether anything is more than odd."""
        return any(one.kind in BROKEN for one in self.problems)

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"problems": [one.facts() for one in self.problems]}

    def tell(self, fault: Fault) -> None:
        """List a fault of structure, or what is only odd."""
        kind = "not used" if isinstance(fault, Note) else "structure"
        self.problems.append(Problem(kind, "", fault.file, fault.what, fault.remedy))


def text(report: Report, shown: int = 20) -> Iterator[str]:
    """Lines for people; of each kind of problem the first `shown`."""
    if report.layout:
        yield f"{report.data}: {report.layout}, {counted(report.classes, 'class')}"
    for name, facts in report.splits.items():
        each = f"{facts['fewest']:,}" + (f" to {facts['most']:,}" if facts["most"] != facts["fewest"] else "")
        yield f"  {name}: {counted(facts['pictures'], 'picture')} ({facts['origin']}), {each} a class"
    if report.looked_at:
        (w0, w1, w2), (h0, h1, h2) = report.sizes["width"], report.sizes["height"]
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
        size = f"{w0} to {w2} pixels wide ({w1} in the middle), {h0} to {h2} high ({h1})"
        yield f"  {report.looked_at:,} looked at: {kinds}; {size}"
    for kind, remedy in REMEDIES.items():
        those = [one for one in report.problems if one.kind == kind]
        if those:
            yield f"{'broken' if kind in BROKEN else 'odd'}: {len(those):,} × {kind}; {remedy}"
            for one in those[:shown]:
                todo = f"; {one.own}" if one.own else ""
                yield f"  {one.split + ': ' if one.split else ''}{printable(one.file)}: {printable(one.fault)}{todo}"
            if len(those) > shown:
                yield f"  and {len(those) - shown:,} more; --json names all"
    yield "something is broken" if report.broken else "nothing is broken"
