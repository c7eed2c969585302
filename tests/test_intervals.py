"""The statistics and measures of claims, against simulation, SciPy and written-out ones."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(1.2, 2.8, "reproduced"), (0.5, 1.0, "reproduced"), (0.1, 0.9, "weaker"), (-1, 3, "not distinguishable")],
)
def test_over_a_point_is_met_by_any_more(low, high, said):
    assert CLAIMS["colour-noise"].over
    assert intervals.verdict(intervals.Interval(2, low, high, 3, 10), 0.0, 1.0, over=True) == said
    one = {"name": "without colour noise, top-1", "unit": "points", "mean": 2, "low": low, "high": high}
    facts = {"seeds": 3, "comparisons": [one | {"seeds": 3, "pictures": 10}]}
    assert results.judged(CLAIMS["colour-noise"], facts)["verdict"] == said


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [
        (18.2, 17.44, 18.96, "reproduced"),  # results/cifar-18
        (17, 16, 18, "reproduced"), (12, 11, 13, "reproduced"), (18.3, 18.1, 18.5, "reproduced"),
        (18.9, 17.9, 19.9, "reproduced"), (19.1, 17.9, 20.3, "not distinguishable"),
        (18.6, 18.2, 19, "not distinguishable"), (32.5, 0.7, 64.3, "not distinguishable"),
        (19, 18.6, 19.4, "opposite"), (30, 29, 31, "opposite"),
    ],
)  # fmt: skip
def test_a_stated_error_is_met_where_the_interval_is_below_it_or_holds_it_closely(mean, low, high, said):
    interval = intervals.Interval(mean, low, high, 2, 10)
    assert intervals.met(interval, 18.0) == said
    one = {"name": "top-1 error, stated 18 %", "unit": "%", "mean": mean, "low": low, "high": high}
    facts = {"seeds": 2, "comparisons": [one | {"seeds": 2, "pictures": 10, "verdict": "reproduced"}], "notes": []}
    facts = results.judged(CLAIMS["cifar-18"], facts)
    assert facts["verdict"] == facts["comparisons"][0]["verdict"] == said
    words = {"reproduced": "is met", "opposite": "is missed", "not distinguishable": "cannot tell whether"}
    assert words[said] in results.meaning(CLAIMS["cifar-18"], facts)


def test_two_seeds_far_above_a_stated_error_and_apart_do_not_meet_it():
    wrong = np.zeros((2, 2000))
    wrong[0, :600] = wrong[1, :700] = 100
    interval = intervals.paired(wrong)
    assert interval.low < 18 < interval.high
    assert intervals.met(interval, 18.0) == "not distinguishable"


def test_an_ensemble_is_set_against_the_papers_figure_where_it_is_of_as_many():
    assert [CLAIMS["ensemble"].compared(seeds)[0] for seeds in (2, 3, 4, 5, 6)] == [None, None, None, 2.6, None]
    assert CLAIMS["lrn"].compared(1) == (1.4, 1.2)
    one = {"name": "one network against 3, top-1", "unit": "points", "mean": 1, "low": 0.5, "high": 1.5, "pictures": 9}
    for seeds, said in ((3, "reproduced"), (5, "weaker")):
        facts = {"seeds": seeds, "comparisons": [one | {"seeds": seeds}]}
        assert results.judged(CLAIMS["ensemble"], facts)["verdict"] == said


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


def study(name: str, trained, seeds: int = 1, classes: int = 10) -> SimpleNamespace:
    """One that trains nothing: `trained(arm, seed)` is what each network came to."""
    return SimpleNamespace(
        claim=CLAIMS[name], seeds=seeds, data=lambda: SimpleNamespace(classes=range(classes)),
        trained=lambda arm, seed, *rates: trained(arm, seed),
    )  # fmt: skip


def sooner(arm, seed):
    errors = [0.5, 0.2] if arm.name == "ReLU" else [0.5, 0.4, 0.3, 0.2]
    return SimpleNamespace(seed=seed, epochs=[{"epoch": n, "train_top1_error": e} for n, e in enumerate(errors, 1)])


def test_one_seed_that_is_sooner_has_no_interval_and_is_no_bound():
    (found,) = measures.measure_claim(study("relu-vs-tanh", sooner)).comparisons
    assert (found.interval.low, found.interval.high) == (-math.inf, math.inf)
    assert found.verdict == "not distinguishable"
    (found,) = measures.measure_claim(study("relu-vs-tanh", sooner, 3)).comparisons
    assert found.interval.low == pytest.approx(found.interval.mean)


@pytest.mark.parametrize("wild", [("tanh",), ("ReLU",), ("tanh", "ReLU")])
def test_networks_whose_loss_became_infinite_are_left_out_of_the_figure(wild):
    outcome = measures.measure_claim(study("relu-vs-tanh", lambda arm, n: None if arm.name in wild else sooner(arm, n)))
    assert {name for name, several in outcome.runs.items() if not several} == set(wild)
    assert outcome.verdict == "not distinguishable"
    figures.save_figure(outcome, "relu-vs-tanh", file := io.BytesIO())
    assert file.getvalue().startswith(b"\x89PNG")


def untrained(arm, seed):
    raise AssertionError("it was trained")


def test_an_ensemble_of_one_network_is_refused_before_it_is_trained():
    with pytest.raises(AlexNetError, match="takes two networks or more: give --seeds 2 or more"):
        measures.measure_claim(study("ensemble", untrained))


def test_a_start_that_ends_within_its_first_epoch_is_a_sentence():
    with pytest.raises(
        AlexNetError, match="ended within its first epoch, so its training loss is not known; give a high"
    ):
        measures.measure_claim(study("init-and-bias", lambda arm, seed: SimpleNamespace(epochs=[])))


@pytest.mark.parametrize(("below", "flat"), [(0.5, False), (0.03, True), (0.0, True), (-0.2, True)])
def test_a_loss_that_is_not_below_guessing_by_2_percent_is_flat(below, flat):
    line = {"train_loss": math.log(10) - below}
    outcome = measures.measure_claim(study("init-and-bias", lambda arm, seed: SimpleNamespace(epochs=[line])))
    assert [one.verdict == "reproduced" for one in outcome.comparisons] == [not flat, flat, not flat]
    assert "a loss that is not below it by 2 % counts as flat" in outcome.notes[0]


def test_neighbours_are_asked_of_every_seed(monkeypatch):
    shares = {"fc7": [[0.2, 0.4], [0.6, 0.8]], "pixels": [[0.0, 0.2], [0.2, 0.4]]}

    def seen(seed, data):
        own = {name: np.array(both[seed]) for name, both in shares.items()}
        return measures.Neighbourhood(np.full((2, 3), seed), torch.tensor([0, 1]), torch.full((2, 5), seed), own)

    monkeypatch.setattr(measures, "neighbourhood", lambda classifier, data: seen(classifier.seed, data))
    preprocess = SimpleNamespace(shape=(3, 1, 1))
    monkeypatch.setattr(measures, "load_classifier", lambda at, device: SimpleNamespace(seed=at, preprocess=preprocess))
    two = SimpleNamespace(classes=range(2))
    one = study("retrieval", lambda arm, seed: SimpleNamespace(seed=seed, folder=seed, data=two), 2)
    outcome = measures.measure_claim(one)
    (found,) = outcome.comparisons
    assert (found.interval.mean, found.interval.seeds, found.interval.pictures) == (pytest.approx(30), 2, 2)
    assert outcome.notes == ["Precision at 5: fc7 50.0 %, pixels 20.0 %; chance is 50.0 %."]
    assert outcome.extra["rows"].unique().tolist() == [0]  # the figure is the first seed's


@pytest.mark.parametrize(("classes", "why"), [(1000, "ten views, and this of one"), (200, "other data")])
def test_headline_says_why_the_papers_figure_is_not_compared(classes, why):
    run = SimpleNamespace(right=lambda views: np.ones((2, 9), bool))
    outcome = measures.measure_claim(study("headline", lambda arm, seed: run, classes=classes))
    assert outcome.notes == [f"The paper's figure is of {why}, so nothing is compared: this is the error to know."]
