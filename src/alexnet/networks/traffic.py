"""What processes that train one network together send each other, in numbers and bytes: arithmetic, without torch.

Three ways: `data`, each process has the whole network and a share of the pictures, and gradients are summed; `towers`,
two processes have a tower each, as in 2012 (paper §3.2, facts 9.1); `hybrid`, convolutions as in `data`, the fully
connected layers split by units, as in 2014 (arXiv 1404.5997, facts 9.2). All counts are of what leaves the processes,
of all of them together; a sum over K processes of n numbers each sends 2(K - 1)n, as a ring does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from alexnet.base.errors import AlexNetError
from alexnet.networks import variants as v
from alexnet.networks.shapes import output_shape, weight_shapes

WAYS = ("data", "towers", "hybrid")
FLOAT = 4  # bytes of a float32


def share(count: int, rank: int, size: int) -> range:
    """A process' share of `count` things: contiguous, sizes differing by one at most."""
    return range(count * rank // size, count * (rank + 1) // size)


def shapes(variant: v.Variant, classes: int, channels: int, input: int) -> Iterator[tuple[v.Layer, tuple, tuple]]:
    """Each layer with the shapes, without the batch, of what it takes and gives."""
    shape: tuple[int, ...] = (channels, input, input)
    for record in variant.layers:
        before, shape = shape, output_shape(record, shape, classes)
        yield record, before, shape


# -- two towers --


@dataclass(frozen=True)
class Talk:
    """A layer that sees both towers: how many numbers a picture the first and the second send the other for it. As
    many gradients come back."""

    layer: str
    first: int
    second: int


def towers(variant: v.Variant, classes: int, channels: int, input: int) -> list[Talk]:
    """Where two processes with a tower each talk; a variant without towers is refused in a sentence that says why.

    The last layer is the first process' alone, as in 2012.
    """
    if why := _no_towers(variant):
        raise AlexNetError(
            f"{variant.name} cannot be trained by two processes with a tower each: {why}; leave out parallel=towers, "
            "or take a network of two towers, for example alexnet2012."
        )
    talks = []
    weighted = [x for x in variant.layers if isinstance(x, v.Conv | v.FC)]
    for record, before, _ in shapes(variant, classes, channels, input):
        if record in weighted[1:] and record.groups == 1:
            half = math.prod(before) // 2
            talks.append(Talk(record.name, 0 if record is weighted[-1] else half, half))
    return talks


def _no_towers(variant: v.Variant) -> str:
    """Why its layers are no two towers; "" where they are."""
    weighted = [x for x in variant.layers if isinstance(x, v.Weighted)]
    if not any(getattr(x, "groups", 1) == 2 for x in weighted):
        return "none of its layers is in two groups"
    for record in variant.layers:
        if isinstance(record, v.LRN) and record.towers != 2:
            return f"its {record.name} normalises over the maps of both"
        if isinstance(record, v.Local):
            return f"its {record.name} has weights of its own at every position"
        if isinstance(record, v.Conv | v.FC) and record is not weighted[-1]:
            width = record.filters if isinstance(record, v.Conv) else record.units or 0
            if width % 2 or record.groups > 2:
                return f"its {record.name} cannot be halved"
    if not isinstance(weighted[-1], v.FC) or weighted[-1].groups > 1:
        return "its last layer is not fully connected to both"
    return ""


# -- fully connected layers split by units --


def split_layers(variant: v.Variant, processes: int = 2) -> list[v.FC]:
    """The fully connected layers that `hybrid` splits; a variant that it does not take is refused in a sentence."""
    found = [x for x in variant.layers if isinstance(x, v.FC)]
    for record in variant.layers:
        if isinstance(record, v.FC) and record.groups > 1:
            why = f"its {record.name} is in {record.groups} groups"
        elif isinstance(record, v.BatchNorm):
            why = f"its {record.name} is batch normalisation, which needs the whole batch"
        else:
            continue
        raise AlexNetError(
            f"{variant.name} cannot be trained with its fully connected layers split by units: {why}; leave out "
            "parallel=hybrid."
        )
    return found


@dataclass(frozen=True)
class StepTraffic:
    """Numbers that all processes together send in a step: for the convolutions, and for the fully connected layers."""

    convolutions: int
    connected: int

    @property
    def all(self) -> int:
        return self.convolutions + self.connected


def _weights(variant: v.Variant, classes: int, channels: int, input: int) -> tuple[int, int]:
    """Weights and biases below the first fully connected layer, and from it on; of batch normalisation too."""
    below = above = 0
    table = weight_shapes(variant, classes, channels, input)
    for record, _, shape in shapes(variant, classes, channels, input):
        own = sum(math.prod(table.get(f"{record.name}.{kind}", (0,))) for kind in ("weight", "bias"))
        if isinstance(record, v.FC):
            above += own
        else:
            below += 2 * shape[0] if isinstance(record, v.BatchNorm) else own
    return below, above


def data(variant: v.Variant, classes: int, channels: int, input: int, processes: int) -> StepTraffic:
    """Sums of all gradients."""
    below, above = _weights(variant, classes, channels, input)
    return StepTraffic(2 * (processes - 1) * below, 2 * (processes - 1) * above)


def sharded(variant: v.Variant, classes: int, channels: int, input: int, processes: int) -> StepTraffic:
    """The same with every weight, gradient and velocity kept by one process alone (FSDP, ZeRO 3): weights are asked
    for twice, forward and backward, and gradients are summed into one place."""
    whole = data(variant, classes, channels, input, processes)
    return StepTraffic(whole.convolutions * 3 // 2, whole.connected * 3 // 2)


def hybrid(
    variant: v.Variant, classes: int, channels: int, input: int, processes: int, pictures: int, above: bool = False
) -> StepTraffic:
    """Activations of the fully connected layers and their gradients, for `pictures` a step of all processes together.

    Each process has the weights from its own units to all of the next layer: it needs its units of the maps for all
    pictures, adds its part of each next layer's sums to the others', and gets the sums of its own units, in the last
    layer of its own pictures. `above`: the weights to its own units instead, as in 2014, which needs every unit below.
    """
    layers = split_layers(variant)
    found = [(record, math.prod(a), math.prod(b)) for record, a, b in shapes(variant, classes, channels, input)]
    widths = [(a, b) for record, a, b in found if record in layers]
    others = processes - 1

    def exchanged(units: int) -> int:  # from one's pictures to one's units, or back
        own = sum(len(share(pictures, r, processes)) * len(share(units, r, processes)) for r in range(processes))
        return pictures * units - own

    if above:
        sent = sum(pictures * a * others for a, _ in widths) + exchanged(widths[-1][1])
    else:
        sent = exchanged(widths[0][0]) + sum(pictures * b * others for _, b in widths)
    return StepTraffic(data(variant, classes, channels, input, processes).convolutions, 2 * sent)
