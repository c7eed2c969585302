"""What `alexnet.load` gives: a classifier that answers by its methods."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps

from alexnet.engines import loading
from alexnet.inference.features import Features, features
from alexnet.inference.prediction import Prediction, predict
from alexnet.weights.classifier import Classifier


class Loaded(Classifier):
    """A classifier that answers."""

    def predict(self, pictures, topk: int = 5, batch_size: int = 64) -> list[Prediction]:
        """The `topk` most probable classes of each picture (paths, bytes, PIL images or uint8 arrays), in order."""
        return predict(self, pictures, topk=topk, batch_size=batch_size)

    def features(self, pictures, layers="fc7", pool=None, batch_size: int = 64) -> Iterator[Features]:
        """The outputs of layers by name for each picture, one by one in order; `alexnet.features`."""
        return features(self, pictures, layers, pool, batch_size)


@wraps(loading.load)
def load(*given, **named) -> Loaded:
    return answering(loading.load(*given, **named))


def answering(classifier: Classifier) -> Loaded:
    """The same classifier, with methods that answer."""
    return Loaded(**vars(classifier))
