"""Genes and values of one distribution."""

from collections import Counter

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces import encoding
from atoll.searchspaces.space import Parameter


def test_integers_get_equal_shares_and_a_ceiling_rescales_them():
    parameter = Parameter(name="S", distribution=IntDistribution(0, 32), default=1, at_most="B")
    counts = Counter(parameter.decode(i / 1000, high=4) for i in range(1000))
    assert counts == dict.fromkeys(range(5), 200)


def test_log_scale():
    parameter = Parameter(name="x", distribution=FloatDistribution(1e-4, 1e-2, log=True), default=1e-3)
    assert parameter.decode(0.5) == pytest.approx(1e-3, rel=1e-12)
    assert parameter.decode(0.0) >= 1e-4
    assert parameter.decode(1.0) <= 1e-2


def test_true_is_no_number():
    assert not Parameter(name="x", distribution=IntDistribution(0, 2), default=1).contains(True)
    assert Parameter(name="x", distribution=CategoricalDistribution([True, False]), default=True).contains(True)


@pytest.mark.parametrize("value", [0.0001, 0.00032, 1e-5, 0.3, 0.01, 0.05, 1e-1])
def test_a_value_keeps_its_digits_on_the_way_to_a_gene_and_back(value):
    for distribution in (
        FloatDistribution(1e-6, 0.5, log=True),
        FloatDistribution(0.0, 0.5),
        FloatDistribution(-1.0, 0.7),
    ):
        assert encoding.decode(distribution, encoding.encode(distribution, value)) == value
    assert encoding.decode(FloatDistribution(0.1, 0.7, step=0.2), 0.4) == 0.3


def test_rounding_stays_inside_the_range():
    distribution = FloatDistribution(1 / 3, 2 / 3)
    assert (encoding.decode(distribution, 0.0), encoding.decode(distribution, 1.0)) == (1 / 3, 2 / 3)
