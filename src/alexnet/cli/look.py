"""The command that shows what is inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted, printable
from alexnet.cli.base import (
    Output,
    commands,
    device_option,
    json_option,
    model_options,
    refuse_unused,
    shared,
    weights_option,
)  # fmt: skip

if TYPE_CHECKING:
    from alexnet.weights.classifier import Classifier

FIGURES = ("fig3", "fig4")


@commands.command()
@click.argument("model")
@click.argument("images", nargs=-1, metavar="[IMAGE]")
@click.option("--out", required=True, metavar="DIR", help="A new folder for the pictures and look.html.")
@click.option(
    "--what", metavar="A,B", help="Any of filters, maps, cam, occlusion, gradient, views, where, top, fig3, fig4.  "
    "[default: filters,maps,cam,occlusion,views; top with --pictures]",
)  # fmt: skip
@click.option("--layer", "layers", multiple=True, help="Of maps and top: a layer; repeatable.  [default: all]")
@click.option("--class", "of", metavar="NAME|INDEX", help="Of cam, occlusion, gradient, where.  [default: the first]")
@click.option("--pictures", metavar="FOLDER", help="Of top: where to find what excites a map most.")
@click.option("--index", metavar="INDEX", help="Of fig4: what alexnet index has made, for the nearest neighbours.")
@weights_option
@model_options("model")
@json_option
@device_option
@shared
def look(
    model: str, images: tuple[str, ...], out: str, what: str | None, layers: tuple[str, ...], of: str | None,
    pictures: str | None, index: str | None, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Draw what MODEL makes of a picture: filters, maps of every layer, evidence for a class, ten views.

    Each as a PNG in DIR, and all of them in DIR/look.html, one file that needs nothing else. fig3 and fig4 are those of
    the paper: conv1's filters, which needs no IMAGE, and any number of IMAGEs with their classes and neighbours.
    """
    from alexnet.base.device import choose_device
    from alexnet.engines.loading import load_classifier
    from alexnet.inference.inside import looking, page

    output = Output(as_json)
    chosen = [word.strip() for word in what.split(",")] if what else [*looking.USUAL, *["top"] * bool(pictures)]
    looking.check_what(chosen, (*looking.WHAT, *FIGURES))
    inside = [name for name in chosen if name not in FIGURES]
    _check(inside, chosen, images, pictures)
    for option, (given, names) in {
        "--pictures": (pictures, ["top"]), "--index": (index, ["fig4"]), "--layer": (layers, ["maps", "top"]),
        "--class": (of, ["cam", "occlusion", "gradient", "where"]),
    }.items():  # fmt: skip
        if not set(names) & set(chosen):
            refuse_unused({option: given}, " or ".join(names), " to --what")
    folder = page.new_folder(out)
    classifier = load_classifier(model, choose_device(device))
    files, facts, failed = [], {}, []
    if inside:
        found = looking.look(classifier, images[0], inside, layers or None, of, pictures, quiet=False)
        files += page.save(folder, found, images[0])
        facts = {"classes": [one.as_json() for one in found.classes], "class": classifier.classes[found.class_index]}
        failed = found.failed
        output.say(f"{folder / page.PAGE}: {printable(found.says)}")
    files += _figures(classifier, chosen, images, index, folder, output.say)
    output.say(f"{counted(len(files), 'file')} in {folder}")
    status = output.failures(failed)
    output.end({"files": [str(file) for file in files], **facts, "failed": failed})
    return status


def _check(inside: list[str], chosen: list[str], images: tuple[str, ...], pictures: str | None) -> None:
    """Refuse what lacks something."""
    if inside and len(images) != 1:
        raise AlexNetError(
            f"{', '.join(inside)} were asked of {len(images)} IMAGEs; give one (fig3 needs none, fig4 takes several)."
        )
    if "fig4" in chosen and not images:
        raise AlexNetError("fig4 shows pictures and their classes; give one IMAGE or more.")
    if "fig4" in chosen and "-" in images:
        raise AlexNetError("fig4 reads its pictures more than once, and - can be read but once; give files.")
    if "top" in inside and pictures is None:
        raise AlexNetError("top shows patches of other pictures; name them with --pictures FOLDER.")


def _figures(
    classifier: Classifier, chosen: list[str], images: tuple[str, ...], index: str | None, folder: Path,
    say: Callable[[str], object],
) -> list[Path]:  # fmt: skip
    """fig3.png and fig4.png, as far as they were asked for."""
    from alexnet.base.files import write_bytes
    from alexnet.inference.inside import drawing, figures
    from alexnet.inference.similarity import open_index

    made = []
    for name in FIGURES:
        if name not in chosen:
            continue
        if name == "fig3":
            drawn = figures.figure3(classifier)
        else:
            drawn = figures.figure4(classifier, images, open_index(index) if index else None, say)
            if index is None:
                say("fig4: without its right half, nearest neighbours, as no --index INDEX was given")
        contents = drawing.png(drawn)
        folder.mkdir(exist_ok=True)
        made.append(folder / f"{name}.png")
        write_bytes(made[-1], contents)
    return made
