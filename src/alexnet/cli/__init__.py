"""The command line: one small function a command, which parses, calls and prints. Heavy imports stand inside.

Exit status: 0 done; 1 done, but some inputs failed; 2 nothing done because of the input; 130, 143 after signals.
"""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import click

from alexnet.base.errors import Agreed, AlexNetError, Lost, is_busy, is_out_of_memory, lacks_kernels, told_of_memory
from alexnet.base.files import one_writer
from alexnet.base.speaking import told
from alexnet.base.text import counted
from alexnet.cli.base import (
    Output,
    ReaderGone,
    commands,
    device_option,
    engine_option,
    held_out_options,
    json_option,
    model_options,
    recipe_options,
    resume_option,
    shared,
)  # fmt: skip
from alexnet.networks.traffic import WAYS

if TYPE_CHECKING:
    from alexnet.data.held_out import HeldOut

for _one in pkgutil.iter_modules(__path__):  # the files of this folder add their commands
    importlib.import_module(f"{__name__}.{_one.name}")


def main() -> NoReturn:
    """The program: run the command on the command line and exit with its status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, print would take stdout where there is none
    if sys.stdout is None:
        sys.exit(_fail("there is no output to write to; leave out >&-, or send it to /dev/null.", 2))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that it cannot encode keep their bytes, or are escaped
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    status = run()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to processes that are at their end already
    sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; every error that a user can cause is one sentence on stderr."""
    try:
        # Without standalone mode click gives back what the command returned: its exit status.
        with one_writer():
            status = commands.main(arguments, "alexnet", standalone_mode=False)
    except AlexNetError as error:
        status = _fail(str(error), getattr(error, "status", 2), isinstance(error, Agreed), isinstance(error, Lost))
    except click.ClickException as error:
        usage = f"{error.ctx.get_usage()}\n" if isinstance(error, click.UsageError) and error.ctx else ""
        status = _fail(error.format_message(), 2, usage=usage)
    except (KeyboardInterrupt, click.Abort):
        status = _fail("stopped", 130, agreed=True)
    except (BrokenPipeError, ReaderGone):
        _drop_output()
        status = 0
    except OSError as error:
        status = _fail(_denied(error), 2)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            told = "there is too little memory for this; give a smaller batch size, input or data set."
            told = told_of_memory(error) + told
        elif lacks_kernels(error):
            told = "torch was built without kernels for this GPU; install a torch that fits it, or give --device cpu."
        elif is_busy(error):
            told = "the GPU is in use by another program that has it alone; wait for it, or give another --device."
        else:
            raise
        status = _fail(told, 2)
    return status or 0


def _denied(error: OSError) -> str:
    """What the system refused, in one sentence."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.filename:
        return f"cannot use {error.filename} ({reason}); see to it, or give another."
    _drop_output()
    return f"cannot write the output ({reason}); free space, or send it elsewhere."


def _drop_output() -> None:
    """Let nothing more be written to stdout, where the end of the program would try once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int, agreed: bool = False, lost: bool = False, usage: str = "") -> int:
    if said := told(message, agreed, lost):
        with suppress(OSError):  # stderr may be full too
            print(f"{usage}alexnet: {said}", file=sys.stderr, flush=True)
    return status


@commands.command()
@click.option("--out", metavar="RUN", help="The run folder to make.  [default: runs/demo, or the next that is free]")
@device_option
@shared
def demo(out: str | None, device: str) -> int:
    """Train on handwritten digits, evaluate, classify: a minute on two cores, nothing to download."""
    from alexnet.training.demo import demo as run_demo

    run_demo(out, device, Output(False).say)
    return 0


@commands.command()
@click.argument("model", default="alexnet2012", metavar="[MODEL|VARIANT]")
@click.option("--parallel", "way", type=click.Choice(WAYS), help="Instead, what processes that train it together send.")
@click.option("--processes", type=click.IntRange(2), help="With --parallel.  [default: 8; of towers, 2]")
@model_options("model")
@json_option
@shared
def info(model: str, way: str | None, processes: int | None, as_json: bool) -> int:
    """Print a network's layers: kernel, output shape, parameters and multiply-adds."""
    from alexnet.inference import talk
    from alexnet.inference.info import info_table, network_info

    output = Output(as_json)
    facts = network_info(model)
    found = facts.as_json()
    if way or processes:
        talking = talk.communication(facts, way or "data", processes or 0)
        found["parallel"] = talking.facts
    output.say(talking.text if way or processes else info_table(facts))
    output.end(found)
    return 0


@commands.command()
@click.argument("data")
@click.option("--out", required=True, metavar="RUN", help="The run folder to make, or to go on with.")
@click.option("--recipe", metavar="NAME|FILE.toml", help="What to train and how.  [default: author_2012]")
@recipe_options
@click.option(
    "--weights", type=click.Choice(["best", "last"]),
    help="With --set weights=RUN: start from its best epoch's weights, or its last.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on exactly where the run in RUN stopped.")
@json_option
@device_option
@shared
def train(
    data: str, out: str, recipe: str | None, sets: list[str], weights: str | None, resume: bool, as_json: bool,
    device: str,
) -> int:  # fmt: skip
    """Train a network on DATA into the folder RUN; under torchrun, on as many processes as it starts."""
    from alexnet.training.loop import train as run_training

    output = Output(as_json)
    if weights:
        sets = [*sets, f"weights={_start(recipe, sets, weights)}"]
    result = run_training(data, out, recipe, sets, resume, device, output.say, quiet=False)
    status = output.failures(result.failed)
    output.end(result.facts())
    return status


