"""Rooms of the package, each importing only those before it; no circle among modules, imports at use counted.

And what a reader can expect: words with one sense, functions and files of a length to be read.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import alexnet
from mutate import PLACES

ROOT = Path(alexnet.__file__).parent
CLONE = ROOT.parent.parent
ROOMS = ["base", "networks", "data", "weights", "engines", "inference", "training", "serving", "reproduction", "cli"]
MODULES = {".".join(("alexnet", *p.relative_to(ROOT).with_suffix("").parts)): p for p in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@cache
def imported(module: str) -> set[str]:
    """The modules of this package that one imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(module)):
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
    wrong = [(one, other) for one in MODULES for other in imported(one) if room(other) > room(one)]
    assert not wrong


def test_the_page_on_extending_names_the_rooms_in_their_order():
    text = (CLONE / "docs" / "extending.md").read_text("utf-8")
    assert re.findall(r"`(\w+)`", text.partition("in an order")[2].partition("A test")[0]) == ROOMS


def test_no_imports_go_in_a_circle():
    assert list(TopologicalSorter({name: imported(name) - {name} for name in MODULES}).static_order())


# Words that several modules define, each in one sense wherever it stands.
SHARED = {
    "the network and its layers, as a record and as a module": "AlexNet Dropout WithinMapNorm",
    "reads or writes what the module is named after, as a file or as bytes": "load read recognises save to_bytes write",
    "for people, as text or HTML": "page text",
    "the items of a list in a recipe, parsed; the known ones in words": "listed named",
    "opens what the module is about": "opened",
    "an engine's forms": "int8 make_engine weights8",
    "a table of answers, made and written": "answers write_table",
    "the same thing computed in a plain and in a fast form": "augmented blocks_of_pixels passes",
    "draws random numbers": "draw",
    "a hash of what results depend on": "fingerprint",
}


def test_a_word_that_several_modules_define_has_one_sense():
    """A command and the function behind it have one name, too."""
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for node in tree(module).body if room(module) != ROOMS.index("cli") else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    shared = {word for words in SHARED.values() for word in words.split()}
    several = {word: places for word, places in homes.items() if len(places) > 1}
    assert {word: places for word, places in several.items() if word not in shared} == {}
    assert shared <= several.keys()  # none is kept for words that are gone


DATA_TABLES = {ROOT / "networks" / "variants.py"}  # a record a layer; their length is the networks'


def test_a_function_fits_a_screen_and_a_file_is_read_in_one_sitting():
    files = [file for folder in ("src", "tests", "benchmarks", "examples") for file in (CLONE / folder).rglob("*.py")]
    assert len(files) > len(MODULES)
    long = []
    for file in files:
        text = file.read_text("utf-8")
        long += [f"{file}: {n} lines"] if (n := len(text.splitlines())) > 400 and file not in DATA_TABLES else []
        long += [
            f"{file}, {node.name}: {lines} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (lines := (node.end_lineno or 0) - node.lineno + 1) > 45
        ]
    assert not long


def test_a_number_of_things_in_a_sentence_is_counted():
    """`counted` says 1 picture, where {number:,} followed by pictures would say 1 pictures."""
    things = "channels|classes|epochs|files|frames|images|labels|layers|models|pictures|rows|seconds|steps|weights"
    number = r"\{(?:len\([^{}]*\)|[^{}]*[a-z][^{}]*:(?:,|g))\}"
    for module, path in MODULES.items():
        text = re.sub(r'"\n\s*f?"', "", path.read_text("utf-8"))  # a sentence over several lines
        assert not re.findall(rf"{number} (?:more |other |of the )?(?:{things})\b(?!/)", text), module


def test_what_mutate_changes_stands_there_once():
    for file, old, new, tests in PLACES:
        assert ((ROOT / file).read_text("utf-8").count(old), old == new) == (1, False), (file, old)
        assert all((CLONE / "tests" / name).is_file() for name in tests.partition(" -k ")[0].split()), tests
