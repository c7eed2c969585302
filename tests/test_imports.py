"""Rooms of the package, each importing only those before it; no circle among modules, imports at use counted."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import alexnet

ROOT = Path(alexnet.__file__).parent
ROOMS = ["base", "networks", "data", "weights", "engines", "inference", "training", "serving", "reproduction", "cli"]
MODULES = {".".join(("alexnet", *p.relative_to(ROOT).with_suffix("").parts)): p for p in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{one.name}" for one in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return found & MODULES.keys()


def room(name: str) -> int:
    """The number of a module's room; what stands beside the rooms is after all of them."""
    part = name.split(".")[1] if "." in name else ""
    return ROOMS.index(part) if part in ROOMS else len(ROOMS)


def test_each_room_imports_only_those_before_it():
    wrong = [(one, other) for one, path in MODULES.items() for other in imported(path) if room(other) > room(one)]
    assert not wrong


def test_no_imports_go_in_a_circle():
    assert list(TopologicalSorter({name: imported(path) - {name} for name, path in MODULES.items()}).static_order())
