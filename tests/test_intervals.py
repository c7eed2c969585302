"""The statistics and measures of claims, against simulation, SciPy and written-out ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.base.errors import AlexNetError
from alexnet.networks.variants import VARIANTS
from alexnet.reproduction import figures, intervals, measures, results, running
from alexnet.reproduction.claims import CLAIMS, claim
from alexnet.training.recipe import shipped


def test_an_interval_with_one_seed_is_students_over_pictures():
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(0).normal(0.3, 1, (1, 400))
    interval, known = intervals.paired(values), ttest_1samp(values[0], 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((known.low, known.high))


def test_an_interval_over_seeds_alone_is_students():
    from scipy.stats import ttest_1samp

    values = np.array([1.0, 1.4, 0.7, 1.1])
    interval, known = intervals.over_seeds(values), ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((known.low, known.high))


def test_intervals_over_pictures_and_seeds_hold_the_truth_at_least_95_times_of_100():
    generator, hits, rounds = np.random.default_rng(1), 0, 600
    for _ in range(rounds):
        seeds, pictures = generator.normal(0, 0.5, (3, 1)), generator.normal(0, 2, (1, 60))
        interval = intervals.paired(0.7 + seeds + pictures + generator.normal(0, 1, (3, 60)))
        hits += interval.low <= 0.7 <= interval.high
    assert hits / rounds >= 0.94
    without_seeds = [  # what an interval over pictures alone would hold: far less
        abs((x := 0.7 + generator.normal(0, 0.5, (3, 1)) + generator.normal(0, 0.5, (3, 60))).mean() - 0.7)
        < 1.96 * x.mean(0).std() / math.sqrt(60)
        for _ in range(rounds)
    ]
    assert np.mean(without_seeds) < 0.8


@pytest.mark.parametrize(
    ("low", "high", "paper", "said"),
    [
        (0.1, 2, None, "reproduced"), (-2, -0.1, None, "opposite"), (-1, 1, None, "not distinguishable"),
        (0.1, 2, 1.7, "reproduced"), (0.1, 2, 2.5, "weaker"), (0.1, 2, 0.05, "stronger"),
        (-2, -0.1, 1.7, "opposite"), (-1, 1, 1.7, "not distinguishable"), (2.1, math.inf, 6, "reproduced"),
    ],
)  # fmt: skip
def test_a_verdict_is_which_side_of_nothing_the_interval_is_on_and_whether_the_papers_figure_is_in_it(
    low, high, paper, said
):
    assert intervals.verdict(intervals.Interval(0, low, high, 3, 10), 0.0, paper) == said


def test_several_comparisons_are_as_good_as_their_worst():
    assert intervals.together(["reproduced", "reproduced"]) == "reproduced"
    assert intervals.together(["reproduced", "not distinguishable"]) == "not distinguishable"
    assert intervals.together(["reproduced", "not distinguishable", "opposite"]) == "opposite"
    assert intervals.together(["reproduced", "weaker"]) == "weaker"


def test_epochs_to_an_error_are_read_off_the_line_between_the_epochs_middles():
    epochs = [{"epoch": i + 1, "train_top1_error": e} for i, e in enumerate([0.6, 0.4, 0.3, 0.1])]
    assert measures.crossing(epochs, 0.25) == pytest.approx(2.5 + 0.25)
    assert measures.crossing(epochs, 0.7) == 0.5
    assert measures.crossing(epochs, 0.05) == math.inf


def test_gray_filters_have_no_colour_and_opponent_filters_nothing_else():
    gray = torch.randn(1, 1, 5, 5).expand(1, 3, 5, 5)
    opponent = torch.stack([torch.ones(5, 5), -torch.ones(5, 5), torch.zeros(5, 5)])[None]
    mixed = torch.ones(1, 3, 5, 5) * torch.tensor([3.0, 0.0, 0.0])[:, None, None]  # gray 1,1,1 and colour 2,-1,-1
    assert measures.colourfulness(torch.cat([gray, opponent, mixed])) == pytest.approx([0, 1, 6 / 9], abs=1e-6)


def test_towers_that_differ_are_told_from_those_that_do_not():
    generator = np.random.default_rng(3)
    same, apart = generator.random(64), np.concatenate([generator.random(32) * 0.5, 0.4 + generator.random(32) * 0.5])
    assert measures.by_chance(apart) < 0.001
    assert measures.by_chance(same) > 0.05


def test_every_claim_trains_recipes_and_variants_that_there_are():
    for one in CLAIMS.values():
        for arm in one.arms:
            assert arm.recipe in shipped()
            assert "alexnet64" + arm.form in VARIANTS
        study = running.Study(one, Path("x"), Path("y"), 1, quick=True)
        assert study.recipe(one.arms[0], 4).seed == 4
    with pytest.raises(AlexNetError, match="did you mean 'towers'"):
        claim("tower")


def test_a_comparison_says_in_words_how_sure_it_is():
    one = {"mean": 5.0, "unit": "times", "low": 4.0, "high": 6.0}
    assert results.ours(one) == "5.00 times (4.00 to 6.00)"
    assert results.ours(one | {"high": None}) == "5.00 times (4.00 or more)"
    assert results.ours(one | {"low": None, "high": None}) == "5.00 times (one seed: no interval)"
    assert results.ours(one | {"mean": None}) == "–"


def test_a_bound_from_below_is_drawn_from_its_lower_end_to_beyond_the_mean():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    interval = intervals.Interval(2.2, 2.1, math.inf, 3, 0)
    bound = measures.ArmComparison("a sooner than b, at least", "times", interval, "reproduced")
    figures._intervals(axes, measures.Outcome({}, [bound]))
    bar = next(line for line in axes.lines if line.get_marker() == ">")
    assert bar.get_xdata()[0] == 2.1
    assert 2.2 < bar.get_xdata()[1] < axes.get_xlim()[1]
