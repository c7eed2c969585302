"""Commands on a user's own pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from alexnet.base.text import counted, printable
from alexnet.cli import moving as films
from alexnet.cli.base import (
    Output,
    by_one_process,
    commands,
    device_option,
    engine_option,
    json_option,
    model_options,
    resume_option,
    shared,
    weights_option,
)  # fmt: skip

if TYPE_CHECKING:
    from alexnet.inference.prediction import Prediction

views_option = click.option(
    "--views", default="1", type=click.Choice(["1", "10"]), show_default=True, help="Crops averaged a picture."
)
batch_option = click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1))
workers_option = click.option(
    "--workers", default=0, type=click.IntRange(0), help="Threads that decode.  [default: one a core]"
)


@commands.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES ...")
@click.option("--topk", default=5, show_default=True, type=click.IntRange(1), help="Classes a picture.")
@click.option("--output", "table", metavar="FILE", help="Also write a table: .csv, .jsonl or .parquet.")
@views_option
@films.moving_options
@engine_option
@batch_option
@workers_option
@resume_option
@weights_option
@model_options("model")
@json_option
@device_option
@shared
def predict(
    model: str, images: tuple[str, ...], topk: int, table: str | None, views: str, engine: str | None, batch_size: int,
    workers: int, moving: films.Moving, resume: bool, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Classify pictures: the most probable classes of each, with probabilities.

    IMAGES are files, folders, patterns, tar archives, parquet files, or - for stdin: names, one a line, a tar archive
    or one picture. Or they are moving pictures: videos, camera:0, rtsp://…, or with an option of those a folder of
    frames; then each frame has its classes, and the same smoothed over time.
    """
    from alexnet.base import tables
    from alexnet.base.distributed import process_group
    from alexnet.base.files import check_new
    from alexnet.data.sources import Sources
    from alexnet.engines.loading import device_for
    from alexnet.inference import prediction

    output = Output(as_json)
    if films.asked(images, moving, {"--resume": resume, "--workers": workers}):
        by_one_process("moving pictures are classified")
        return films.predict(model, device, engine, images, moving, topk, table, int(views), batch_size, output)
    failed: list[dict[str, str]] = []
    with process_group(device_for(engine, device)) as world:
        with world.together():
            if table is not None and world.first:
                check_new("--output", Path(table), tables.WRITERS)
            sources = Sources(images)
        quiet = not world.first
        answers = prediction.stream(
            model, sources, topk, batch_size, device, int(views), workers, quiet, engine, output.say, world, resume
        )
        told = _told(answers, output, failed, in_words=table is None)
        first = list(islice(told, 1))
        if table is not None and world.first and (first or not failed):  # no table of nothing stands in the way then
            prediction.write_table(Path(table), chain(first, told))
            output.say(f"{table}: {counted(output.results, 'picture')}")
        else:
            deque(told, maxlen=0)
        passed = output.passed(sources)
        status = world.of_first(output.answered(failed))
        output.end({"failed": failed, **passed}, listed=True)
        return status


def _told(
    answers: Iterator[Prediction], output: Output, failed: list[dict[str, str]], in_words: bool
) -> Iterator[Prediction]:
    """The answers, each put out as it passes; pictures that could not be read join `failed` instead."""
    for one in answers:
        if one.error is not None:
            failed.append(one.as_json())
            continue
        output.result(one.as_json())
        if in_words:
            output.say(printable(one.file))
            for c in one.classes:
                output.say(f"  {100 * c.probability:6.2f} %  {printable(c.label)}")
        yield one


