"""What the site makes of the pages: reference from the code in place of `<!-- made: NAME -->`, and links out of docs/.

mkdocs calls the `on_` functions; the tests call `made` and `links`, which need no mkdocs.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Files beside docs/ that are pages or pictures of the site too.
ALSO = ("CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "benchmarks/*.md", "results/*/*.png")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def commands() -> str:
    """Every command's help, as the terminal shows it."""
    import click

    from alexnet.cli import commands as group

    parts = []
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=f"alexnet {name}", max_content_width=78, terminal_width=78)
        parts.append(f"## alexnet {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def recipes() -> str:
    """The shipped recipes, and every key with the author's value."""
    from alexnet.training import recipe

    parts = ["## The recipes\n", "| recipe | what it is |", "| --- | --- |"]
    parts += [f"| `{name}` | {recipe.about(name)} |" for name in recipe.shipped()]
    parts += ["\n## The keys\n", "| key | 2012 | what it means | takes |", "| --- | --- | --- | --- |"]
    values = dict(line.split(" = ", 1) for line in recipe.to_toml(recipe.resolve()).splitlines())
    parts += [
        f"| `{name}` | `{value}` | {recipe.KEYS[name].meaning} | {recipe.accepted_values(name)} |"
        for name, value in values.items()
    ]
    return "\n".join(parts) + "\n"


def networks() -> str:
    """Every variant with its source and size."""
    from alexnet.networks.shapes import layer_facts
    from alexnet.networks.variants import VARIANTS

    parts = ["| variant | what it is | input | parameters | multiply-adds |", "| --- | --- | --- | --- | --- |"]
    for name, one in VARIANTS.items():
        layers = layer_facts(one, one.classes, 3, one.input)
        size, work = sum(x.parameters for x in layers), sum(x.macs for x in layers)
        parts.append(f"| `{name}` | {one.source} | {one.input} | {size:,} | {work:,} |")
    return "\n".join(parts) + "\n"


def modules() -> str:
    """The package's folders and the first sentence of each module."""
    package = ROOT / "src" / "alexnet"
    parts = []
    for folder in sorted({path.parent for path in package.rglob("*.py")}, key=lambda path: path.parts):
        rows = [(path.name, _summary(path)) for path in sorted(folder.glob("*.py"))]
        rows = [(name, text) for name, text in rows if text]
        if rows:
            title = folder.relative_to(ROOT / "src").as_posix()
            parts += [f"## {title}\n", "| module | what lives there |", "| --- | --- |"]
            parts += [f"| `{name}` | {text} |" for name, text in rows] + [""]
    return "\n".join(parts)


def python() -> str:
    """The public names, each documented by mkdocstrings."""
    import alexnet

    more = ("inference.loaded.Loaded", "networks.model.AlexNet", "networks.fast.plain")
    doors = ("backbone.Backbone", "backbone.dense", "backbone.whole_picture", "hub.AlexNet")
    return "\n".join(f"::: alexnet.{name}\n" for name in (*alexnet.__all__, *more, *doors))


MADE: dict[str, Callable[[], str]] = {one.__name__: one for one in (commands, recipes, networks, modules, python)}


def made(text: str) -> str:
    """A page with what is made in its place."""
    return re.sub(r"<!-- made: (\w+) -->", lambda found: MADE[found[1]](), text)


def links(text: str, page: str) -> Iterator[tuple[str, str]]:
    """The files (from the repository's root) and anchors that a page, by its path there, links to."""
    for _, _, target, anchor in LINK.findall(_without_code(text)):
        if not re.match(r"\w+:", target):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) if target else page, anchor[1:]


def also() -> list[str]:
    """The files beside docs/ that belong to the site."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in ALSO for path in ROOT.glob(pattern))


def on_files(files: Any, config: Any) -> Any:
    """Add the files beside docs/."""
    from mkdocs.structure.files import File

    for path in also():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Make what is made, and let links lead where the site has the file; to files that it lacks they are words."""
    here = page.file.src_uri
    root = here if here in also() else f"docs/{here}"

    def link(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        if not target or re.match(r"\w+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(root), target))
        inside = path.removeprefix("docs/")
        if path == "README.md":
            inside = "index.md"
        if files.get_file_from_path(inside) is None and (ROOT / path).exists():
            return words
        return f"{picture}[{words}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{anchor or ''})"

    return made(re.sub(LINK, link, markdown))


def _summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
