"""Commands on a user's own pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alexnet.cli.base import Output, commands, json_option, shared

if TYPE_CHECKING:
    from alexnet.prediction import Prediction

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
@batch_option
@workers_option
@json_option
@shared
def predict(
    model: str, images: tuple[str, ...], topk: int, table: str | None, views: str, batch_size: int, workers: int,
    as_json: bool, device: str,
) -> int:  # fmt: skip
    """Classify pictures: the most probable classes of each, with probabilities.

    IMAGES are files, folders, patterns, tar archives, parquet files, or - for stdin: names, one a line, a tar archive
    or one picture.
    """
    from alexnet import prediction

    if table is not None:
        prediction.check_output(Path(table), prediction.TABLES)
    output = Output(as_json)
    failed: list[dict[str, str]] = []
    answers = prediction.stream(model, images, topk, batch_size, device, int(views), workers, quiet=False)

    def told() -> Iterator[Prediction]:
        for one in answers:
            if one.error is not None:
                failed.append(one.as_json())
                continue
            output.result(one.as_json())
            if table is None:
                output.say(one.file)
                for c in one.classes:
                    output.say(f"  {100 * c.probability:6.2f} %  {c.label}")
            yield one

    if table is not None:
        prediction.write_table(Path(table), told())
        output.say(f"{table}: {output.results:,} pictures")
    else:
        deque(told(), maxlen=0)
    status = output.failures(failed)
    output.end({"failed": failed}, listed=True)
    return status
