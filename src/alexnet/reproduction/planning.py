"""What `alexnet reproduce --all` trains, in which order: what decides a claim for the least work comes first.

Every claim gets its first seed before any gets its second, so that a plan that is cut short has something of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from alexnet.base.text import counted
from alexnet.networks.shapes import layer_facts
from alexnet.networks.variants import variant
from alexnet.reproduction.claims import CIFAR, CLAIMS, TINY, Arm, Claim
from alexnet.reproduction.running import Study
from alexnet.training.recipe import Recipe

PICTURES = {CIFAR: 50_000, TINY: 100_000}  # to train on, where no data were given
Count = Callable[[Claim, str], int]  # of the pictures to train on, of a claim's data by name


@dataclass(frozen=True)
class Network:
    """A network to train. `most`: the search for a rate, or its target, may end sooner; it may also go on further."""

    arm: str
    recipe: Recipe
    data: str
    first: str  # the data that it was trained on before
    pictures: int  # passes of pictures
    most: bool

    @property
    def work(self) -> float:
        """Multiply-adds of its training, forward and twice that backward."""
        return 3.0 * self.pictures * multiply_adds(self.recipe.variant, self.recipe.input)


@dataclass(frozen=True)
class StudyPart:
    """A claim with its first so many seeds, and the networks of it that no part before has trained."""

    claim: Claim
    seeds: int
    networks: tuple[Network, ...]

    @property
    def work(self) -> float:
        return sum(one.work for one in self.networks)


def seeds_of(claim: Claim, quick: bool = False) -> int:
    """How many networks of each kind, unless more or fewer are asked for."""
    return min(claim.seeds, 3 if claim.kind == "ensemble" else 1) if quick else claim.seeds


@cache
def multiply_adds(name: str, input: int = 0) -> int:
    """For one picture."""
    plan = variant(name)
    return sum(row.macs for row in layer_facts(plan, 200, 3, input or plan.input))


def plan(study: Callable[[Claim, int], Study], count: Count, seeds: Callable[[Claim], int]) -> list[StudyPart]:
    """Parts in the order in which they are done; `study` makes one of a claim with so many seeds."""
    parts: list[StudyPart] = []
    trained: set[Network] = set()
    for number in range(1, max(map(seeds, CLAIMS.values())) + 1):
        waiting = [
            (one, _networks(study(one, number), count))
            for one in CLAIMS.values()
            if (2 if one.kind == "ensemble" else 1) <= number <= seeds(one)
        ]
        while waiting:
            left = [
                StudyPart(one, number, tuple(x for x in networks if _alike(x) not in trained))
                for one, networks in waiting
            ]
            chosen = min(left, key=lambda part: part.work)
            trained |= {_alike(x) for x in chosen.networks}
            parts.append(chosen)
            waiting = [pair for pair in waiting if pair[0] is not chosen.claim]
    return parts


def _alike(one: Network) -> Network:
    """The same whatever it is called: claims share networks."""
    return Network("", one.recipe, one.data, one.first, one.pictures, one.most)


def _networks(study: Study, count: Count) -> list[Network]:
    """All that a study needs; of rates those that are tried at least, with the first seed."""
    found = []

    def add(arm: Arm, seed: int, rate: float, data: str) -> None:
        recipe = study.recipe(arm, seed, rate)
        if arm.first:  # the network is that of the weights
            recipe = replace(recipe, variant=study.recipe(Arm("first", "tiny_imagenet"), seed).variant)
        passes = recipe.epochs * count(study.claim, data)
        found.append(Network(arm.name, recipe, data, arm.first, passes, bool(rate)))

    for seed in range(study.seeds):
        for arm in study.claim.arms:
            if arm.first:
                add(Arm(f"first, on {arm.first}", "tiny_imagenet"), seed, 0.0, arm.first)
            for rate in arm.rates or (0.0,):
                for tried in (rate, 2 * rate, rate / 2) if rate and not seed else (rate,):
                    add(arm, seed, tried, study.claim.data)
    return found


def lines(parts: Sequence[StudyPart], rate: float = 0.0, minutes: float = 0.0) -> Iterator[str]:
    """The plan in words; `rate` is images/s at which alexnet64 trains, to which others go by their arithmetic."""
    base, spent, over = 3.0 * multiply_adds("alexnet64") * rate, 0.0, False
    for part in parts:
        seconds = part.work / base if rate else 0.0
        if minutes and rate and not over and spent + seconds > 60 * minutes:
            over = True
            yield f"---- {minutes:g} min end here ----"
        spent += seconds
        until = f": done after {spent / 60:,.1f} min" if rate else ""
        yield f"{part.claim.name}, {part.seeds} seed{'s' * (part.seeds > 1)}{until}"
        for one in part.networks:
            recipe = one.recipe
            how = f" at {recipe.learning_rate:g}, at most" if one.most else ","
            yield (
                f"    {one.arm}, seed {recipe.seed}: {recipe.variant}{how} {counted(recipe.epochs, 'epoch')} of "
                f"{counted(one.pictures // recipe.epochs, 'picture')} of {one.data}"
            )
    networks = [one for part in parts for one in part.networks]
    said = f"; {spent / 60:,.0f} minutes where alexnet64 trains {rate:,g} images/s" if rate else ""
    yield (
        f"{counted(len(networks), 'network')}, {counted(sum(one.recipe.epochs for one in networks), 'epoch')}, "
        f"{counted(sum(one.pictures for one in networks), 'pass')} of a picture{said}"
    )
