"""`alexnet info --parallel`: who has which part of the network in training, which layer talks, and what that sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alexnet.base.errors import AlexNetError
from alexnet.inference.info import Info
from alexnet.networks import traffic
from alexnet.networks import variants as v

BATCH = 128  # pictures of each process, for figures a step; towers have the same 128


@dataclass(frozen=True)
class Talking:
    """A network divided among processes: the drawing, and its numbers."""

    text: str
    facts: dict[str, Any]


def communication(info: Info, way: str, processes: int = 0) -> Talking:
    """The network in training as `parallel` = data, towers or hybrid divides it."""
    size = (v.variant(info.variant), info.classes, info.input[0], info.input[1])
    if way == "towers":
        if processes not in (0, 2):
            raise AlexNetError(f"--processes was given {processes}; two towers take two: leave it out.")
        return _towers(*size)
    return _split(*size, way, processes or 8)


def _towers(variant: v.Variant, classes: int, channels: int, input: int) -> Talking:
    talks = {talk.layer: talk for talk in traffic.towers(variant, classes, channels, input)}
    logits = [x.name for x in variant.layers if isinstance(x, v.FC)][-1]
    rows, last = [("layer", "first process", "", "second process")], False
    for record, _, shape in traffic.shapes(variant, classes, channels, input):
        talk, last = talks.get(record.name), last or record.name == logits
        half = " x ".join(map(str, shape if last else (shape[0] // 2, *shape[1:])))
        arrow = ""
        if talk:
            arrow = f"<-- {talk.second:,}" + (f" | {talk.first:,} -->" if talk.first else "")
        rows.append((record.name, half, arrow, "" if last else half))
    forward = sum(talk.first + talk.second for talk in talks.values())
    whole = traffic.data(variant, classes, channels, input, 2).all
    each = whole * traffic.FLOAT / BATCH
    text = (
        f"{variant.name} as two towers, a process each; arrows: numbers a picture that a layer gets from the other\n"
        f"tower, as many gradients come back\n\n{_aligned(rows)}\n\n"
        f"{forward:,} numbers forward, {2 * forward:,} in all: {_kilo(2 * forward * traffic.FLOAT)} a picture in "
        f"float32.\nWith parallel=data two processes send {_kilo(each)} a picture in batches of {BATCH}, "
        f"{each / (2 * forward * traffic.FLOAT):.1f} times as much."
    )
    facts = {
        "way": "towers", "processes": 2, "talks": [asdict(talk) for talk in talks.values()],
        "bytes_per_image": 2 * forward * traffic.FLOAT, "data_bytes_per_image": each,
    }  # fmt: skip
    return Talking(text, facts)


def _split(variant: v.Variant, classes: int, channels: int, input: int, way: str, processes: int) -> Talking:
    size, pictures = (variant, classes, channels, input), BATCH * processes
    plain, kept = traffic.data(*size, processes), traffic.sharded(*size, processes)
    rows = [("parallel", "convolutions", "fully connected", "all"), _row("data", plain)]
    facts: dict[str, Any] = {"way": way, "processes": processes, "images": pictures, "data": asdict(plain)}
    end = ""
    if way == "hybrid":
        step, above = traffic.hybrid(*size, processes, pictures), traffic.hybrid(*size, processes, pictures, True)
        rows += [_row("hybrid", step), _row("(by units above)", above)]
        facts["hybrid"] = asdict(step)
        end = "\n(by units above): as in 2014, each process with the weights to its own units; not implemented."
        end += f"\nhybrid sends {_times(plain.connected, step.connected)} for the fully connected layers, "
        end += f"{_times(plain.all, step.all)} in all."
    rows.append(_row("(sharded weights)", kept))
    text = (
        f"{variant.name} in training by {processes} processes of {BATCH} pictures each: megabytes in float32 that all\n"
        f"of them together send in a step\n\n{_aligned(rows)}\n\n"
        "(sharded weights): FSDP, which leaves each process 1/"
        f"{processes} of weights, gradients and velocities; not implemented.{end}"
    )
    return Talking(text, facts)


def _row(name: str, step: traffic.StepTraffic) -> tuple[str, ...]:
    mega = [f"{x * traffic.FLOAT / 1e6:,.1f}" for x in (step.convolutions, step.connected, step.all)]
    return name, *mega


def _times(whole: int, part: int) -> str:
    return f"{whole / part:.1f} times less" if whole >= part else f"{part / whole:.1f} times MORE"


def _kilo(count: float) -> str:
    return f"{count / 1000:,.0f} kB"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
