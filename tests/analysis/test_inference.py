"""Intervals, tests and tuning curves, against closed formulas and what can be counted."""

import itertools
import math

import numpy as np
import pytest

from atoll.analysis import inference
from atoll.analysis.inference import Estimate


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert inference.interquartile_mean([[0, 10, 20, 30], [1, 2, 3, 1000]]).value == pytest.approx(
        (2 + 3 + 10 + 20) / 4
    )


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    """100 strata of 20 values; the interquartile mean of a normal sample has about 1.2 times the mean's variance."""
    strata = np.random.default_rng(0).normal(size=(100, 20))
    found = inference.interquartile_mean(list(strata))
    width = found.interval[1] - found.interval[0]
    assert found.interval[0] < found.value < found.interval[1]
    assert width == pytest.approx(2 * 1.96 * math.sqrt(1.2 / 2000), rel=0.15)


def test_one_value_alone_has_no_interval():
    assert inference.interquartile_mean([[1, 2, 3], [4]]).interval is None
    assert inference.median([1.0]).interval is None


def test_a_median_may_be_infinite():
    found = inference.median([1.0, math.inf, math.inf])
    assert found.value == math.inf
    assert found.interval == (1.0, math.inf)


def test_the_probability_of_improvement_counts_pairs():
    ours, theirs = [[1, 2, 3], [5, 5]], [[2, 2], [4, 6, 5]]
    by_hand = np.mean(
        [
            np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(x, y)])
            for x, y in zip(ours, theirs, strict=True)
        ]
    )
    assert inference.probability_of_improvement(ours, theirs).value == pytest.approx(by_hand)
    assert inference.probability_of_improvement([[3, 4]], [[1, 2]]).interval == (1.0, 1.0)


def test_intervals_overlap_unless_both_are_known_and_apart():
    assert not Estimate(1, (0, 2)).overlaps(Estimate(4, (3, 5)))
    assert Estimate(1, (0, 3)).overlaps(Estimate(4, (3, 5)))
    assert Estimate(1, None).overlaps(Estimate(4, (3, 5)))


def test_eight_workloads_cannot_separate_five_methods():
    assert inference.smallest_p(8, 2) == pytest.approx(0.0078125)
    assert inference.smallest_p(8, 5) == pytest.approx(0.078125)
    everywhere = {name: np.arange(8) + 10 * place for place, name in enumerate("abcde")}
    found = inference.separate(everywhere)
    assert not found.is_possible
    assert min(found.p.values()) == pytest.approx(0.078125)
    assert found.ranks == {"e": 1, "d": 2, "c": 3, "b": 4, "a": 5}


def test_enough_workloads_separate_what_differs_and_not_what_is_equal():
    rng = np.random.default_rng(0)
    base = rng.random(12)
    found = inference.separate({"x": base + 1, "y": base, "z": base + 0.01 * rng.normal(size=12)})
    assert found.is_possible
    assert found.friedman < 0.01
    assert found.p["x", "y"] < 0.05
    assert found.p["y", "z"] > 0.05


def test_equal_scores_are_not_separated():
    assert inference.separate({"x": [1, 2, 3, 4], "y": [1, 2, 3, 4]}).p == {("x", "y"): 1.0}


def test_practical_equivalence():
    equal = inference.practically_equal([0.90, 0.80, 0.70, 0.95], [0.901, 0.799, 0.701, 0.949], 0.01)
    better = inference.practically_equal([0.9, 0.8, 0.7, 0.95, 0.9, 0.8], [0.7, 0.6, 0.5, 0.7, 0.65, 0.6], 0.01)
    assert equal.equal > 0.95
    assert better.better > 0.95
    assert better.worse + better.equal + better.better == pytest.approx(1.0)


def test_a_seed_of_numpy_is_only_for_its_block():
    np.random.seed(7)
    expected = np.random.random(2)
    np.random.seed(7)
    first = np.random.random()
    with inference.numpy_seed(0):
        seeded = np.random.random()
    with pytest.raises(ValueError, match="low >= high"), inference.numpy_seed(0):
        np.random.randint(1, 0)
    with inference.numpy_seed(0):
        assert np.random.random() == seeded
    assert [first, np.random.random()] == expected.tolist()


def test_the_expected_best_of_k_is_the_mean_over_all_choices():
    values = [0.3, 0.9, 0.5, 0.5, 0.1]
    expected = [np.mean([max(some) for some in itertools.combinations(values, k)]) for k in range(1, 6)]
    assert inference.expected_best(values) == pytest.approx(expected)
