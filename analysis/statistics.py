"""How sure a comparison of methods is: intervals, tests, and what a smaller tuning budget would have found.

The mathematics is scipy's, scikit-posthocs' and baycomp's (the extra `analysis`). Larger values are better, unless a
function says otherwise. A stratum is the values of one workload, which are resampled inside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atoll.analysis.resampling import LEVEL, NUM_RESAMPLES, Array, interval, resample

# Of each workload the values of all seeds: (seeds,), or (tunings, seeds) where several tunings were confirmed.
Strata = Sequence[ArrayLike]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None where there is too little data for one."""

    value: float
    interval: tuple[float, float] | None

    def complement(self) -> Estimate:
        """One minus it, of a probability."""
        interval = self.interval
        return Estimate(1 - self.value, None if interval is None else (1 - interval[1], 1 - interval[0]))

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals have a point in common; true where one is missing, as nothing is known then."""
        if self.interval is None or other.interval is None:
            return True
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


def interquartile_mean(strata: Strata) -> Estimate:
    """The mean of the middle half of all values (Agarwal et al. 2021), with a stratified bootstrap interval."""
    return _bootstrapped(strata, lambda *samples: stats.trim_mean(np.concatenate(samples, axis=-1), 0.25, axis=-1))


def median(values: ArrayLike) -> Estimate:
    """The median of one stratum; infinities take part."""
    return _bootstrapped([values], lambda sample: np.median(sample, axis=-1))


def probability_of_improvement(ours: Strata, theirs: Strata) -> Estimate:
    """How likely a seed of ours beats one of theirs on a workload drawn at random (Agarwal et al. 2021); ties are half.

    On one workload it is Mann-Whitney's U over the number of pairs.
    """
    half = len(ours)

    def statistic(*samples: Array) -> Array:
        pairs = zip(samples[:half], samples[half:], strict=True)
        return np.asarray(np.mean([_beats(x, y) for x, y in pairs], axis=0))

    return _bootstrapped([*ours, *theirs], statistic)


def _beats(ours: Array, theirs: Array) -> Array:
    won = stats.mannwhitneyu(ours, theirs, method="asymptotic", axis=-1).statistic
    return np.asarray(won / (ours.shape[-1] * theirs.shape[-1]))


def _bootstrapped(strata: Strata, statistic: Callable[..., Array]) -> Estimate:
    """A statistic of samples (..., values), and its interval."""
    samples = [np.atleast_2d(np.asarray(stratum, dtype=float)) for stratum in strata]
    value = float(statistic(*(sample.ravel() for sample in samples)))
    if any(sample.size < 2 for sample in samples):
        return Estimate(value, None)
    rng = np.random.default_rng(0)
    with np.errstate(invalid="ignore"):
        drawn = statistic(*(resample(sample, NUM_RESAMPLES, rng) for sample in samples))
    return Estimate(value, interval(drawn))


@dataclass(frozen=True)
class Separation:
    """Which methods differ, over workloads as repetitions.

    Attributes:
        ranks: each method's mean rank, 1 the best.
        friedman: p-value that all are equal; None for fewer than three methods.
        p: of every pair, by Wilcoxon's signed-rank test after Holm's correction.
        smallest: the smallest p that so many workloads and pairs can give.
    """

    ranks: dict[str, float]
    friedman: float | None
    p: dict[tuple[str, str], float]
    smallest: float

    @property
    def is_possible(self) -> bool:
        """Whether any pair could be separated at all."""
        return self.smallest <= 1 - LEVEL


def smallest_p(num_workloads: int, num_methods: int) -> float:
    """The least that an exact Wilcoxon test on `num_workloads` can give, after Holm's correction of all pairs."""
    return min(1.0, math.comb(num_methods, 2) * 2.0 ** (1 - num_workloads))


def separate(scores: Mapping[str, ArrayLike]) -> Separation:
    """Compare methods by their scores, one for each workload (workloads,)."""
    import scikit_posthocs  # which draws with matplotlib: a second that the other functions do without

    names = list(scores)
    table = np.array([np.asarray(scores[name], dtype=float) for name in names])
    num_workloads = table.shape[1]
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    pairs = list(itertools.combinations(range(len(names)), 2))
    p = {(names[i], names[j]): 1.0 for i, j in pairs}
    if num_workloads > 1:
        found = scikit_posthocs.posthoc_wilcoxon(table, zero_method="zsplit", p_adjust="holm").to_numpy()
        p = {(names[i], names[j]): float(found[i, j]) for i, j in pairs}
    return Separation(
        ranks=dict(zip(names, map(float, ranks), strict=True)),
        friedman=float(stats.friedmanchisquare(*table).pvalue) if len(names) > 2 and num_workloads > 1 else None,
        p=p,
        smallest=smallest_p(num_workloads, len(names)),
    )


@dataclass(frozen=True)
class Equivalence:
    """Probabilities that the first of two methods is worse, as good within the region, or better."""

    worse: float
    equal: float
    better: float


def practically_equal(ours: ArrayLike, theirs: ArrayLike, region: float) -> Equivalence:
    """Benavoli et al. (2017): a Bayesian signed-rank test over workloads, with a region of practical equivalence."""
    import baycomp

    # It draws from numpy's global state; the same data must say the same.
    state = np.random.get_state()
    np.random.seed(0)
    better, equal, worse = baycomp.two_on_multiple(np.asarray(ours, float), np.asarray(theirs, float), rope=region)
    np.random.set_state(state)
    return Equivalence(float(worse), float(equal), float(better))


def expected_best(values: ArrayLike) -> Array:
    """The expected best of k of n trials drawn without replacement, for k = 1..n: what smaller budgets find.

    With values sorted, x_1 >= x_2 >= ..., x_i is the best of k with probability C(n-i, k-1) / C(n, k).
    """
    ordered = np.sort(np.asarray(values, dtype=float))[::-1]
    n = len(ordered)
    curve = np.empty(n)
    for k in range(1, n + 1):
        places = np.arange(1, n - k + 2)
        weights = stats.hypergeom.pmf(0, n, k, places - 1) * k / (n - places + 1)
        curve[k - 1] = weights @ ordered[: n - k + 1]
    return curve
