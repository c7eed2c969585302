"""What every command shares: the group, its options, and where a command prints."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any

import click

from alexnet import __version__
from alexnet.engines import ENGINES

DEVICES = ("auto", "cpu", "cuda", "mps")
SHOWN_FAILURES = 20
SPOOL = 1 << 24  # bytes of results that are kept in memory


class Output:
    """Where a command prints: with --json people's lines go to stderr and one object ends stdout."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.first = os.environ.get("RANK", "0") == "0"
        self.results = 0
        self._spool: IO[str] | None = None

    def say(self, text: str = "") -> None:
        """A line for people."""
        if self.first:
            print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def result(self, facts: dict[str, Any]) -> None:
        """One more entry of the object's list `results`, which may be longer than memory: it waits in a file."""
        self.results += 1
        if self.as_json and self.first:
            if self._spool is None:
                self._spool = tempfile.SpooledTemporaryFile(SPOOL, "w+", encoding="utf-8")  # noqa: SIM115, end closes it
            self._spool.write((", " if self.results > 1 else "") + json.dumps(facts))

    def end(self, facts: dict[str, Any], listed: bool = False) -> None:
        """The object for programs; `listed` puts the results before the facts."""
        if not (self.as_json and self.first):
            return
        if listed:
            print('{"results": [', end="")
            if self._spool:
                self._spool.seek(0)
                shutil.copyfileobj(self._spool, sys.stdout)
                self._spool.close()
            print("], ", end="")
        print(json.dumps(facts)[1 if listed else 0 :], flush=True)

    def failures(self, failed: list[dict[str, str]]) -> int:
        """Name what could not be read; the exit status."""
        if failed and self.first:
            print(f"{len(failed)} pictures could not be read and were left out:", file=sys.stderr)
            for one in failed[:SHOWN_FAILURES] if not self.as_json else failed:
                print(f"  {one['file']}: {one['error']}", file=sys.stderr)
            if not self.as_json and len(failed) > SHOWN_FAILURES:
                print(f"  and {len(failed) - SHOWN_FAILURES} more; --json names all", file=sys.stderr)
        return 1 if failed else 0


def shared(command: Callable) -> Callable:
    """The options that every command has."""
    command = click.version_option(__version__, prog_name="alexnet", message="%(prog)s %(version)s")(command)
    return click.option("--device", type=click.Choice(DEVICES), default="auto", help="Where to compute.")(command)


engine_option = click.option(
    "--engine", type=click.Choice(ENGINES), help="What computes the answers.  [default: torch; of an export, its own]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="End stdout with one JSON object.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alexnet", message="%(prog)s %(version)s")
def commands() -> None:
    """The reference AlexNet: train it, evaluate it, classify pictures with it.

    DATA is a folder of class folders (with or without train/ and val/), ImageNet as downloaded or unpacked, a folder
    of parquet files, CIFAR's archives, WebDataset shards, a pack made by alexnet pack, or the word digits; alexnet
    check says which. MODEL is a run folder, a file of weights (.safetensors, .pth, .caffemodel, .onnx,
    .npy, a checkpoint of cuda-convnet), or published weights by name; predict, evaluate and compare also take what
    alexnet export makes (.onnx, .xml).
    """
