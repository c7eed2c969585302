"""What the README says of networks, recipes, files and commands is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from alexnet import recipe
from alexnet.cli import commands
from alexnet.info import describe
from alexnet.variants import VARIANTS

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


def test_every_command_line_in_the_readme_is_understood():
    lines = re.findall(r"^(?:torchrun .* -m )?(alexnet \w.*?)(?:  +#.*)?$", README, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        _, name, *words = shlex.split(line)
        command = commands.commands[name]
        context = command.make_context(name, words, resilient_parsing=False)
        assert context.params
