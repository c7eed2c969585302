"""The layers of a cuda-convnet checkpoint in their order, and the first that computes something else than a variant's.

A record says what its layer computes under the keys of cuda-convnet's layer.py; a key that it lacks is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape

Record = dict[str, Any]
Way = tuple[Record, tuple[Record, ...]]  # to what a layer sees (weights or data), by the layers between in their order

KINDS = {"conv": v.Conv, "local": v.Local, "fc": v.FC}
HALVING = ("hs", "dropout2")  # dropout whose units are multiplied by `keep` in testing; "dropout" rescales in training
MOST_INPUTS = 16
LARGEST = 4096  # side of maps


@dataclass
class Stage:
    """One layer of ours: its towers' records, and for each of them the ways to the towers that its blocks see."""

    kind: str
    towers: list[Record] = field(default_factory=list)
    ways: list[list[Way]] = field(default_factory=list)
    sees: list[list[int]] = field(default_factory=list)  # the numbers of those towers

    def title(self) -> str:
        """The names of its towers."""
        return " + ".join(record["name"] for record in self.towers)


# -- order ------------------------------------------------------------------------------------------------------


def _ways(records: list[Record]) -> Callable[[Record], list[Way]]:
    """What tells the ways from a record to layers with weights, or data, in its order."""
    by_name = {record["name"]: record for record in records}
    known: dict[str, list[Way] | None] = {}  # None while it is looked for

    def ways(record: Record) -> list[Way]:
        name = record["name"]
        if name not in known:
            known[name] = None
            found: list[Way] = []
            for given in record.get("inputs", []):
                one = records[given] if isinstance(given, int) else by_name[given]
                ends = one["type"] in KINDS or one["type"] == "data"
                found += [(one, ())] if ends else [(source, (*between, one)) for source, between in ways(one)]
                if max(len(found), *(len(between) for _, between in found)) > MOST_INPUTS:
                    raise KeyError(f"{name} sees more than {MOST_INPUTS} layers, or through as many")
            known[name] = found
        there = known[name]
        if there is None:
            raise KeyError(f"{name} sees itself")
        return there

    return ways


def stages_of(records: list[Record]) -> tuple[list[Stage], Stage]:
    """The layers with weights by their distance from the pictures, and the softmax, or else the costs, behind them.

    Raises LookupError, TypeError, ValueError, RecursionError.
    """
    ways = _ways(records)
    depth: dict[str, int] = {}

    def far(record: Record, seen: tuple[str, ...] = ()) -> int:
        name = record["name"]
        if name in seen:
            raise KeyError(f"{name} sees itself")
        if name not in depth:
            behind = [far(one, (*seen, name)) for one, _ in ways(record) if one["type"] in KINDS]
            depth[name] = 1 + max(behind, default=0)
        return depth[name]

    stages: list[Stage] = []
    tower: dict[str, int] = {}
    for record in sorted((r for r in records if r["type"] in KINDS), key=lambda r: (far(r), r["name"])):
        if far(record) > len(stages):
            stages.append(Stage(record["type"]))
        stages[-1].sees.append([tower.get(one["name"], 0) for one, _ in ways(record)])
        tower[record["name"]] = len(stages[-1].towers)
        stages[-1].towers.append(record)
        stages[-1].ways.append(ways(record))
    last = [r for r in records if r["type"] == "softmax"]
    last = last or [r for r in records if r["type"].startswith("cost.")]
    return stages, Stage("softmax", last, [[way for way in ways(r) if way[0]["type"] != "data"] for r in last])


# -- what they compute ------------------------------------------------------------------------------------------


def changes_of(records: list[Record]) -> dict[str, Any]:
    """What the layers say of activation and dropout, as changes of a variant."""
    tanh = any(record["type"] == "neuron" and _facts(record).get("neuron") == "tanh" for record in records)
    keeps = [record.get("keep", 0.5) for record in records if record["type"] in (*HALVING, "dropout")] or [1.0]
    keep = keeps[0]
    known = isinstance(keep, int | float) and 0 < keep <= 1 and all(_same(one, keep) for one in keeps)
    return {**({"activation": "tanh"} if tanh else {}), **({"dropout": round(1 - keep, 6)} if known else {})}


def difference(variant: v.Variant, stages: list[Stage], last: Stage) -> tuple[tuple[int, int], str]:
    """How far the layers are those of a variant with as many, and the first that is not; "" where all are."""
    steps: list[list[v.Layer]] = [[]]  # each ends in a layer with weights, the last in the softmax
    for layer in variant.layers:
        if not (isinstance(layer, v.Dropout) and layer.rate == 0):
            steps[-1].append(layer)
        if isinstance(layer, v.Weighted):
            steps.append([])
    best, why = (len(steps), 0), ""
    before = list(dict.fromkeys(source["name"] for ways in stages[0].ways for source, _ in ways))
    for number, (stage, expected) in enumerate(zip([*stages, last], steps, strict=True)):
        apart = getattr(expected[-1], "groups", 1) > 1
        for tower, (record, ways) in enumerate(zip(stage.towers, stage.ways, strict=True)):
            sees = sorted(source["name"] for source, _ in ways)
            whole = before[tower : tower + 1] if apart else sorted(before)
            wrong = f"layer {record['name']} sees {', '.join(sees)} where {variant.name} has {', '.join(whole)}"
            found = [(0, wrong if sees != whole else "")]
            found += [_first(variant, [*(x for x in way if not _idle(x)), record], expected) for _, way in ways]
            for at, said in found:
                if said and (number, at) < best:
                    best, why = (number, at), said
        before = [record["name"] for record in stage.towers]
    return best, why