def _start(recipe: str | None, sets: list[str], weights: str) -> str:
    """The `best` or `last` weights of the run that the recipe starts from."""
    from alexnet.engines.loading import chosen
    from alexnet.training import recipe as recipes

    start = recipes.resolve("author_2012" if recipe is None else recipe, sets).weights
    if not start:
        raise AlexNetError(
            f"--weights {weights} chooses among the weights of a run to start from; name it with --set weights=RUN."
        )
    return chosen(start, weights)


@commands.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL ...")
@click.argument("data")
@click.option("--split", default="valid", show_default=True, help="train, valid, test, or all: DATA as a whole.")
@held_out_options
@click.option(
    "--views", default="1", type=click.Choice(["1", "9", "10"]), show_default=True, help="Crops averaged a picture."
)
@click.option(
    "--weights",
    "chosen",
    multiple=True,
    metavar="best|last|W,W",
    help="Of run folders, those of the best epoch or the last; W,W: how much each MODEL of an ensemble counts.",
)
@click.option("--fit-weights", is_flag=True, help="First find the weights with the lowest top-5 error on this split.")
@click.option(
    "--ties",
    default="first",
    type=click.Choice(["first", "fraction"]),
    show_default=True,
    help="Whether tied scores go to the first class or are shared.",
)
@click.option("--pictures", metavar="FILE", help="Also write each picture's answers: .csv, .jsonl or .parquet.")
@click.option("--per-class", metavar="FILE", help="Also write figures of each class: .csv, .jsonl or .parquet.")
@click.option("--confusion", metavar="FILE", help="Also write the confusion matrix: .csv, .npy or, drawn, .png.")
@engine_option
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option("--workers", default=0, type=click.IntRange(0), help="Threads that decode.  [default: one a core]")
@resume_option
@model_options("models")
@json_option
@device_option
@shared
def evaluate(
    models: tuple[str, ...], data: str, split: str, held: HeldOut | None, views: str, chosen: tuple[str, ...],
    fit_weights: bool, ties: str, pictures: str | None, per_class: str | None, confusion: str | None,
    engine: str | None, batch_size: int, workers: int, resume: bool, as_json: bool, device: str,
) -> int:  # fmt: skip
    """Print MODEL's top-1 and top-5 error and loss on DATA, in float32; several MODELs are an ensemble.

    What is held out of DATA is what the training of MODEL held out of it, or what --valid or --folds say.
    """
    from alexnet.engines import loading
    from alexnet.inference.evaluation import evaluate as run_evaluation

    output = Output(as_json)
    named = [text for text in chosen if text in ("best", "last")]
    numbers = [text for text in chosen if text not in named]
    for several in (named, numbers):
        if len(several) > 1:
            raise AlexNetError(f"--weights was given {several[0]} and {several[1]}, and one of them counts; give that.")
    for which in named:
        models = tuple(loading.chosen(model, which) for model in models)
    shares = _numbers(numbers[0]) if numbers else None
    if fit_weights:
        from alexnet.inference.confusion import check_outputs
        from alexnet.inference.ensemble import fit_weights as run_fit

        if numbers or len(models) < 2:
            raise AlexNetError("--fit-weights finds the weights of two MODELs or more; leave --weights out.")
        check_outputs(per_class, confusion, pictures)
        shares = run_fit(
            models, data, split, batch_size, workers, device, int(views), quiet=False, held=held, engine=engine
        )
        output.say(f"weights {','.join(map(str, shares))}; on another split give them with --weights")
    result = run_evaluation(
        models, data, split, batch_size=batch_size, workers=workers, device=device, views=int(views), weights=shares,
        ties=ties, say=output.say, quiet=False, per_class=per_class, confusion=confusion, engine=engine, held=held,
        table=pictures, resume=resume,
    )  # fmt: skip
    top5 = "" if result.top5_error is None else f"top-5 error {100 * result.top5_error:.2f} %, "
    output.say(
        f"top-1 error {100 * result.top1_error:.2f} %, {top5}"
        f"loss {result.loss:.4f}, {counted(result.images, 'image')}, {result.images_per_second:,.0f} images/s"
    )
    status = output.failures(result.failed)
    output.end({**result.facts(), **({"weights": shares} if shares else {})})
    return status


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise AlexNetError(
            f"--weights was given '{text}'; it takes best, last, or numbers with commas, one for each MODEL."
        ) from None


@commands.command()
@click.argument("name", required=False)
@click.option("--keys", is_flag=True, help="List every key with its value, what it takes and what it means.")
@shared
def recipes(name: str | None, keys: bool) -> int:
    """List the recipes, or print one as it resolves, every key with its value."""
    from alexnet.training import recipe

    if keys:
        click.echo(recipe.keys_table(recipe.resolve(name or "author_2012")))
    elif name:
        click.echo(recipe.to_toml(recipe.resolve(name)).rstrip())
    else:
        click.echo("\n".join(f"{one:<14} {recipe.about(one)}" for one in recipe.shipped()))
    return 0