@commands.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES ...")
@click.option("--layer", "layers", multiple=True, default=("fc7",), show_default=True, help="A layer; repeatable.")
@click.option("--output", required=True, metavar="FILE", help="A new .npy, .parquet, .h5 or .safetensors file.")
@click.option("--pool", type=click.Choice(["mean", "max"]), help="One value a map.  [default: whole maps]")
@click.option("--resume", is_flag=True, help="Go on where it stopped.")
@batch_option
@workers_option
@weights_option
@model_options("model")
@json_option
@device_option
@shared
def features(
    model: str, images: tuple[str, ...], layers: tuple[str, ...], output: str, pool: Literal["mean", "max"] | None,
    resume: bool, batch_size: int, workers: int, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Write what layers make of pictures: fc7 is before its ReLU, relu7 after it; several layers in one pass.

    A row a readable picture, in order. Parquet and HDF5 hold filename and a column or data set a layer; the
    names of F.npy and F.safetensors are in F.filenames.txt beside it, one a line.
    """
    from alexnet.base.distributed import process_group
    from alexnet.data.sources import Sources
    from alexnet.engines.loading import load_classifier
    from alexnet.inference import feature_files

    out = Output(as_json)
    with process_group(device) as world:
        with world.together():
            if world.first:
                feature_files.check_features_file(Path(output), len(set(layers)), resume)
            classifier = load_classifier(model, world.device)
            sources = Sources(images)
        result = feature_files.write_features(
            classifier, sources, layers, Path(output), pool, batch_size, workers, resume, not world.first, world
        )
        shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in result.layers.items())
        out.say(f"{output}: {counted(result.pictures, 'picture')}, {shapes}")
        passed = out.passed(sources)
        status = world.of_first(out.failures(result.failed))
        out.end({**asdict(result), **passed})
        return status


@commands.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES ...")
@click.argument("index")
@click.option("--layer", default="fc7", show_default=True, help="The layer whose features are compared.")
@click.option("--resume", is_flag=True, help="Go on where it stopped.")
@batch_option
@workers_option
@weights_option
@model_options("model")
@json_option
@device_option
@shared
def index(
    model: str, images: tuple[str, ...], index: str, layer: str, resume: bool, batch_size: int, workers: int,
    as_json: bool, device: str,
) -> int:  # fmt: skip
    """Make INDEX, a new folder with the features of pictures, for alexnet similar."""
    from alexnet.base.distributed import process_group
    from alexnet.data.sources import Sources
    from alexnet.inference.similarity import build_index

    output = Output(as_json)
    with process_group(device) as world:
        with world.together():
            sources = Sources(images, absolute=True)
        made, failed = build_index(
            model, sources, index, layer, batch_size, device, workers, resume, not world.first, world
        )
        status = world.of_first(1 if failed else 0)
        if world.first:
            output.say(f"{index}: {counted(len(made), 'picture')} by {layer}; next: alexnet similar {index} PICTURE")
            passed = output.passed(sources)
            output.failures(failed)
            output.end({"index": index, "layer": layer, "pictures": len(made), "failed": failed, **passed})
        return status


@commands.command()
@click.argument("index")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE ...")
@click.option("--count", default=5, show_default=True, type=click.IntRange(1), help="Neighbours a picture.")
@click.option("--distance", type=click.Choice(["euclidean", "cosine"]), default="euclidean", show_default=True)
@click.option("--model", metavar="MODEL", help="Where the index's model is now.  [default: where it was]")
@click.option("--not-itself", is_flag=True, help="Leave the IMAGE itself out, where INDEX has its file.")
@click.option("--output", metavar="FILE", help="Contact sheet, .png or .jpg.  [default: similar.png, or a free name]")
@json_option
@device_option
@shared
def similar(
    index: str, images: tuple[str, ...], count: int, distance: Literal["euclidean", "cosine"], model: str | None,
    not_itself: bool, output: str | None, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Print the pictures of INDEX that are nearest to each IMAGE, and write a contact sheet.

    40 queries fit on a sheet; further ones are on FILE-page2 and so on.
    """
    from alexnet.base import tables
    from alexnet.base.files import check_new
    from alexnet.data.sources import Sources
    from alexnet.inference import contact_sheet, similarity

    sheet = Path(output) if output else _free("similar.png")
    for path in contact_sheet.pages(sheet) or [sheet]:
        check_new("--output", path, contact_sheet.FORMATS)
    out = Output(as_json)
    opened = similarity.open_index(index)
    pages = contact_sheet.Pages(sheet, images, opened.images)
    failed, most, across = list[dict[str, str]](), 0, contact_sheet.ACROSS
    sources = Sources(images)
    answers = similarity.similar(
        opened, sources, count, distance, model, device=device, quiet=False, not_itself=not_itself
    )
    for one in answers:
        if one.error is not None:
            failed.append({"file": one.file, "error": one.error})
            continue
        pages.add(one)
        most = max(most, len(one.neighbours))
        near = [{"file": n.file, "distance": tables.seven(n.distance)} for n in one.neighbours]
        out.result({"file": one.file, "neighbours": near})
        out.say(printable(one.file))
        for neighbour in one.neighbours:
            out.say(f"  {neighbour.distance:10.4g}  {printable(neighbour.file)}")
    pages.write()
    if pages.files:
        more = f" and {len(pages.files) - 1} further pages" if pages.files[1:] else ""
        few = f"; the nearest {across} of {most:,} are shown" if most > across else ""
        out.say(f"{sheet}{more}: a contact sheet of {counted(out.results, 'picture')} and their neighbours{few}")
    passed = out.passed(sources)
    status = out.answered(failed)
    sheets = {"sheet": pages.files[0] if pages.files else None, "sheets": pages.files}
    out.end({**sheets, "failed": failed, **passed}, listed=True)
    return status


def _free(name: str) -> Path:
    """The name, or the first of its kind that is free: similar.png, similar-2.png …"""
    from alexnet.inference.contact_sheet import pages

    path, number = Path(name), 2
    while pages(path):
        path, number = Path(name).with_stem(f"{Path(name).stem}-{number}"), number + 1
    return path
