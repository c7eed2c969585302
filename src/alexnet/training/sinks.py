"""Where the figures of a run go besides metrics.jsonl: named sinks, which a recipe's key `sinks` turns on.

A sink is a class under `sink`: it is made when a run begins or goes on, gets every line's numbers, and is closed. None
changes what a run computes, and one that fails ends with a line that says so while the run goes on.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alexnet.base.errors import AlexNetError, did_you_mean
from alexnet.base.progress import Say


class Sink(Protocol):
    """Made with the run's folder, the step of the checkpoint that it goes on from (0: it begins), and the recipe."""

    def __init__(self, folder: Path, after: int, recipe: Mapping[str, Any]) -> None: ...

    def add(self, kind: str, step: int, facts: Mapping[str, float]) -> None:
        """The numbers of a line of metrics.jsonl; `kind` is step, epoch or final."""

    def close(self) -> None:
        """The run has ended, or stopped."""


@dataclass(frozen=True)
class SinkEntry:
    """A sink's class, what it is, the module that it needs, and what pip installs for that."""

    make: type[Sink]
    meaning: str
    module: str
    install: str


SINKS: dict[str, SinkEntry] = {}


def sink(meaning: str, module: str, install: str) -> Callable[[type[Any]], type[Any]]:
    """List a class of sinks under its name in small letters."""

    def add(make: type[Any]) -> type[Any]:
        SINKS[make.__name__.lower()] = SinkEntry(make, meaning, module, install)
        return make

    return add


def _kept(folder: Path, name: str, after: int) -> tuple[Path, str | None]:
    """The file of a run folder that keeps what a service calls this run, and that; None for a run that begins."""
    file = folder / f"{name}.id"
    return file, file.read_text("utf-8").strip() if after and file.exists() else None


@sink("files in RUN/tensorboard, which tensorboard --logdir shows", "tensorboard", "tensorboard")
class TensorBoard:
    def __init__(self, folder: Path, after: int, recipe: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What came after the checkpoint will come again.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def add(self, kind: str, step: int, facts: Mapping[str, float]) -> None:
        for name, value in facts.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


@sink("Weights & Biases, as its own variables (WANDB_MODE, WANDB_PROJECT …) say", "wandb", "wandb")
class WandB:
    def __init__(self, folder: Path, after: int, recipe: Mapping[str, Any]) -> None:
        import wandb

        file, known = _kept(folder, "wandb", after)
        name = known or uuid.uuid4().hex
        self.run = wandb.init(
            id=name, resume="allow", name=folder.absolute().name, dir=str(folder), config=dict(recipe)
        )
        file.write_text(name, "utf-8")

    def add(self, kind: str, step: int, facts: Mapping[str, float]) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in facts.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


@sink("MLflow, where its own variable MLFLOW_TRACKING_URI says", "mlflow", "mlflow-skinny")
class MLflow:
    def __init__(self, folder: Path, after: int, recipe: Mapping[str, Any]) -> None:
        import mlflow

        file, known = _kept(folder, "mlflow", after)
        self.mlflow = mlflow
        run = mlflow.start_run(run_id=known, run_name=None if known else folder.absolute().name)
        if known is None:
            mlflow.log_params(dict(recipe))
        file.write_text(run.info.run_id, "utf-8")

    def add(self, kind: str, step: int, facts: Mapping[str, float]) -> None:
        self.mlflow.log_metrics({f"{kind}/{name}": value for name, value in facts.items()}, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


def named(text: str) -> list[str]:
    """The sinks of a recipe's key, names with commas; an unknown one is an error."""
    names = [one.strip() for one in text.split(",") if one.strip()]
    for name in names:
        if name not in SINKS:
            raise AlexNetError(
                f"recipe key sinks was given '{name:.60}', which is none of them{did_you_mean(name, SINKS)} It takes "
                f"{listed()}."
            )
    return names


def listed() -> str:
    """The sinks in words."""
    return "; ".join(f"{name} ({one.meaning})" for name, one in SINKS.items())


def check_sinks(text: str) -> None:
    """Refuse, before any work, sinks whose library is not there."""
    for name in named(text):
        one = SINKS[name]
        try:
            there = importlib.util.find_spec(one.module) is not None
        except ValueError:  # a module that was put in its place
            there = True
        if not there:
            raise AlexNetError(
                f"sinks={name} needs {one.module}, which is not installed: pip install {one.install}, or leave it "
                "out; metrics.jsonl has the same numbers."
            )


class Guarded:
    """A sink that cannot end a run: where it fails it says so, once, and gets nothing more."""

    def __init__(self, name: str, folder: Path, after: int, recipe: Mapping[str, Any], say: Say) -> None:
        self.name, self.say = name, say
        self.sink: Sink | None = None
        self._try(lambda: setattr(self, "sink", SINKS[name].make(folder, after, recipe)))

    def add(self, kind: str, step: int, facts: Mapping[str, Any]) -> None:
        """A line's numbers."""
        if (sink := self.sink) is not None:
            self._try(lambda: sink.add(kind, step, {k: v for k, v in facts.items() if type(v) in (int, float)}))

    def close(self) -> None:
        """The last call."""
        if (sink := self.sink) is not None:
            self._try(sink.close)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self.sink = None
            self.say(f"{self.name} gets no more of this run's figures ({error}); metrics.jsonl has them all")


def opened(text: str, folder: Path, after: int, recipe: Mapping[str, Any], say: Say) -> list[Guarded]:
    """The sinks of a run that begins, or goes on after a step."""
    return [Guarded(name, folder, after, recipe, say) for name in named(text)]
