"""What the README says of networks, recipes, files and commands is so, and what it shows runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from alexnet.base import run_files
from alexnet.cli import commands
from alexnet.engines import choosing
from alexnet.inference.info import describe
from alexnet.networks.variants import VARIANTS
from alexnet.training import recipe
from conftest import coloured

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_of_networks_is_that_of_info(name):
    facts = describe(name)
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:5] == [str(facts.input[1]), f"{facts.parameters:,}", f"{facts.macs:,}"]


def test_every_recipe_and_every_module_is_named():
    rows = README.replace("`", "").splitlines()
    for name in recipe.shipped():
        assert f"| {name} | {recipe.about(name)} |" in rows
    for path in (ROOT / "src" / "alexnet").rglob("*.py"):
        if not path.name.startswith("__"):
            assert re.search(rf"\b{path.name}\b", README), path.name


TEXTS = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
SNIPPETS = [
    pytest.param(snippet, id=f"{text}, {number}")
    for text in TEXTS
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / text).read_text("utf-8"), re.M | re.S), 1
    )
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the snippets name: RUN, here the shipped weights, and pictures."""
    root = tmp_path_factory.mktemp("place")
    for name in ("cat.jpg", "street.jpg", "photos/cat.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        coloured("red", len(name), (150, 120)).save(root / name)
    (root / "RUN").mkdir()
    shutil.copy(ROOT / "src/alexnet/weights/tiny.safetensors", root / "RUN" / run_files.LAST)
    return root


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_snippet_runs_as_it_stands(snippet, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(choosing, "has", lambda *modules: False)  # no engine but torch is tried, which takes seconds
    exec(compile(snippet, "snippet", "exec"), {"__name__": "snippet"})


def in_blocks(text: str) -> list[str]:
    """Command lines in blocks of code."""
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", text, re.M | re.S))
    return re.findall(r"^(?:torchrun .* -m )?(alexnet \w.*?)(?:  +#.*)?$", blocks, re.M)


def in_sentences(text: str) -> list[str]:
    return re.findall(r"`(?:[A-Z]+=\w+ )?(?:torchrun [^`]* -m )?(alexnet [a-z][^`]*)`", text)


@pytest.mark.parametrize("text", TEXTS)
def test_every_option_of_a_command_line_in_a_sentence_exists(text):
    lines = in_sentences((ROOT / text).read_text("utf-8"))
    assert len(lines) >= 5
    for line in lines:
        _, name, *words = shlex.split(line.replace("[", "").replace("]", ""))
        command = commands.commands[name]
        known = {option for one in command.params for option in one.opts} | {"--help", "--version"}
        assert {word.partition("=")[0] for word in words if re.match(r"--\w", word)} <= known, line


def test_every_command_line_of_a_block_in_the_readme_is_complete():
    lines = in_blocks(README)
    assert len(lines) >= 20
    for line in lines:
        _, name, *words = shlex.split(line)
        context = commands.commands[name].make_context(name, words, resilient_parsing=False)
        assert context.params
