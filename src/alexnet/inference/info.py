"""`alexnet info`: a network's layers as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet.base import hints
from alexnet.base.errors import AlexNetError
from alexnet.base.text import counted
from alexnet.networks.shapes import LayerFacts, layer_facts
from alexnet.networks.variants import Variant, variant


@dataclass(frozen=True)
class Info:
    """A variant's or a trained model's shape and size; `macs` are multiply-adds for one picture."""

    variant: str
    source: str
    classes: int
    input: list[int]
    parameters: int
    macs: int
    layers: list[LayerFacts]

    def as_json(self) -> dict[str, Any]:
        """The contract's object."""
        layers = [{k: x for k, x in asdict(layer).items() if k != "kernel"} for layer in self.layers]
        facts = {k: getattr(self, k) for k in ("variant", "classes", "input", "parameters", "macs")}
        return {**facts, "layers": layers}


def network_info(name: str) -> Info:
    """The facts of a run folder, a file of weights or a variant; a path that exists wins over a name."""
    if hints.split(name)[0] != name or Path(name).exists() or Path(name).suffix:
        return _loaded(name)
    try:
        chosen = variant(name)
    except AlexNetError as error:
        from alexnet.weights.published import PUBLISHED

        if name in PUBLISHED:
            return _loaded(name)
        raise AlexNetError(f"{name} is neither a run folder nor a file of weights, and {error}") from None
    return _facts(chosen, chosen.classes, 3, chosen.input)


def _loaded(name: str) -> Info:
    from alexnet.engines.loading import load_classifier

    model = load_classifier(name).model
    return _facts(model.variant, model.classes, model.channels, model.input)


def _facts(variant: Variant, classes: int, channels: int, input: int) -> Info:
    layers = layer_facts(variant, classes, channels, input)
    parameters, macs = sum(x.parameters for x in layers), sum(x.macs for x in layers)
    return Info(variant.name, variant.source, classes, [channels, input, input], parameters, macs, layers)


def info_table(info: Info) -> str:
    """The facts as text of aligned columns."""
    head = ("layer", "kind", "kernel", "output", "parameters", "multiply-adds")
    rows = [
        (x.name, x.kind, x.kernel, " x ".join(map(str, x.output)), _number(x.parameters), _number(x.macs))
        for x in info.layers
    ]
    total = ("total", "", "", "", f"{info.parameters:,}", f"{info.macs:,}")
    widths = [max(len(row[i]) for row in (head, *rows, total)) for i in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.rjust(w) if i > 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * len(line(total))
    size = " x ".join(map(str, info.input))
    title = f"{info.variant}: {info.source}\ninput {size}, {counted(info.classes, 'class')}\n"
    return "\n".join([title, line(head), rule, *map(line, rows), rule, line(total)])


def _number(value: int) -> str:
    return f"{value:,}" if value else ""
