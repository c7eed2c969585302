"""Variants with few filters and units on small pictures: the same plan, quick enough for any comparison."""

from __future__ import annotations

from dataclasses import replace

from alexnet import variants as v

FILTERS = {"conv1": 8, "conv2": 16, "conv3": 12, "conv4": 20, "conv5": 16, "conv6": 12, "local3": 6, "local4": 4}
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
