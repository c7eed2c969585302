"""A run folder as the page shows it: its curves while it is trained, and what its network takes for what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from alexnet.base import metrics
from alexnet.base.run_files import METRICS
from alexnet.data.pictures import decode
from alexnet.inference.confusion import Tally
from alexnet.inference.evaluation import measure, opened
from alexnet.serving.limits import Refused
from alexnet.serving.models import Served

MOST_LINES = 4000  # of steps that are sent; of longer runs every n-th
WORST = 12  # mistakes that are shown
MOST_CLASSES = 200  # of a matrix that is drawn; of more, those with most mistakes


class Evaluated(NamedTuple):
    """The matrix of the validation split and its worst mistakes, and their pictures."""

    facts: dict[str, Any]
    pictures: list[Image.Image]


def metrics_after(model: Served, after: int) -> dict[str, Any]:
    """A run's metrics from line `after` on; fewer steps of a run that has many."""
    if model.run is None:
        raise Refused(404, f"{model.name} is no run folder; serve one that alexnet train has made.")
    found = metrics.read(model.run / METRICS)
    if after > len(found):  # the run was begun anew, or went back to its checkpoint
        after = 0
    new = found[after:]
    steps = sum(one.get("kind") == "step" for one in new)
    every = max(1, math.ceil(steps / MOST_LINES))
    kept, seen = [], 0
    for one in new:
        seen += one.get("kind") == "step"
        if one.get("kind") != "step" or seen % every == 0:
            kept.append(one)
    finished = any(one.get("kind") == "final" for one in found)
    return {"lines": kept, "after": after, "next": len(found), "every": every, "finished": finished}


def evaluated(model: Served, data: str, stopped: Callable[[], bool]) -> Evaluated:
    """What the network takes the validation split for; Refused where `stopped` said so."""
    notes: list[str] = []
    where = model.classifier.device
    with opened(model.classifier, data, "valid", device=where, say=notes.append) as task:
        tally = Tally(task.classifiers[0].classes, True, True)
        result = measure(task.members, task.pictures, 64, task.world, stopped=stopped, tally=tally)
        if result is None:
            raise Refused(503, "the server is stopping; ask it when it is there again.")
        split = task.pictures[0].split
        mistakes = tally.worst(WORST)
        pictures = []
        for row, *_ in mistakes:
            picture = decode(split.read(row)).copy()
            picture.thumbnail((400, 400))
            pictures.append(picture)
    matrix, classes = tally.confusion.numpy(), tally.classes
    shown = np.arange(len(classes))
    if len(classes) > MOST_CLASSES:
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
    facts = {
        "images": result.images,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "notes": [note for note in notes if data not in note],  # the others name places
        "classes": [classes[one] for one in shown],
        "all": len(classes),
        "matrix": matrix[np.ix_(shown, shown)].tolist(),
        "mistakes": [
            {"truth": classes[label], "answer": classes[given], "probability": sure, "of_truth": own}
            for _, label, given, sure, own in mistakes
        ],
    }
    return Evaluated(facts, pictures)
