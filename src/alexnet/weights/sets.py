"""The sets of weights in whatever a file holds: dictionaries of training scripts, whole modules, wrappers' prefixes.

A few bytes of a file can name one dictionary any number of times, so what was looked through is not looked through
again, and modules that hold more than any program writes are not searched to their end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from alexnet.base.restricted_pickle import Inert
from alexnet.networks import variants as v
from alexnet.weights.base import Lazy

WITHIN = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
DEPTH, SETS = 6, 64  # how deep sets of weights are looked for, and how many
MOST_LOOKS = 1_000_000  # at what modules hold
FIRST, LAST = ("features.0.weight", "conv1.weight"), ("fc8.", "fc10.")


@dataclass(frozen=True)
class Found:
    """A set of weights: where it stands, whose names its tensors have, what stood beside them, and in what module."""

    place: str
    torchvision: bool
    tensors: dict[str, Lazy]
    beside: list[str]
    module: str = ""  # the class, where a whole module was saved


def sets(found: Any) -> Iterator[Found]:
    """The sets of weights in nested dictionaries and modules, in the file's order."""
    stack: list[tuple[str, Any, int]] = [("", found, 0)]
    barren: dict[int, int] = {}  # how deep the ones stood that hold no weights
    count, looks = 0, _Looks()
    while stack:
        place, one, depth = stack.pop()
        if depth >= barren.get(id(one), DEPTH + 1):
            continue
        flat, before = looks.flat(one), count
        for chosen in _of_prefixes(place, flat):
            count += 1
            yield replace(chosen, module=one.kind) if isinstance(one, Inert) else chosen
            if count >= SETS:
                return
        if count == before:
            barren[id(one)] = depth
        items = _items(one)
        if depth < DEPTH and not (isinstance(one, Inert) and flat):
            inner = [(f"{place}.{key}" if place else str(key), value, depth + 1) for key, value in items]
            stack += [x for x in inner if isinstance(x[1], dict | Inert)][: 10 * SETS][::-1]


def _items(one: Any) -> list[tuple[Any, Any]]:
    if isinstance(one, Inert):
        state = one.state if isinstance(one.state, dict) else {}
        return [*one.items.items(), *state.items()]
    return list(one.items()) if isinstance(one, dict) else []


@dataclass
class _Looks:
    """How many there were in one file."""

    done: int = 0

    def flat(self, one: Any) -> dict[str, Lazy]:
        """The tensors of a state_dict, or of a whole module by the names that its state_dict would have."""
        if isinstance(one, dict):
            return {str(key): value for key, value in one.items() if isinstance(value, Lazy)}
        found: dict[str, Lazy] = {}
        stack = [("", one, 0)] if isinstance(one, Inert) else []
        while stack and len(found) < 10_000 and self.done < MOST_LOOKS:
            prefix, module, depth = stack.pop()
            state = module.state if isinstance(module.state, dict) else {}
            own = [*module.items.items(), *_items(state.get("_parameters")), *_items(state.get("_buffers"))]
            modules = _items(state.get("_modules"))
            self.done += 1 + len(own) + len(modules)
            found |= {prefix + str(k): x for k, x in own if isinstance(x, Lazy)}
            if depth < DEPTH:
                inner = [(f"{prefix}{key}.", x, depth + 1) for key, x in modules]
                stack += [x for x in inner if isinstance(x[1], Inert)][::-1]
        return found


def _of_prefixes(place: str, flat: Mapping[str, Lazy]) -> Iterator[Found]:
    """Each network in one dictionary, whose names may all begin alike; wrappers' parts of names are taken out."""
    plain: dict[str, Lazy] = {}
    for key, value in flat.items():
        plain.setdefault(".".join(part for part in key.split(".") if part not in WITHIN), value)
    prefixes = list(dict.fromkeys(
        key.removesuffix(first) for key in plain for first in FIRST if key == first or key.endswith(f".{first}")
    ))[:SETS]  # fmt: skip
    for prefix in prefixes:
        own = {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
        others = [other for other in prefixes if other != prefix and other.startswith(prefix)]
        own = {k: x for k, x in own.items() if not any((prefix + k).startswith(other) for other in others)}
        torchvision = FIRST[0] in own
        heads = ("features.", "classifier.") if torchvision else tuple(f"{x}." for x in _layer_names())
        # What counters and quantisers hang on a layer is a number or nothing, never a layer's own.
        mine = {k: x for k, x in own.items() if k.startswith(heads) and (x.shape or k.endswith("batches_tracked"))}
        if not prefix and not torchvision and "mean" in own:
            mine["mean"] = own["mean"]
        beside = [key for key in plain if key.removeprefix(prefix) not in mine or not key.startswith(prefix)]
        beside = [key for key in beside if not any(key.startswith(x) for x in prefixes if x and x != prefix)]
        beside = [k for k in beside if not k.endswith(("total_ops", "total_params"))]
        where = ".".join(x for x in (place, prefix.rstrip(".")) if x)
        if torchvision or not beside or any(k.startswith(LAST) for k in mine):  # else a ResNet, say
            yield Found(where, torchvision, mine, beside)


def _layer_names() -> set[str]:
    return {layer.name for variant in v.VARIANTS.values() for layer in variant.layers}


def dictionaries(found: Any) -> Iterator[dict]:
    """Those within each other, each once."""
    stack, seen = [found], set[int]()
    while stack:
        one = stack.pop()
        if isinstance(one, dict) and id(one) not in seen:
            seen.add(id(one))
            yield one
            stack += [x for x in one.values() if isinstance(x, dict)]


def objects(found: Any) -> Iterator[str]:
    """The kinds of foreign objects in what was read, in order, not those within tensors or within each other."""
    stack, seen = [found], set[int]()
    while stack:
        one = stack.pop()
        if isinstance(one, Inert):
            yield one.kind
        elif isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            stack += list(one.values() if isinstance(one, dict) else one)[::-1]
