"""Priors: densities, and draws that follow them."""

import collections
import math
import random
import statistics

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.parameter import Parameter
from atoll.searchspaces.prior import Prior

UNIT = FloatDistribution(0.0, 1.0)


@pytest.mark.parametrize(("mode", "sigma"), [(0.5, 0.1), (0.0, 0.25), (0.9, 1.0)])
def test_the_density_of_a_number_is_that_of_a_cut_normal_distribution(mode, sigma):
    prior = Prior(mode, sigma)
    density = [math.exp(prior.log_density(UNIT, (place + 0.5) / 10_000)) for place in range(10_000)]
    assert statistics.mean(density) == pytest.approx(1.0, rel=1e-6)  # the midpoint rule, over 10,000 intervals
    ratio = math.exp(-0.5 * ((0.3 - mode) / sigma) ** 2 + 0.5 * ((0.6 - mode) / sigma) ** 2)
    found = math.exp(prior.log_density(UNIT, 0.3) - prior.log_density(UNIT, 0.6))
    assert found == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize(("mode", "sigma"), [(0.5, 0.1), (0.0, 0.25), (0.9, 1.0)])
def test_draws_follow_the_density(mode, sigma):
    prior, rng = Prior(mode, sigma), random.Random(1)
    drawn = [prior.draw(UNIT, rng) for _ in range(4000)]
    assert all(0 <= gene <= 1 for gene in drawn)
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
        middles = [low + (high - low) * (place + 0.5) / 1000 for place in range(1000)]
        expected = (high - low) * statistics.mean(math.exp(prior.log_density(UNIT, gene)) for gene in middles)
        share = statistics.mean(low <= gene < high for gene in drawn)
        assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / len(drawn)))


def test_a_prior_on_a_log_scale_is_centered_on_the_logarithm_of_its_mode():
    rates, rng = FloatDistribution(1e-4, 1.0, log=True), random.Random(1)
    genes = [Prior(0.01, 0.05).draw(rates, rng) for _ in range(400)]
    assert statistics.mean(genes) == pytest.approx(0.5, abs=4 * 0.05 / math.sqrt(400))


@pytest.mark.parametrize(("sigma", "expected"), [(1.0, 0.25), (0.4, 0.7)])
def test_of_choices_the_mode_is_the_more_probable_the_smaller_sigma_is(sigma, expected):
    """1 - sigma (1 - 1/4); the others share the rest."""
    kinds, rng = CategoricalDistribution(["a", "b", "c", "d"]), random.Random(1)
    prior = Prior("b", sigma)
    counts = collections.Counter(prior.draw(kinds, rng) for _ in range(2000))
    assert counts[1] / 2000 == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 2000))
    assert counts[3] / 2000 == pytest.approx((1 - expected) / 3, abs=4 * math.sqrt(0.25 / 2000))
    # relative to the uniform density, as that of numbers
    assert math.exp(prior.log_density(kinds, 1)) == pytest.approx(4 * expected)
    assert math.exp(prior.log_density(kinds, 0)) == pytest.approx(4 * (1 - expected) / 3)


def test_a_single_choice_is_certain():
    only = CategoricalDistribution(["a"])
    assert Prior("a", 0.1).draw(only, random.Random(1)) == 0
    assert Prior("a", 0.1).log_density(only, 0) == pytest.approx(0.0)


def test_a_mode_above_a_ceiling_is_the_ceiling():
    delays = IntDistribution(0, 64)
    genes = [Prior(32, 0.1).draw(delays, random.Random(seed), ceiling=8) for seed in range(50)]
    assert min(genes) > 0.5


def test_plain_data_and_back():
    rate = Parameter(name="rate", distribution=UNIT, default=0.5, prior=Prior(0.3, 0.2))
    assert Parameter.from_dict(rate.as_dict()) == rate
    older = rate.as_dict()
    del older["prior"]  # of spaces that were recorded before there were priors
    assert Parameter.from_dict(older).prior is None
