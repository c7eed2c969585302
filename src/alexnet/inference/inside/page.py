"""A look at a network as files: PNGs, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new, write_bytes
from alexnet.base.text import counted, printable
from alexnet.inference.inside import drawing, heat, maps
from alexnet.inference.inside.explained import explained
from alexnet.inference.inside.looking import Look
from alexnet.inference.inside.network_svg import network_svg
from alexnet.networks.model import AlexNet

PAGE = "look.html"
ENLARGED = 448  # pixels of a heat map's side, at least


@dataclass(frozen=True)
class PagePicture:
    """A picture of the page: its file's name without ending, its section, what it shows, and its pixels."""

    name: str
    section: str
    says: str
    pixels: np.ndarray


def drawings(look: Look) -> Iterator[PagePicture]:
    """Everything that was looked at, in the order of the page."""
    classes = look.classifier.classes
    own = printable(classes[look.class_index])
    yield PagePicture("steps", "What the network is shown", _steps(look), drawing.step_sheet(look.steps))
    for name, values in look.heat.items():
        method = heat.METHODS[name]
        drawn = drawing.enlarged(drawing.overlay(look.picture, values, method.signed), ENLARGED)
        yield PagePicture(name, f"Why {own}: {method.title}", method.says, drawn)
    if look.views is not None:
        says = "The ten views of the paper, each with the class that it votes for."
        yield PagePicture("views", "Ten views", says, drawing.view_sheet(look.views, classes))
    if look.where is not None:
        says = f"How probable {own} is at each place of the whole picture."
        yield PagePicture("where", "Where", says, drawing.where_picture(look.where, look.class_index))
    for name, weights in list(look.filters.items())[:1]:
        says = f"The filters of {name}: {' x '.join(map(str, weights.shape))}. Deeper ones show by what excites them."
        yield PagePicture("filters", "Filters", says, drawing.enlarged(drawing.filter_sheet(weights), 800))
    for name, values in look.maps.items():
        count, height, width = values.shape
        low = min(0.0, float(values.min()))
        says = f"{name}: {counted(count, 'map')} of {height} x {width}, the brightest first, black for {low:.4g} "
        says += f"and white for {values.max():.4g}" + _only(count)
        yield PagePicture(f"maps-{name}", "Maps", says, drawing.map_sheet(values, maps.brightest_first(values)))
    for name, found in look.top.items():
        rows = [drawing.captioned(_patches(one, patches.patches), 9, 96) for one, patches in found.items()]
        seen = next(iter(found.values())).pictures
        says = f"{name}: what excites its maps most among {counted(seen, 'picture')}, "
        says += "a map a row, those brightest in this picture."
        yield PagePicture(f"top-{name}", "What excites a map", says, np.concatenate(_padded(rows)))


def _patches(number: int, patches: list[maps.Patch]) -> list[tuple[np.ndarray, list[str]]]:
    return [(one.pixels, [f"map {number}: {one.value:.3g}" if place == 0 else f"{one.value:.3g}"])
            for place, one in enumerate(patches)]  # fmt: skip


def _padded(rows: list[np.ndarray]) -> list[np.ndarray]:
    width = max(row.shape[1] for row in rows)
    return [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]


def _only(count: int) -> str:
    return f"; the first {drawing.MOST_MAPS} are drawn." if count > drawing.MOST_MAPS else "."


def _steps(look: Look) -> str:
    return "; ".join(f"{one.name}: {one.says}" for one in look.steps) + "."


def new_folder(out: str | Path) -> Path:
    """The folder, to be made; a place that holds something is refused."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlexNetError(f"--out {out} exists already and is not an empty folder; give another name.")
    if not folder.exists():
        check_new("--out", folder)
    return folder


def save(folder: Path, look: Look, name: str) -> list[Path]:
    """Each picture as a PNG, the network as an SVG, and the page of all of them; the files made."""
    model, drawn = look.classifier.model, list(drawings(look))
    svg = network_svg(model.variant, model.classes, model.channels, model.input)
    files = {f"{one.name}.png": drawing.png(one.pixels) for one in drawn}
    files["network.svg"] = svg.encode()
    files[PAGE] = text(look, name, drawn, svg).encode("utf-8", "replace")
    folder.mkdir(exist_ok=True)
    for file, contents in files.items():
        write_bytes(folder / file, contents)
    return [folder / file for file in files]


def text(look: Look, name: str, drawn: list[PagePicture], svg: str) -> str:
    """The page."""
    model = look.classifier.model
    parts = [
        f"<h1>{_text(Path(name).name)}</h1>",
        f"<p>{_text(model.variant.name)}: {_text(model.variant.source)}. {_text(look.classifier.origin)}</p>",
        _answers(look),
        f"<h2>The network</h2><div class=wide>{svg}</div>{_layers(model)}",
    ]
    section = ""
    for one in drawn:
        if one.section != section:
            section = one.section
            parts.append(f"<h2>{_text(section)}</h2>")
        contents = base64.b64encode(drawing.png(one.pixels)).decode()
        parts.append(
            f'<figure><img alt="{_text(one.says)}" src="data:image/png;base64,{contents}">'
            f"<figcaption>{_text(one.says)}</figcaption></figure>"
        )
    return HEAD.format(title=_text(Path(name).name)) + "\n".join(parts) + "\n</html>\n"


def _answers(look: Look) -> str:
    rows = "".join(
        f"<tr><td>{_text(one.label)}<td>{100 * one.probability:.2f} %<td><div class=bar style='width:"
        f"{200 * one.probability:.0f}px'></div>"
        for one in look.classes
    )
    return f"<table>{rows}</table>"


def _layers(model: AlexNet) -> str:
    rows = "".join(
        f"<tr><td>{one.name}<td>{one.kernel}<td>{' x '.join(map(str, one.output))}<td class=n>{_count(one.parameters)}"
        f"<td class=n>{_count(one.macs)}<td>{html.escape(one.formula)}<td>{html.escape(one.paper)}"
        for one in explained(model)
    )
    head = "<tr><th>layer<th>kernel<th>output<th>parameters<th>multiply-adds<th>formula<th>paper §"
    return f"<details><summary>its layers</summary><div class=wide><table>{head}{rows}</table></div></details>"


def _count(value: int) -> str:
    return f"{value:,}" if value else ""


def _text(given: str) -> str:
    return html.escape(printable(given))


HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
h2 {{ margin-top: 2em }} img {{ max-width: 100%; background: white }} figure {{ margin: 1em 0 }}
figcaption {{ font-size: .9em; max-width: 75ch }} .wide {{ overflow-x: auto }}
table {{ border-collapse: collapse }} td, th {{ padding: .15em .8em; text-align: left; vertical-align: top }}
.n {{ text-align: right }} .bar {{ height: .8em; background: #3b82c4 }}
</style>
"""