def _first(variant: v.Variant, got: list[Record], expected: list[v.Layer]) -> tuple[int, str]:
    """The place of the first record that is another layer than the variant's, and what it is; "" where none is."""
    for at, (record, layer) in enumerate(zip(got, expected, strict=False)):
        kinds, numbers = _wanted(record, layer)
        if record["type"] not in kinds:
            of = f"{layer.name} ({type(layer).__name__})"
            return at, f"layer {record['name']} is of type {_shown(record['type'])} where {variant.name} has {of}"
        facts = _facts(record)
        for key, want in numbers.items():
            if (has := facts.get(key)) is not None and not _same(has, want):
                return at, f"layer {record['name']} has {key} {_shown(has)} where {variant.name} has {_shown(want)}"
    return 0, ""  # both end in a layer that stands nowhere between


def _wanted(record: Record, layer: v.Layer) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The types that a variant's layer may have, and its numbers by cuda-convnet's keys."""
    match layer:
        case v.Conv() | v.Local():
            kind = "conv" if isinstance(layer, v.Conv) else "local"
            return (kind,), {"stride": layer.stride, "padding": layer.pad, **_side(record, layer, "modulesX")}
        case v.FC():
            return ("fc",), {}
        case v.MaxPool() | v.AvgPool():
            pool = "max" if isinstance(layer, v.MaxPool) else "avg"
            numbers = {"pool": pool, "sizeX": layer.kernel, "start": 0, "stride": layer.stride, "sum": 0}
            return ("pool",), {**numbers, **_side(record, layer, "outputsX")}
        case v.ReLU():
            return ("neuron",), {"neuron": "relu"}
        case v.Tanh():
            return ("neuron",), {"neuron": "tanh", "a": 1.0, "b": 1.0}
        case v.LRN():
            scale = layer.alpha / layer.size if layer.divided else layer.alpha
            return ("cmrnorm",), {
                "size": layer.size, "scale": scale, "pow": layer.beta, "minDiv": layer.k, "blocked": 0,
            }  # fmt: skip
        case v.WithinMapNorm():
            return ("rnorm",), {
                "size": layer.size, "scale": layer.alpha / layer.size**2, "pow": layer.beta, "minDiv": 1.0,
            }  # fmt: skip
        case v.Dropout():
            return ("dropout",) if layer.inverted else HALVING, {"keep": 1 - layer.rate}
        case v.Softmax():
            return ("softmax",), {}
    return (), {}


def _side(record: Record, layer: v.Layer, key: str) -> dict[str, int]:
    """The side of the maps that a variant's layer makes of those that the record's sees, as far as it says."""
    given = record.get("imgSize")
    image = given[0] if isinstance(given, list) and given else given
    if type(image) is not int or not 1 <= image <= LARGEST:
        return {}
    return {key: output_shape(layer, (1, image, image), 1)[1]}


def _facts(record: Record) -> Record:
    """What a record says, by the keys of `_wanted`."""
    neuron = record.get("neuron")
    if record["type"] == "neuron" and isinstance(neuron, dict):
        params = neuron.get("params")
        return {**(params if isinstance(params, dict) else {}), "neuron": neuron.get("type")}
    if record["type"] == "cmrnorm" and "scale" in record:
        return {"minDiv": 1.0, **record}  # of the code of 2011, which adds 1 and writes nothing
    if "padding" in record:  # what is before the first pixel counts from it, so is below 0
        return {**record, "padding": [-x if type(x) is int else x for x in _listed(record["padding"])]}
    return record


def _idle(record: Record) -> bool:
    """Whether a layer gives what it sees."""
    drops = record["type"] in (*HALVING, "dropout")
    return (drops and record.get("keep") == 1) or (
        record["type"] == "neuron" and _facts(record).get("neuron") == "ident"
    )


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _same(has: Any, want: Any) -> bool:
    if isinstance(want, str):
        return isinstance(has, str) and has == want
    return all(isinstance(x, int | float) and math.isclose(x, want, rel_tol=1e-5) for x in _listed(has))


def _shown(given: Any) -> str:
    """A value of a file in a sentence: lists within lists have no end as text."""
    values = _listed(given)
    if len(values) > MOST_INPUTS or not all(isinstance(x, int | float | str) for x in values):
        return f"of another kind ({type(given).__name__})"
    return ", ".join(f"{x:g}" if isinstance(x, float) else f"{x!s:.40}" for x in values)
