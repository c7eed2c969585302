"""The command that trains another model on to a user's own classes."""

from __future__ import annotations

import click

from alexnet.cli.base import (
    Output,
    commands,
    device_option,
    json_option,
    model_options,
    recipe_options,
    shared,
    weights_option,
)  # fmt: skip


@commands.command()
@click.argument("model")
@click.argument("data")
@click.option("--out", required=True, metavar="RUN", help="The run folder to make, or to go on with.")
@click.option("--recipe", show_default="finetune", metavar="finetune|probe|FILE.toml")
@recipe_options
@weights_option
@click.option("--resume", is_flag=True, help="Go on exactly where the run in RUN stopped.")
@model_options("model")
@json_option
@device_option
@shared
def finetune(
    model: str, data: str, out: str, recipe: str | None, sets: list[str], resume: bool, as_json: bool, device: str
) -> int:
    """Train MODEL on to DATA's classes: all layers, or with --recipe probe the last one on features computed once.

    Ends with RUN/report.html: learning curves, confusion matrix, the worst mistakes, and the command.
    """
    from alexnet.training.finetuning import finetune as run_finetuning

    output = Output(as_json)
    words = ["alexnet", "finetune", model, data, "--out", out, *(("--recipe", recipe) if recipe else ())]
    words += [word for one in sets for word in ("--set", one)] + ["--resume"] * resume
    result = run_finetuning(model, data, out, recipe, sets, resume, device, output.say, quiet=False, command=words)
    status = output.failures(result.failed)
    output.end(result.facts())
    return status
