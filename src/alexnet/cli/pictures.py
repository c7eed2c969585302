"""Commands on a user's own pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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


@commands.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES ...")
@click.option("--layer", "layers", multiple=True, default=("fc7",), show_default=True, help="A layer; repeatable.")
@click.option("--output", required=True, metavar="FILE", help="A new .npy, .parquet, .h5 or .safetensors file.")
@click.option("--pool", type=click.Choice(["mean", "max"]), help="One value a map.  [default: whole maps]")
@click.option("--resume", is_flag=True, help="Go on where it stopped.")
@batch_option
@workers_option
@json_option
@shared
def features(
    model: str, images: tuple[str, ...], layers: tuple[str, ...], output: str, pool: Literal["mean", "max"] | None,
    resume: bool, batch_size: int, workers: int, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Write what layers make of pictures: fc7 is before its ReLU, relu7 after it; several layers in one pass.

    A row a readable picture, in order. Parquet and HDF5 hold filename and a column or data set a layer; .npy and
    .safetensors have the names, one a line, in FILE.filenames.txt beside them.
    """
    from alexnet import feature_files
    from alexnet.checkpoint import load
    from alexnet.data.sources import Sources
    from alexnet.device import choose_device

    out = Output(as_json)
    feature_files.check_output(Path(output), len(set(layers)))
    classifier = load(model, choose_device(device))
    result = feature_files.write_features(
        classifier, Sources(images), layers, Path(output), pool, batch_size, workers, resume, quiet=False
    )
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in result.layers.items())
    out.say(f"{output}: {result.pictures:,} pictures, {shapes}")
    status = out.failures(result.failed)
    out.end(asdict(result))
    return status
