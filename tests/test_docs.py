"""What the documents say of networks, recipes, files and commands is so; what they show runs; links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

import alexnet
from alexnet.base import hints, run_files
from alexnet.cli import commands
from alexnet.engines import choosing
from alexnet.inference.info import network_info
from alexnet.networks.variants import VARIANTS
from alexnet.training import recipe
from conftest import coloured

ROOT = Path(__file__).parent.parent
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = ["README.md", "CONTRIBUTING.md", *PAGES]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _site():
    spec = importlib.util.spec_from_file_location("made", ROOT / "docs" / "made.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = _site()


def test_every_network_of_the_explanation_is_as_info_says():
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", read("docs/explanations/which-alexnet.md"), re.M)
    assert {"alexnet2012", "alexnet_paper", "alexnet_owt", "bvlc_alexnet", "caffenet"} <= {name for name, _ in rows}
    for name, text in rows:
        facts = network_info(name)
        assert [cell.strip() for cell in text.split("|")][1:4] == [
            str(facts.input[1]), f"{facts.parameters:,}", f"{facts.macs:,}",
        ]  # fmt: skip


def test_the_reference_has_every_command_recipe_key_network_module_and_public_name():
    pages = {name: site.made(read(f"docs/reference/{name}.md")) for name in site.MADE}
    for name, command in commands.commands.items():
        assert f"\n## alexnet {name}\n" in pages["commands"]
        for option in (option for one in command.params for option in one.opts if option.startswith("--")):
            assert option in pages["commands"]
    for name in recipe.shipped():
        assert f"| `{name}` | {recipe.about(name)} |" in pages["recipes"]
    for name in recipe.KEYS:
        assert f"| `{name}` | " in pages["recipes"]
    for name, one in VARIANTS.items():
        assert f"| `{name}` | {one.source} | {one.input} | {network_info(name).parameters:,} |" in pages["networks"]
    for path in (ROOT / "src" / "alexnet").rglob("*.py"):
        assert path.name.startswith("__") or f"| `{path.name}` | " in pages["modules"], path
    for name in alexnet.__all__:
        assert f"::: alexnet.{name}\n" in pages["python"]


def headings(text: str) -> set[str]:
    """What links to places within a page may say, as the site and code forges make it of headings."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one.lower()).strip()) for one in found}


@pytest.mark.parametrize("text", [*TEXTS, *(name for name in site.also() if name.startswith("benchmarks/"))])
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(text):
    for target, anchor in site.links(read(text), text):
        assert (ROOT / target).exists(), f"{target} does not exist"
        assert not anchor or anchor in headings(read(target)), f"{target} has no heading #{anchor}"


def test_every_page_has_its_place_in_the_menu_of_the_site():
    menu = set(re.findall(r"[\w/-]+\.md", read("mkdocs.yml")))
    assert menu == {name.removeprefix("docs/") for name in PAGES} | {n for n in site.also() if n.endswith(".md")}


def test_every_pointer_into_the_facts_of_2012_has_its_section():
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?) ", read("docs/facts.md"), re.M))
    pointers = 0
    for path in (one for folder in ("src", "tests", "benchmarks", "examples") for one in (ROOT / folder).rglob("*.*")):
        if path.suffix in (".py", ".toml", ".md", ".cpp", ".h") and path != Path(__file__):
            text = path.read_text("utf-8")
            assert not re.search(r"\bspec §?\d", text), f"{path} points to no document of ours"
            for numbers in re.findall(r"facts(?:\.md)?(?: §?|, )(\d[\d., ]*\d|\d)", text):
                pointers += 1
                assert set(re.split(r", ?| ", numbers)) <= sections, f"{path}: facts {numbers}"
    assert pointers > 40


def test_lists_that_a_page_repeats_are_those_of_the_code():
    assert all(f"| `{name}` | {text} |" in read("docs/reference/files.md") for name, text in run_files.MEANINGS.items())
    assert re.findall(r"^\| `--(\w+)` \|", read("docs/how-to/conversion.md"), re.M) == list(hints.MEANINGS)
    assert all(f"`{option}`" in read("docs/reference/recipes.md") for option in recipe.OPTIONS.values())


def test_every_symptom_in_quotes_is_what_the_program_says():
    sources = " ".join(path.read_text("utf-8") for path in (ROOT / "src" / "alexnet").rglob("*.py"))
    said = re.sub(r'"\s*f?"', "", sources)
    symptoms = re.findall(r'^\|[^|\n]*?"([^"\n]+)"', read("docs/how-to/trouble.md"), re.M)
    assert len(symptoms) >= 8
    for words in symptoms:
        assert words.rstrip(" …") in said, words


def test_the_readme_fits_on_three_screens_and_has_a_picture():
    assert len(read("README.md").splitlines()) <= 150
    assert re.search(r"^!\[.+\]\(docs/pictures/", read("README.md"), re.M)


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if name == language]


SNIPPETS = [
    pytest.param(snippet, id=f"{text}, {number}")
    for text in TEXTS
    if "/course/" not in text  # whose blocks need each other: test_course.py
    for number, snippet in enumerate(blocks(read(text), "python"), 1)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the snippets name: RUN, here the shipped weights, and pictures."""
    root = tmp_path_factory.mktemp("place")
    for name in ("cat.jpg", "street.jpg", "photos/cat.jpg", "photos/flower.jpg"):
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
    lines = "".join(blocks(text, ""))
    return re.findall(r"^(?:torchrun .* -m )?(alexnet \w.*?)(?:  *#.*)?$", lines, re.M)


def in_sentences(text: str) -> list[str]:
    return re.findall(r"`(?:[A-Z]+=\w+ )?(?:torchrun [^`]* -m )?(alexnet [a-z][^`]*)`", text)


@pytest.mark.parametrize("text", TEXTS)
def test_every_option_of_a_command_line_in_a_sentence_exists(text):
    for line in in_sentences(read(text)):
        _, name, *words = shlex.split(line.replace("[", "").replace("]", ""))
        command = commands.commands[name]
        known = {option for one in command.params for option in one.opts} | {"--help", "--version"}
        assert {word.partition("=")[0] for word in words if re.match(r"--\w", word)} <= known, line


@pytest.mark.parametrize("text", TEXTS)
def test_every_command_line_of_a_block_is_complete(text):
    for line in in_blocks(read(text)):
        _, name, *words = shlex.split(line)
        context = commands.commands[name].make_context(name, words, resilient_parsing=False)
        assert context.params
