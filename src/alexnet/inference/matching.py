"""Labels of DATA and outputs of models in one order of classes, and what DATA holds out for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from alexnet.base.errors import AlexNetError
from alexnet.base.hints import IMAGEFOLDER, NUMERIC
from alexnet.base.text import counted
from alexnet.data import labels
from alexnet.data.dataset import Data, Split
from alexnet.data.held_out import HeldOut, as_trained, divided, recorded
from alexnet.weights.base import ASSUMED, note
from alexnet.weights.classifier import Classifier


def held_out_for(data: Data, held: HeldOut | None, models: Sequence[Classifier], say: Callable[[str], object]) -> Data:
    """DATA with held out what was asked for, or what the first model's training held out of it; says what differs."""
    chosen, known = data, recorded(models[0].trained)
    if held is not None:
        chosen = divided(data, held.checked())
    elif known is not None and known[0] != HeldOut():
        held, there = known[0], as_trained(data, models[0].trained)
        if there is None:
            say(f"{data.path} is not what MODEL was trained on, so what was held out there says nothing here")
        chosen = data if there is None else there
    held = held or HeldOut()
    for number, one in enumerate(models, 1):
        known = recorded(one.trained)
        if known is not None and known[0] != held and as_trained(data, one.trained) is not None:
            which = f"MODEL {number}" if len(models) > 1 else "MODEL"
            say(f"other pictures were held out when {which} was trained, so it was trained on some of these")
    return chosen


def with_names(one: Classifier, data: Data) -> Classifier:
    """The classifier with its outputs called as DATA's classes, where its file names none; what is assumed is said."""
    names, count = data.classes, len(one.classes)
    numbered = all(name.isdecimal() and len(name) < 10 for name in names)
    if one.naming in (IMAGEFOLDER, NUMERIC) and len(names) == count:
        if one.naming == NUMERIC and not numbered:
            raise AlexNetError(f"--classes numeric was given, and DATA's classes are no numbers ({names[0]!r:.40}).")
        return replace(one, classes=sorted(names) if one.naming == IMAGEFOLDER else sorted(names, key=int))
    known_here = any(place >= 0 for place in labels.places(names, one.classes))
    if one.naming != ASSUMED or not data.named or (known_here and not numbered):
        return one
    if numbered and (len(names) == count or all(int(name) < count for name in names)):
        by_number = {int(name): name for name in names}
        known = sorted(names, key=int) if len(names) == count else [by_number.get(n, str(n)) for n in range(count)]
        text = sorted(known)
        other = f"; torchvision's ImageFolder orders them as text ({', '.join(text[:5])} …): --classes imagefolder"
        note(
            f"{one.origin} names no classes: its outputs are taken for DATA's {', '.join(known[:3])} … in the order of "
            f"their numbers{other if text != known else ''}"
        )
        return replace(one, classes=known)
    shown = ", ".join(sorted(names)[:3]) + (" …" if names[3:] else "")
    raise AlexNetError(
        f"{one.origin} names none of its {counted(count, 'class')}, and DATA {data.path} has {len(names):,} ({shown}); "
        "give the names in the model's order with --classes FILE, or --classes imagefolder if it was trained by "
        "torchvision's ImageFolder on all of them."
    )


def match_classes(data: Data, split: Split, classes: list[str]) -> Split:
    """The split with labels in the model's order of classes; names unknown to the model are an error."""
    if data.classes == classes:
        return split
    used = np.unique(split.labels)
    # Labels without names are the numbers of outputs, whatever these are called.
    table = np.array(labels.places(data.classes, classes) if data.named else np.arange(len(data.classes)), np.int64)
    if unknown := [data.classes[i] for i in used if not 0 <= table[i] < len(classes)]:
        raise AlexNetError(
            f"{data.path} has classes that the model does not know ({', '.join(unknown[:5])}"
            f"{' and more' if len(unknown) > 5 else ''}); it knows {len(classes)}, such as {', '.join(classes[:3])}: "
            "give data of those classes, or another model."
        )
    return replace(split, labels=table[split.labels])


def columns(own: list[str], classes: list[str]) -> Tensor | None:
    """Where a model's outputs stand in the order of `classes`; None where they are in order."""
    found, order = labels.places(classes, own), list(range(len(own)))
    if sorted(found) != order:
        raise AlexNetError(
            f"the models of an ensemble must know the same classes; the first knows {len(classes)}, another {len(own)} "
            "or others: give models that were trained on the same classes."
        )
    return None if found == order else torch.tensor(found)
