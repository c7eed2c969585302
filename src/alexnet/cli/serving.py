"""The command that serves: a page in the browser, and answers to programs."""

from __future__ import annotations

import click

from alexnet.base.errors import AlexNetError
from alexnet.cli.base import (
    Number,
    Output,
    commands,
    device_option,
    engine_option,
    json_option,
    model_options,
    shared,
    which_option,
)  # fmt: skip

PORT = 8012


@commands.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL ...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is every network.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.option("--index", "indexes", multiple=True, metavar="INDEX", help="For Near and /similar; repeatable.")
@click.option("--pictures", metavar="FOLDER", help="Where to look for what excites a map most.")
@click.option("--data", metavar="DATA", help="What a run's network is evaluated on, to show its mistakes.")
@click.option(
    "--token", envvar="ALEXNET_TOKEN", metavar="WORD", help="The word that requests must carry.  [or in $ALEXNET_TOKEN]"
)
@click.option("--urls", multiple=True, metavar="ADDRESS", help="Below which pictures may be fetched; repeatable.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Pictures computed at once.")
@click.option(
    "--delay", default=5.0, show_default=True, type=Number(0, 10_000), metavar="MS",
    help="Milliseconds that a picture waits for others.",
)  # fmt: skip
@click.option("--max-bytes", default=16 << 20, show_default=True, type=click.IntRange(1), help="Of a request.")
@click.option("--max-pixels", default=50_000_000, show_default=True, type=click.IntRange(1), help="Of a picture.")
@click.option(
    "--timeout", default=30.0, show_default=True, type=Number(0.1), metavar="SECONDS",
    help="For an upload to come, and for its answer.",
)  # fmt: skip
@click.option("--queue", default=256, show_default=True, type=click.IntRange(1), help="Pictures that may wait.")
@engine_option
@which_option
@model_options("models")
@json_option
@device_option
@shared
def serve(
    models: tuple[str, ...], host: str, port: int, opens: bool, indexes: tuple[str, ...], pictures: str | None,
    data: str | None, token: str | None, urls: tuple[str, ...], batch_size: int, delay: float, max_bytes: int,
    max_pixels: int, timeout: float, queue: int, engine: str | None, weights: str | None, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Show MODELs on a page in the browser, and answer programs: POST /predict, /features, /similar; /docs says all.

    It listens to this machine alone unless --host says otherwise. When it is told to stop (Ctrl-C), what has been asked
    is answered still.
    """
    from alexnet.engines.loading import chosen
    from alexnet.serving.limits import Limits
    from alexnet.serving.starting import Asked, serve_models

    output = Output(as_json)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise AlexNetError("--token takes one word of plain letters, figures and signs.")
    limits = Limits(max_bytes, max_pixels, timeout, queue)
    paths = [chosen(model, weights) for model in models]
    asked = Asked(
        paths, host, port, opens, indexes, pictures, data, token, urls, batch_size, delay / 1000, limits, engine, device
    )
    serve_models(asked, output.say, output.end)
    return 0
