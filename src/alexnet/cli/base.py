"""What every command shares: the group, its options, and where a command prints."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from alexnet.base import hints
from alexnet.base.errors import AlexNetError, did_you_mean, nearest_names
from alexnet.base.speaking import is_first
from alexnet.base.text import counted, encodable, printable
from alexnet.base.version import __version__
from alexnet.engines import ENGINES
from alexnet.training import recipe as recipes

if TYPE_CHECKING:
    from alexnet.base.distributed import World
    from alexnet.data.sources import Sources

DEVICES = ("auto", "cpu", "cuda", "mps")
SHOWN_FAILURES = 20
SPOOL = 1 << 24  # bytes of results that are kept in memory


class Output:
    """Where a command prints: with --json people's lines go to stderr and one object ends stdout."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.first = is_first()
        self.results = 0
        self._spool: IO[str] | None = None

    def say(self, text: str = "") -> None:
        """A line for people."""
        if self.first:
            stream = sys.stderr if self.as_json else sys.stdout
            known = getattr(stream, "encoding", None) or "utf-8"
            print(encodable(text).encode(known, "backslashreplace").decode(known), file=stream, flush=True)

    def result(self, facts: dict[str, Any]) -> None:
        """One more entry of the object's list `results`, which may be longer than memory: it waits in a file."""
        self.results += 1
        if self.as_json and self.first:
            if self._spool is None:
                self._spool = tempfile.SpooledTemporaryFile(SPOOL, "w+", encoding="utf-8")  # noqa: SIM115, end closes it
            self._spool.write((", " if self.results > 1 else "") + json.dumps(_encodable(facts)))

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
        print(json.dumps(_encodable(facts))[1 if listed else 0 :], flush=True)

    def passed(self, sources: Sources) -> dict[str, int]:
        """Say what was passed over; as facts, how many files."""
        for line in sources.passed.lines():
            self.say(line)
        return {"passed_over": sources.passed.count}

    def failures(self, failed: list[dict[str, str]]) -> int:
        """Name what could not be read; the exit status."""
        if failed and self.first:
            were = "was" if len(failed) == 1 else "were"
            print(f"{counted(len(failed), 'picture')} could not be read and {were} left out:", file=sys.stderr)
            for one in failed[:SHOWN_FAILURES] if not self.as_json else failed:
                print(f"  {printable(one['file'])}: {printable(one['error'])}", file=sys.stderr)
            if not self.as_json and len(failed) > SHOWN_FAILURES:
                print(f"  and {len(failed) - SHOWN_FAILURES} more; --json names all", file=sys.stderr)
        return 1 if failed else 0

    def answered(self, failed: list[dict[str, str]]) -> int:
        """As `failures`, of a command whose pictures give one result each; 2 where none did."""
        return 2 * self.failures(failed) if not self.results else self.failures(failed)


