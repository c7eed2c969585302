"""Commands on data sets: check, pack."""

from __future__ import annotations

import click

from alexnet.base.hints import SQUARES
from alexnet.base.text import counted
from alexnet.cli.base import Output, commands, json_option, processes, refuse_unused, resume_option, shared


@commands.command()
@click.argument("data")
@click.option("--full", is_flag=True, help="Decode every picture and compare all of them; else a sample.")
@click.option("--quick", is_flag=True, help="Do not read the whole of a pack to verify its checksums.")
@click.option("--workers", default=0, type=click.IntRange(0), help="Threads that decode.  [default: one a core]")
@resume_option
@json_option
@shared
def check(data: str, full: bool, quick: bool, workers: int, resume: bool, as_json: bool) -> int:
    """Say what DATA is and what in it is broken or odd; exit status 1 where something is broken."""
    from alexnet.data import checking, problems

    output = Output(as_json)
    with processes(resume) as world:
        report = checking.check(data, full, quick, workers, not output.first, world, resume)
        for line in problems.text(report) if output.first else ():
            output.say(line)
        output.end(report.facts())
        status = 1 if report.broken else 0
        return world.of_first(status) if world else status


@commands.command()
@click.argument("data")
@click.argument("out", metavar="PACK")
@click.option("--size", default=256, show_default=True, type=click.IntRange(1, 4096), help="Pixels, side of a picture.")
@click.option("--square", type=click.Choice(SQUARES), help="How a picture becomes a square.  [default: crop]")
@click.option("--encoding", default="raw", type=click.Choice(["raw", "jpeg"]), show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), help="Of --encoding jpeg.  [default: 85]")
@click.option("--workers", default=0, type=click.IntRange(0), help="Threads that decode.  [default: one a core]")
@json_option
@shared
def pack(
    data: str, out: str, size: int, square: str | None, encoding: str, quality: int | None, workers: int, as_json: bool
) -> int:
    """Decode DATA once into the folder PACK, which can be given wherever DATA can; interrupted, it goes on.

    Under torchrun all processes decode; those that do not see the first one's PACK send it their files.
    """
    from alexnet.data.packs.writing import QUALITY
    from alexnet.data.packs.writing import pack as run_packing

    if encoding != "jpeg":
        refuse_unused({"--quality": quality}, "--encoding jpeg")
    output = Output(as_json)
    with processes() as world:
        quiet = not output.first
        result = run_packing(data, out, size, encoding, quality or QUALITY, workers, output.say, quiet, square, world)
        counts = ", ".join(f"{name} {counted(count, 'picture')}" for name, count in result.pictures.items())
        output.say(f"{out}: {counts}, {result.bytes / 1e9:,.2f} GB, {result.images_per_second:,.0f} images/s")
        status = output.failures(result.failed)
        output.end({**result.facts(), "failed": result.failed})
        return world.of_first(status) if world else status
