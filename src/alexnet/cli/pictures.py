"""Commands on a user's own pictures."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet.cli.base import Output, commands, json_option, shared


@commands.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE_OR_FOLDER ...")
@click.option("--topk", default=5, show_default=True, type=click.IntRange(1), help="Classes a picture.")
@click.option("--output", "table", metavar="FILE", help="Also write a table: .csv, .jsonl or .parquet.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1))
@json_option
@shared
def predict(
    model: str,
    images: tuple[str, ...],
    topk: int,
    table: str | None,
    batch_size: int,
    as_json: bool,
    device: str,
) -> int:
    """Classify pictures: the most probable classes of each, with probabilities."""
    from alexnet import prediction

    if table is not None:
        prediction.check_table(Path(table))
    files = prediction.find_pictures(images)
    output = Output(as_json)
    answers = prediction.predict(model, files, topk, batch_size, device, quiet=False)
    for one in answers:
        if one.error is None and table is None:
            output.say(one.file)
            for c in one.classes:
                output.say(f"  {100 * c.probability:6.2f} %  {c.label}")
    if table is not None:
        prediction.write_table(Path(table), answers)
        output.say(f"{table}: {sum(one.error is None for one in answers):,} pictures")
    facts = prediction.as_json(answers)
    status = output.failures(facts["failed"])
    output.end(facts)
    return status
