"""Each layer of a network in words: its shape, its size, what it computes, and where the paper speaks of it."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import layer_facts


@dataclass(frozen=True)
class Explained:
    """A row a layer; `output` has no batch dimension, `paper` is a section of Krizhevsky, Sutskever, Hinton 2012."""

    name: str
    kind: str
    kernel: str
    output: list[int]
    parameters: int
    macs: int
    formula: str
    paper: str


def explained(model: AlexNet) -> list[Explained]:
    """The layers in order."""
    facts = layer_facts(model.variant, model.classes, model.channels, model.input)
    return [
        Explained(row.name, row.kind, row.kernel, row.output, row.parameters, row.macs, *_said(record))
        for row, record in zip(facts, model.variant.layers, strict=True)
    ]


def _said(record: v.Layer) -> tuple[str, str]:
    """The formula, and the section of the paper."""
    match record:
        case v.Conv():
            towers = f", c over the maps of its own of {record.groups} towers" if record.groups > 1 else ""
            return (
                f"y[f, i, j] = b[f] + Σ w[f, c, u, v] · x[c, {_at(record, 'i', 'u')}, {_at(record, 'j', 'v')}]{towers}",
                "3.5",
            )
        case v.Local():
            at = f"x[c, {_at(record, 'i', 'u')}, {_at(record, 'j', 'v')}]"
            return f"y[f, i, j] = b[f, i, j] + Σ w[f, i, j, c, u, v] · {at}", "none: of the author's nets for CIFAR-10"
        case v.FC():
            towers = f", i over the units of its own of {record.groups} towers" if record.groups > 1 else ""
            return f"y[u] = b[u] + Σ w[u, i] · x[i]{towers}", "3.5"
        case v.ReLU():
            return "y = max(0, x)", "3.1"
        case v.Tanh():
            return "y = tanh(x)", "3.1"
        case v.LRN():
            share = f"{record.alpha:g}" + (f"/{record.size}" if record.divided else "")
            within = f", within each of {record.towers} towers" if record.towers > 1 else ""
            return (
                f"y[c] = x[c] / ({record.k:g} + {share} · Σ x[c']²)^{record.beta:g}, c' over {record.size} "
                f"neighbouring maps{within}"
            ), "3.3"
        case v.WithinMapNorm():
            square = f"{record.size} x {record.size}"
            return (
                f"y = x / (1 + {record.alpha:g}/{record.size}² · Σ x'²)^{record.beta:g}, x' over {square} neighbours "
                "in the same map"
            ), "none: the 2012 code alone has it"
        case v.BatchNorm():
            return "y = γ[c] · (x - mean[c]) / √(variance[c] + ε) + β[c]", "none: it is of 2015"
        case v.MaxPool():
            return f"y = the greatest of {record.kernel} x {record.kernel}, in steps of {record.stride}", "3.4"
        case v.AvgPool():
            return (
                f"y = the mean of {record.kernel} x {record.kernel}, in steps of {record.stride}",
                "none: of the author's nets for CIFAR-10",
            )
        case v.Dropout():
            kept = f"{1 - record.rate:g}"
            if record.inverted:
                return (
                    f"training: y = m · x / {kept}, m = 0 with probability {record.rate:g}, else 1; then y = x",
                    "4.2",
                )
            return f"training: y = m · x, m = 0 with probability {record.rate:g}, else 1; then y = {kept} · x", "4.2"
        case v.Softmax():
            return "y[k] = exp(x[k]) / Σ exp(x[k'])", "3.5"


def _at(record: v.Conv | v.Local, place: str, tap: str) -> str:
    """Where a filter's tap reads, such as 4i + u - 2."""
    step = f"{record.stride}{place}" if record.stride > 1 else place
    return f"{step} + {tap}" + (f" - {record.pad}" if record.pad else "")
