"""Commands on files of weights: convert and compare."""

from __future__ import annotations

from dataclasses import asdict

import click

from alexnet.cli.base import Output, commands, json_option, shared


@commands.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--variant", metavar="V", help="The network, where SRC does not say.")
@click.option("--mean", metavar="FILE", help="The mean that belongs to SRC: .binaryproto or .npy.")
@click.option("--input", "side", type=click.IntRange(1), help="Pixels, side of the crops that DST takes.")
@click.option("--preprocessing", is_flag=True, help="Put crop, mean and scale inside an .onnx, which then takes bytes.")
@json_option
@shared
def convert(
    source: str, target: str, variant: str | None, mean: str | None, side: int | None, preprocessing: bool,
    as_json: bool, device: str,
) -> int:  # fmt: skip
    """Write the MODEL SRC as DST: .safetensors, .pth (torchvision), .caffemodel or .onnx, without changing a weight."""
    from alexnet.conversion import convert as run_conversion

    output = Output(as_json)
    files = run_conversion(source, target, variant, mean, side, preprocessing)
    output.say("\n".join(f"{path}: {path.stat().st_size:,} bytes" for path in files))
    output.end({"files": [str(path) for path in files]})
    return 0


@commands.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("images", nargs=-1, metavar="[IMAGE_OR_FOLDER ...]")
@json_option
@shared
def compare(a: str, b: str, images: tuple[str, ...], as_json: bool, device: str) -> int:
    """Print the greatest difference of the MODELs A and B, layer by layer, on IMAGES or on made-up pictures."""
    from alexnet import conversion

    output = Output(as_json)
    result = conversion.compare(a, b, images, device)
    output.say(conversion.table(result))
    status = output.failures(result.failed)
    output.end(asdict(result))
    return status
