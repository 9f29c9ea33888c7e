"""Genes and values of one distribution."""

from collections import Counter

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

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
