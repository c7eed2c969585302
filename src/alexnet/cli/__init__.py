"""The command line: one small function a command, which parses, calls and prints. Heavy imports stand inside.

Exit status: 0 done; 1 done, but some inputs failed; 2 nothing done because of the input; 130, 143 after signals.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from alexnet.cli import data as _data  # noqa: F401, these add their commands
from alexnet.cli import finetuning as _finetuning  # noqa: F401
from alexnet.cli import pictures as _pictures  # noqa: F401
from alexnet.cli import reproduction as _reproduction  # noqa: F401
from alexnet.cli import speed as _speed  # noqa: F401
from alexnet.cli import weights as _weights  # noqa: F401
from alexnet.cli.base import Output, commands, engine_option, json_option, shared
from alexnet.errors import AlexNetError, Interrupted


def main() -> NoReturn:
    """The program: run the command on the command line and exit with its status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; every error that a user can cause is one sentence on stderr."""
    try:
        # Without standalone mode click gives back what the command returned: its exit status.
        status = commands.main(arguments, "alexnet", standalone_mode=False)
    except AlexNetError as error:
        status = _fail(str(error), error.status if isinstance(error, Interrupted) else 2)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        status = _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        status = _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    return status or 0


def _fail(message: str, status: int) -> int:
    if os.environ.get("RANK", "0") == "0":
        print(f"alexnet: {message}", file=sys.stderr, flush=True)
    return status


@commands.command()
@click.option("--out", metavar="RUN", help="The run folder to make.  [default: runs/demo, or the next that is free]")
@shared
def demo(out: str | None, device: str) -> int:
    """Train on handwritten digits, evaluate, classify: a minute on two cores, nothing to download."""
    from alexnet.demo import demo as run_demo

    run_demo(out, device, Output(False).say)
    return 0


@commands.command()
@click.argument("model", default="alexnet2012", metavar="[MODEL|VARIANT]")
@json_option
@shared
def info(model: str, as_json: bool, device: str) -> int:
    """Print a network's layers: kernel, output shape, parameters and multiply-adds."""
    from alexnet.info import describe, table

    output = Output(as_json)
    facts = describe(model)
    output.say(table(facts))
    output.end(facts.as_json())
    return 0


@commands.command()
@click.argument("data")
@click.option("--out", required=True, metavar="RUN", help="The run folder to make, or to go on with.")
@click.option("--recipe", metavar="NAME|FILE.toml", help="What to train and how.  [default: author_2012]")
@click.option("--set", "sets", multiple=True, metavar="key=value", help="Change one key of the recipe; repeatable.")
@click.option("--resume", is_flag=True, help="Go on exactly where the run in RUN stopped.")
@json_option
@shared
def train(
    data: str, out: str, recipe: str | None, sets: tuple[str, ...], resume: bool, as_json: bool, device: str
) -> int:
    """Train a network on DATA into the folder RUN; under torchrun, on as many processes as it starts."""
    from alexnet.training import train as run_training

    output = Output(as_json)
    result = run_training(data, out, recipe, sets, resume, device, output.say, quiet=False)
    status = output.failures(result.failed)
    output.end(result.facts())
    return status


@commands.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL ...")
@click.argument("data")
@click.option("--split", default="valid", show_default=True, help="train, valid or all.")
@click.option(
    "--views", default="1", type=click.Choice(["1", "9", "10"]), show_default=True, help="Crops averaged a picture."
)
@click.option("--weights", metavar="W,W", help="Of each MODEL in an ensemble.  [default: equal]")
@click.option("--fit-weights", is_flag=True, help="Find the weights with the lowest top-5 error on this split first.")
@click.option(
    "--ties",
    default="first",
    type=click.Choice(["first", "fraction"]),
    show_default=True,
    help="Who is right in a tie.",
)
@click.option("--per-class", metavar="FILE.csv", help="Also write the errors of each class.")
@click.option("--confusion", metavar="FILE.csv|.npy", help="Also write the confusion matrix.")
@engine_option
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option("--workers", default=0, type=click.IntRange(0), help="Threads that decode.  [default: one a core]")
@json_option
@shared
def evaluate(
    models: tuple[str, ...], data: str, split: str, views: str, weights: str | None, fit_weights: bool, ties: str,
    per_class: str | None, confusion: str | None, engine: str | None, batch_size: int, workers: int, as_json: bool,
    device: str,
) -> int:  # fmt: skip
    """Print MODEL's top-1 and top-5 error and loss on DATA, in float32; several MODELs are an ensemble."""
    from alexnet.evaluation import evaluate as run_evaluation

    output = Output(as_json)
    shares = None if weights is None else _numbers(weights)
    if fit_weights:
        from alexnet.ensemble import fit_weights as run_fit

        if weights is not None or len(models) < 2:
            raise AlexNetError("--fit-weights finds the weights of two MODELs or more; leave --weights out.")
        shares = run_fit(models, data, split, batch_size, workers, device, int(views), quiet=False)
        output.say(f"weights {','.join(map(str, shares))}; on another split give them with --weights")
    result = run_evaluation(
        models, data, split, batch_size, workers, device, int(views), shares, ties, output.say, False, per_class,
        confusion, engine,
    )  # fmt: skip
    top5 = "" if result.top5_error is None else f"top-5 error {100 * result.top5_error:.2f} %, "
    output.say(
        f"top-1 error {100 * result.top1_error:.2f} %, {top5}"
        f"loss {result.loss:.4f}, {result.images:,} images, {result.images_per_second:,.0f} images/s"
    )
    status = output.failures(result.failed)
    output.end({**result.facts(), **({"weights": shares} if shares else {})})
    return status


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise AlexNetError(f"--weights was given '{text}'; it takes numbers with commas, one for each MODEL.") from None


@commands.command()
@click.argument("name", required=False)
@shared
def recipes(name: str | None, device: str) -> int:
    """List the recipes, or print one as it resolves, every key with its value."""
    from alexnet import recipe

    click.echo(recipe.to_toml(recipe.resolve(name)).rstrip() if name else "\n".join(recipe.shipped()))
    return 0
