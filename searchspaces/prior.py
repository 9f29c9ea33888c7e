"""A prior: where somebody expects the best value of a parameter, and how surely."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from atoll.searchspaces import encoding
from atoll.searchspaces.encoding import Gene, Value

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Prior:
    """A belief about a parameter's best value.

    Of a number: a normal distribution of its gene, on the log scale if its range is, cut to the range. Of choices: the
    mode has the probability 1 - sigma (1 - 1/k) of k choices, and the others share the rest, so that sigma 1 says
    nothing.

    Attributes:
        mode: the most probable value.
        sigma: the standard deviation, as a share of the range; in (0, 1].
    """

    mode: Value
    sigma: float

    def draw(self, distribution: BaseDistribution, rng: random.Random, ceiling: float | None = None) -> Gene:
        """A gene; `ceiling` lowers the distribution's upper limit."""
        mode = self._gene(distribution, ceiling)
        if isinstance(distribution, CategoricalDistribution):
            weights = [self._probability(len(distribution.choices), place == mode) for place in _places(distribution)]
            return rng.choices(list(_places(distribution)), weights)[0]
        low, high = (_NORMAL.cdf((end - mode) / self.sigma) for end in (0.0, 1.0))
        share = min(max(low + rng.random() * (high - low), 1e-12), 1 - 1e-12)
        return min(max(mode + self.sigma * _NORMAL.inv_cdf(share), 0.0), 1.0)

    def log_density(self, distribution: BaseDistribution, gene: Gene, ceiling: float | None = None) -> float:
        """The logarithm of a gene's density, relative to the uniform one."""
        mode = self._gene(distribution, ceiling)
        if isinstance(distribution, CategoricalDistribution):
            num_choices = len(distribution.choices)
            return math.log(num_choices * self._probability(num_choices, gene == mode))
        return -0.5 * ((gene - mode) / self.sigma) ** 2 - _log_scale(float(mode), self.sigma)

    def _gene(self, distribution: BaseDistribution, ceiling: float | None) -> Gene:
        return encoding.encode(distribution, encoding.nearest(distribution, self.mode, ceiling), ceiling)

    def _probability(self, num_choices: int, is_mode: bool) -> float:
        others = self.sigma * (1 - 1 / num_choices)
        # Never quite 0: a choice that nobody expects may be the best one.
        return max(1 - others if is_mode else others / max(1, num_choices - 1), 1e-6)

    def as_dict(self) -> dict[str, Any]:
        """The prior as plain data."""
        return {"mode": self.mode, "sigma": self.sigma}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Prior:
        """The prior that `as_dict` described."""
        return cls(content["mode"], content["sigma"])


def _places(distribution: CategoricalDistribution) -> range:
    return range(len(distribution.choices))


@cache
def _log_scale(mode: float, sigma: float) -> float:
    """The logarithm of the integral of exp(-((x - mode) / sigma)^2 / 2) over [0, 1]."""
    mass = _NORMAL.cdf((1 - mode) / sigma) - _NORMAL.cdf(-mode / sigma)
    return math.log(mass * sigma * math.sqrt(2 * math.pi))
