"""metrics.jsonl: a line of JSON for every few steps (`kind` step), every epoch (epoch) and the end (final)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from alexnet.base.files import write_bytes, writing


class MetricsSink(Protocol):
    """Where lines go besides the file."""

    def add(self, kind: str, step: int, facts: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Metrics:
    """Appends lines; on opening it cuts what a stopped run had written after its checkpoint.

    That is at step `after` with so many `epochs` evaluated, of which one that ends with this step may not be.
    """

    def __init__(
        self, path: Path, after: int, epochs: int, write: bool = True, sinks: Sequence[MetricsSink] = ()
    ) -> None:
        self.path, self.write, self.sinks = path, write, sinks
        if write:
            last = {"step": after, "epoch": epochs}
            kept = [line for line in read(path) if line["kind"] in last and line[line["kind"]] <= last[line["kind"]]]
            write_bytes(path, "".join(map(_text, kept)).encode())

    def add(self, kind: str, step: int, **facts: Any) -> None:
        """One line; floats keep 7 significant digits."""
        if self.write:
            with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(_text({"kind": kind, "step": step, **facts}))
            for sink in self.sinks:
                sink.add(kind, step, facts)

    def close(self) -> None:
        """Let the sinks end what they hold."""
        for sink in self.sinks:
            sink.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; none where there is no file. A line cut off by a crash is left out."""
    lines = []
    if path.exists():
        for text in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines


def best(path: Path) -> dict[str, Any] | None:
    """The line of the first epoch with the lowest validation error, whose weights a run keeps as its best."""
    epochs = [line for line in read(path) if line["kind"] == "epoch"]
    return min(epochs, key=lambda line: line["valid_top1_error"], default=None)


def _text(line: dict[str, Any]) -> str:
    rounded = {key: float(f"{value:.7g}") if isinstance(value, float) else value for key, value in line.items()}
    return json.dumps(rounded) + "\n"
