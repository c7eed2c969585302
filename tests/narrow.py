"""Variants with few filters and units on small pictures: the same plan, quick enough for any comparison.

The layers before a norm or a pooling have as many filters as the fast passes on a CPU ask for (fast/cpu/blocks.py), so
that those are taken; others have odd numbers.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet

FILTERS = {"conv1": 32, "conv2": 32, "conv3": 12, "conv4": 20, "conv5": 16, "conv6": 12, "local3": 6, "local4": 4}
UNITS = 24
SIDES = {256: 96}  # 96 -> 23, which overhangs by 3, -> 11 -> 5 -> 2; smaller nets keep their input


def narrow(name: str) -> v.Variant:
    """The variant with FILTERS, UNITS and the input of SIDES."""
    chosen = v.variant(name)
    layers = []
    for layer in chosen.layers:
        if isinstance(layer, v.Conv | v.Local):
            layers.append(replace(layer, filters=FILTERS[layer.name]))
        elif isinstance(layer, v.FC) and layer.units:
            layers.append(replace(layer, units=UNITS))
        else:
            layers.append(layer)
    side = SIDES.get(chosen.stored)
    return replace(chosen, layers=tuple(layers), input=side or chosen.input, stored=side or chosen.stored)


@torch.no_grad()
def redraw(model: AlexNet, seed: int = 0) -> None:
    """Give every weight and statistic of the network a value with which its layer matters."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 2, generator=draw)
        elif tensor.dim() > 1:
            fan_in = tensor[0].numel() if tensor.dim() < 6 else tensor[0, 0, 0].numel()  # of a local layer
            tensor.normal_(0, 1.5 * fan_in**-0.5, generator=draw)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.5, 0.5, generator=draw)
