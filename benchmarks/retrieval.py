"""Precision at 5 of a network's fc7 features against raw pixels, on the validation pictures of DATA (paper §6.1).

    python benchmarks/retrieval.py MODEL DATA

Each validation picture is asked among all others, by Euclidean distance, exactly; chance is the share of its class.
"""

from __future__ import annotations

import sys

import alexnet
from alexnet.data.layouts.registry import find_data
from alexnet.reproduction.intervals import paired
from alexnet.reproduction.measures import neighbourhood


def main(model: str, data: str) -> None:
    classifier = alexnet.load(model, "cpu")
    found = find_data(data)
    seen = neighbourhood(classifier, found)
    print(f"{classifier.origin}; {len(seen.labels):,} pictures of {len(found.classes)} classes")
    for name, shares in seen.shares.items():
        interval = paired(100 * shares[None])
        print(f"{name:8} {interval.mean:5.1f} % ({interval.low:.1f} to {interval.high:.1f})")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python benchmarks/retrieval.py MODEL DATA")
    main(*sys.argv[1:])
