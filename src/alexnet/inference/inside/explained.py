"""Each layer of a network in words: its shape, its size, what it computes, and where the paper speaks of it."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.networks.shapes import LayerFacts, layer_facts


@dataclass(frozen=True)
class Explained(LayerFacts):
    """A layer's facts and words; `paper` is a section of Krizhevsky, Sutskever, Hinton 2012."""

    formula: str
    paper: str


def explained(model: AlexNet) -> list[Explained]:
    """The layers in order."""
    facts = layer_facts(model.variant, model.classes, model.channels, model.input)
    found = []
    for row, record in zip(facts, model.variant.layers, strict=True):
        formula, paper = _said(record)
        found.append(Explained(**vars(row), formula=formula, paper=paper))
    return found


OF_CIFAR = "none: of the author's nets for CIFAR-10"


def _said(record: v.Layer) -> tuple[str, str]:
    """The formula, and the section of the paper."""
    match record:
        case v.Conv() | v.Local() | v.FC():
            return _of_weights(record)
        case v.LRN() | v.WithinMapNorm() | v.BatchNorm():
            return _of_norm(record)
        case v.MaxPool():
            return f"y = the greatest of {record.kernel} x {record.kernel}, in steps of {record.stride}", "3.4"
        case v.AvgPool():
            return f"y = the mean of {record.kernel} x {record.kernel}, in steps of {record.stride}", OF_CIFAR
        case v.ReLU():
            return "y = max(0, x)", "3.1"
        case v.Tanh():
            return "y = tanh(x)", "3.1"
        case v.Dropout():
            kept, draw = f"{1 - record.rate:g}", f"m = 0 with probability {record.rate:g}, else 1"
            if record.inverted:
                return f"training: y = m · x / {kept}, {draw}; then y = x", "4.2"
            return f"training: y = m · x, {draw}; then y = {kept} · x", "4.2"
        case v.Softmax():
            return "y[k] = exp(x[k]) / Σ exp(x[k'])", "3.5"


def _of_weights(record: v.Weighted) -> tuple[str, str]:
    towers = getattr(record, "groups", 1)
    if isinstance(record, v.FC):
        own = f", i over the units of its own of {towers} towers" if towers > 1 else ""
        return f"y[u] = b[u] + Σ w[u, i] · x[i]{own}", "3.5"
    at = f"x[c, {_at(record, 'i', 'u')}, {_at(record, 'j', 'v')}]"
    if isinstance(record, v.Local):
        return f"y[f, i, j] = b[f, i, j] + Σ w[f, i, j, c, u, v] · {at}", OF_CIFAR
    own = f", c over the maps of its own of {towers} towers" if towers > 1 else ""
    return f"y[f, i, j] = b[f] + Σ w[f, c, u, v] · {at}{own}", "3.5"


def _of_norm(record: v.LRN | v.WithinMapNorm | v.BatchNorm) -> tuple[str, str]:
    if isinstance(record, v.BatchNorm):
        return "y = γ[c] · (x - mean[c]) / √(variance[c] + ε) + β[c]", "none: it is of 2015"
    size, alpha, beta = record.size, f"{record.alpha:g}", f"{record.beta:g}"
    if isinstance(record, v.WithinMapNorm):
        near = f"x' over {size} x {size} neighbours in the same map"
        return f"y = x / (1 + {alpha}/{size}² · Σ x'²)^{beta}, {near}", "none: the 2012 code alone has it"
    share = f"{alpha}/{size}" if record.divided else alpha
    within = f", within each of {record.towers} towers" if record.towers > 1 else ""
    near = f"c' over {size} neighbouring maps{within}"
    return f"y[c] = x[c] / ({record.k:g} + {share} · Σ x[c']²)^{beta}, {near}", "3.3"


def _at(record: v.Conv | v.Local, place: str, tap: str) -> str:
    """Where a filter's tap reads, such as 4i + u - 2."""
    step = f"{record.stride}{place}" if record.stride > 1 else place
    return f"{step} + {tap}" + (f" - {record.pad}" if record.pad else "")