def _encodable(facts: Any) -> Any:
    """The same with texts that every reader of JSON takes."""
    if isinstance(facts, dict):
        return {_encodable(key): _encodable(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_encodable(one) for one in facts]
    return encodable(facts) if isinstance(facts, str) else facts


class Number(click.FloatRange):
    """A finite number within bounds; click's own takes inf and nan too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not math.isfinite(number := click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{value} is not a finite number; give one.", param, ctx)
        return super().convert(number, param, ctx)


class Device(click.ParamType):
    """One of DEVICES, which may have a number; whether it is there only torch knows."""

    name = "device"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(DEVICES)}|cuda:N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, _, number = value.partition(":")
        if kind not in DEVICES or (number and kind == "auto"):
            self.fail(f"'{value}' is none of {', '.join(DEVICES)} and cuda:N.", param, ctx)
        return value


class Command(click.Command):
    """A command whose line in the list is never cut, whose `--set` takes several key=value after it, and which takes
    no empty words."""

    def get_short_help_str(self, limit: int = 45) -> str:
        return " ".join((self.help or "").split("\n\n")[0].split())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("--set" in one.opts for one in self.params):
            args = _spread(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            # By the words alone: with the dashes, which all have, --ten-view would be most like --device.
            known = [name[2:] for one in self.params for name in one.opts if name.startswith("--")]
            near = nearest_names(error.option_name.removeprefix("--"), known, alike=0.6)
            raise click.NoSuchOption(error.option_name, possibilities=[f"--{one}" for one in near], ctx=ctx) from None
        for one in self.params:
            given = ctx.params.get(one.name or "")
            if given == "" or (isinstance(given, tuple) and "" in given):
                # Most often a variable of the shell that is not set; as a path it would mean the current folder.
                ctx.fail(f"{one.get_error_hint(ctx)} was given an empty word; give it a value.")
        return rest


class ReaderGone(Exception):
    """Nobody reads the output any more. click would take the system's own error for a failure, with status 1."""


@contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


class Group(click.Group):
    """The commands; an unknown one is an error that names the nearest."""

    command_class = Command

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        with _read():
            return super().make_context(*given, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _read():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = did_you_mean(name, self.list_commands(ctx))
            ctx.fail(f"there is no command '{name}'{near} alexnet --help lists them all.")
        return super().resolve_command(ctx, args)


def _spread(words: list[str]) -> list[str]:
    """`--set a=1 b=2` as click takes it, `--set a=1 --set b=2`.

    What follows a value of --set is one too where it reads word=…, unless a file is called so and no key is: that is
    an argument.
    """
    given: list[str] = []
    until = words.index("--") if "--" in words else len(words)
    place = 0
    while place < until:
        word, place = words[place], place + 1
        given.append(word)
        if word == "--set" and place < until:
            given.append(words[place])
            place += 1
        elif not word.startswith("--set="):
            continue
        while place < until and (more := re.match(r"(\w[\w-]*)=", words[place])):
            if more[1] not in recipes.KEYS and os.path.exists(words[place]):
                break
            given += ["--set", words[place]]
            place += 1
    return given + words[until:]


@contextmanager
def processes(keeps: bool = False) -> Iterator[World | None]:
    """The processes that torchrun has started; None where there is one, without importing torch, unless it `keeps`
    what is done."""
    if not keeps and "TORCHELASTIC_RUN_ID" not in os.environ and os.environ.get("WORLD_SIZE", "1") == "1":
        yield None
        return
    from alexnet.base.distributed import process_group

    with process_group("cpu") as world:
        yield world


def by_one_process(what: str) -> None:
    """Refuse more of them."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise AlexNetError(f"{what} by one process; start the command without torchrun.")


def refuse_unused(given: Mapping[str, object], use: str, to: str = "") -> None:
    """Refuse options that were `given` a value where nothing would use it: their `use` was not asked for."""
    for option, value in given.items():
        if value:
            raise AlexNetError(f"{option} is for {use}, which was not asked for; add it{to}, or leave {option} out.")


def shared(command: Callable) -> Callable:
    """The options that every command has."""
    return click.version_option(__version__, prog_name="alexnet", message="%(prog)s %(version)s")(command)


def recipe_options(command: Callable) -> Callable:
    """--set, and the options that are other names of some keys; the command gets all of them as `sets`."""

    @functools.wraps(command)
    def call(sets: tuple[str, ...], **given: Any) -> Any:
        options = {name: given.pop(name) for name in recipes.OPTIONS}
        return command(sets=recipes.with_options(sets, options), **given)

    for name, option in reversed(recipes.OPTIONS.items()):
        meaning = f"{recipes.KEYS[name].meaning.partition(' (')[0]}; the same as --set {name}=N."
        call = click.option(option, name, metavar="N", help=meaning[0].upper() + meaning[1:])(call)
    return set_option(call)


def held_out_options(command: Callable) -> Callable:
    """--valid, --folds and --fold of a command with --split, which gets them as `held`: None where none was given."""
    names = ("valid", "folds", "fold")

    @functools.wraps(command)
    def call(**given: Any) -> Any:
        sets = [f"{name}={text}" for name in names if (text := given.pop(name)) is not None]
        held = None
        if sets and given["split"] == "all":
            option = recipes.OPTIONS[sets[0].partition("=")[0]]
            raise AlexNetError(
                f"{option} holds pictures of DATA out, and --split all takes all; leave one of them out."
            )
        if sets:
            from alexnet.data.held_out import recipe_held_out

            held = recipe_held_out(recipes.override(recipes.Recipe(), recipes.parse_sets(sets)))
        return command(held=held, **given)

    for name in reversed(names):
        meaning = recipes.KEYS[name].meaning
        call = click.option(recipes.OPTIONS[name], name, metavar="N", help=meaning[0].upper() + meaning[1:] + ".")(call)
    return call


def weights_option(command: Callable) -> Callable:
    """--weights best|last: the command gets the file of those weights as its MODEL."""

    @functools.wraps(command)
    def call(weights: str | None, **given: Any) -> Any:
        if weights is not None:
            from alexnet.engines.loading import chosen

            given["model"] = chosen(given["model"], weights)
        return command(**given)

    return which_option(call)


def _once(context: click.Context, option: click.Parameter, sets: tuple[str, ...]) -> tuple[str, ...]:
    recipes.parse_sets(filter(None, sets), once=True)  # an empty one is told with all other empty words
    return sets


which_option = click.option(
    "--weights", type=click.Choice(["best", "last"]), help="Of a run folder: those of its best epoch, or the last."
)
set_option = click.option(
    "--set", "sets", multiple=True, metavar="key=value ...", callback=_once,
    help="Change keys of the recipe; alexnet recipes --keys lists them.",
)  # fmt: skip
device_option = click.option("--device", type=Device(), default="auto", help="Where to compute.")
engine_option = click.option(
    "--engine", type=click.Choice(ENGINES), help="What computes the answers.  [default: torch; of an export, its own]"
)
resume_option = click.option(
    "--resume", is_flag=True, help="Keep what is done, and go on where such a command, or torchrun's, was killed."
)
json_option = click.option("--json", "as_json", is_flag=True, help="End stdout with one JSON object.")


def model_options(*names: str) -> Callable[[Callable], Callable]:
    """What files of weights may not say, as options; the command gets it within the MODELs of those names."""

    def add(command: Callable) -> Callable:
        @functools.wraps(command)
        def call(**given: Any) -> Any:
            said = hints.Hints(**{key: given.pop(key) for key in hints.MEANINGS})
            for name in names:
                one = given[name]
                if one is not None:
                    several = isinstance(one, tuple)
                    given[name] = (
                        tuple(hints.with_hints(x, said) for x in one) if several else hints.with_hints(one, said)
                    )
            return command(**given)

        for key, meaning in reversed(hints.MEANINGS.items()):
            kind = click.Choice(hints.CHOICES[key]) if key in hints.CHOICES else None
            call = click.option(f"--{key}", type=kind, metavar=hints.TAKES.get(key), help=meaning)(call)
        return call

    return add


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alexnet", message="%(prog)s %(version)s")
def commands() -> None:
    """The reference AlexNet: train it, evaluate it, classify pictures with it.

    DATA is a folder of class folders (with or without train/ and val/), flat pictures with a table of labels (.csv),
    ImageNet as downloaded or unpacked, a folder of parquet files, CIFAR's python archives, WebDataset shards, a pack
    made by alexnet pack, or the word digits; alexnet check says which. MODEL is a run folder, a file of weights
    (.safetensors, .pth, .caffemodel, .onnx, .npy, .npz, .mat, a checkpoint of cuda-convnet), a folder of Hugging Face,
    or published weights by name; predict, evaluate, compare and serve also take what alexnet export makes (.onnx,
    .xml).
    """
