"""Commands on files of weights: convert, compare and export."""

from __future__ import annotations

from dataclasses import asdict

import click

from alexnet.cli.base import Output, commands, device_option, json_option, model_options, refuse_unused, shared


def _formats(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        from alexnet.weights.registry import listed

        click.echo(listed())
        context.exit()


@commands.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--input", "side", type=click.IntRange(1), help="Pixels, side of the crops that DST takes.")
@click.option("--preprocessing", is_flag=True, help="Put crop, mean and scale inside an .onnx, which then takes bytes.")
@click.option("--int8", "eight_bits", is_flag=True, help="Round weights to 8 bits: a quarter of a .safetensors' size.")
@model_options("source")
@click.option("--formats", is_flag=True, is_eager=True, expose_value=False, callback=_formats, help="List the formats.")
@json_option
@shared
def convert(
    source: str, target: str, side: int | None, preprocessing: bool, eight_bits: bool, as_json: bool
) -> int:  # fmt: skip
    """Write the MODEL SRC as DST, in the format that DST's ending names; --formats lists them all.

    Weights stay as they are, to the bit, but for --int8.
    """
    from alexnet.inference.conversion import convert as run_conversion

    output = Output(as_json)
    files = run_conversion(source, target, input=side, preprocessing=preprocessing, eight_bits=eight_bits)
    output.say("\n".join(f"{path}: {path.stat().st_size:,} bytes" for path in files))
    output.end({"files": [str(path) for path in files]})
    return 0


@commands.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("images", nargs=-1, metavar="[IMAGE_OR_FOLDER ...]")
@model_options("a", "b")
@json_option
@device_option
@shared
def compare(a: str, b: str, images: tuple[str, ...], as_json: bool, device: str) -> int:
    """Print the greatest difference of the MODELs A and B, layer by layer, on IMAGES or on made-up pictures."""
    from alexnet.inference import conversion

    output = Output(as_json)
    result = conversion.compare(a, b, images, device)
    output.say(conversion.comparison_table(result))
    status = output.failures(result.failed)
    output.end(asdict(result))
    return status


@commands.command()
@click.argument("model")
@click.argument("out")
@click.option("--format", "format", required=True, type=click.Choice(["onnx", "openvino", "pt2"]))
@click.option("--weights", type=click.Choice(["fp16", "w8", "int8"]), help="Smaller weights.  [default: float32]")
@click.option("--data", metavar="DATA", help="Measure the change of error on it; int8 is calibrated on it.")
@click.option("--split", help="Of --data, to measure on: train, valid, test or all.  [default: valid]")
@model_options("model")
@json_option
@shared
def export(
    model: str, out: str, format: str, weights: str | None, data: str | None, split: str | None, as_json: bool
) -> int:
    """Write MODEL with its preprocessing for another program; print size, speed and what it changes.

    OUT is a new .onnx, .xml (with a .bin beside it) or .pt2. It takes uint8 pictures (batch, stored, stored, colours)
    and gives logits and prob. fp16 stores weights in 16 bits; w8 in 8, of the fully connected layers or all; int8
    computes in 8 bits, calibrated on DATA's training pictures, but in a .pt2 is the same as w8.
    """
    from alexnet.inference.exporting import export as run_export
    from alexnet.inference.exporting import export_table

    if data is None:
        refuse_unused({"--split": split}, "--data")
    output = Output(as_json)
    result = run_export(model, out, format, weights, data, split or "valid", output.say, quiet=False)
    output.say(export_table(result))
    output.end(result.facts())
    return 0
