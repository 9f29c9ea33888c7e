"""Statistical inference for comparing methods: intervals, tests, and the expected results of smaller tuning budgets.

The computations are scipy's, scikit-posthocs' and baycomp's (the extra `analysis`). Larger values are better. A stratum
holds the values of one workload and is resampled on its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atoll.analysis.resampling import LEVEL, NUM_RESAMPLES, Array, interval, resample

# The values of all seeds for each workload: (seeds,), or (tunings, seeds) if several tunings were confirmed.
Strata = Sequence[ArrayLike]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, which is None if there are too few data for one."""

    value: float
    interval: tuple[float, float] | None

    def complement(self) -> Estimate:
        """One minus this, for a probability."""
        interval = self.interval
        return Estimate(1 - self.value, None if interval is None else (1 - interval[1], 1 - interval[0]))

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals overlap. True if either is missing, as then they cannot be told apart."""
        if self.interval is None or other.interval is None:
            return True
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


def interquartile_mean(strata: Strata) -> Estimate:
    """The mean of the middle half of all values (Agarwal et al. 2021), with a stratified bootstrap interval."""
    return _bootstrapped(strata, lambda *samples: stats.trim_mean(np.concatenate(samples, axis=-1), 0.25, axis=-1))


def median(values: ArrayLike) -> Estimate:
    """The median of one stratum, infinities included."""
    return _bootstrapped([values], lambda sample: np.median(sample, axis=-1))


def probability_of_improvement(ours: Strata, theirs: Strata) -> Estimate:
    """The probability that our seed beats theirs on a random workload (Agarwal et al. 2021); ties count half.

    On one workload this is Mann-Whitney's U divided by the number of pairs.
    """
    half = len(ours)

    def statistic(*samples: Array) -> Array:
        pairs = zip(samples[:half], samples[half:], strict=True)
        return np.asarray(np.mean([_beats(x, y) for x, y in pairs], axis=0))

    return _bootstrapped([*ours, *theirs], statistic)


def _beats(ours: Array, theirs: Array) -> Array:
    """The share of pairs that ours win, (...): Mann-Whitney's U over their number, by counting, as seeds are few."""
    won = np.zeros(ours.shape[:-1])
    for place in range(theirs.shape[-1]):
        other = theirs[..., place, None]
        won += np.count_nonzero(ours > other, axis=-1) + 0.5 * np.count_nonzero(ours == other, axis=-1)
    return won / (ours.shape[-1] * theirs.shape[-1])


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
    """Tests whether methods differ, with workloads as repetitions.

    Attributes:
        ranks: each method's mean rank; 1 is the best.
        friedman: p-value of the Friedman test that all are equal; None for fewer than three methods.
        p: p-value of every pair by Wilcoxon's signed-rank test, Holm-corrected.
        smallest: the smallest p-value possible with this many workloads and pairs.
    """

    ranks: dict[str, float]
    friedman: float | None
    p: dict[tuple[str, str], float]
    smallest: float

    @property
    def is_possible(self) -> bool:
        """Whether the test could separate any pair at all."""
        return self.smallest <= 1 - LEVEL


def smallest_p(num_workloads: int, num_methods: int) -> float:
    """The smallest p-value of an exact Wilcoxon test on `num_workloads` after Holm's correction over all pairs."""
    return min(1.0, math.comb(num_methods, 2) * 2.0 ** (1 - num_workloads))


def separate(scores: Mapping[str, ArrayLike]) -> Separation:
    """Test methods by their scores, one per workload (workloads,)."""
    import scikit_posthocs  # imports matplotlib, which takes a second that the other functions need not

    names = list(scores)
    table = np.array([np.asarray(scores[name], dtype=float) for name in names])
    num_workloads = table.shape[1]
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    pairs = list(itertools.combinations(range(len(names)), 2))
    p = {(names[i], names[j]): 1.0 for i, j in pairs}
    if num_workloads > 1:
        p_values = scikit_posthocs.posthoc_wilcoxon(table, zero_method="zsplit", p_adjust="holm").to_numpy()
        p = {(names[i], names[j]): float(p_values[i, j]) for i, j in pairs}
    return Separation(
        ranks=dict(zip(names, map(float, ranks), strict=True)),
        friedman=float(stats.friedmanchisquare(*table).pvalue) if len(names) > 2 and num_workloads > 1 else None,
        p=p,
        smallest=smallest_p(num_workloads, len(names)),
    )


@contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global random state, and restore the former state at the end.

    For libraries that draw from the global state, so that equal data give equal results. This is the only place that
    touches the global state. Not for use by several threads at a time: they share it.
    """
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


@dataclass(frozen=True)
class Equivalence:
    """Probabilities that the first of two methods is worse, practically equal, or better."""

    worse: float
    equal: float
    better: float


def practically_equal(ours: ArrayLike, theirs: ArrayLike, region: float) -> Equivalence:
    """A Bayesian signed-rank test over workloads (Benavoli et al. 2017) with a region of practical equivalence."""
    import baycomp

    with numpy_seed(0):
        better, equal, worse = baycomp.two_on_multiple(np.asarray(ours, float), np.asarray(theirs, float), rope=region)
    return Equivalence(float(worse), float(equal), float(better))


def expected_best(values: ArrayLike) -> Array:
    """The expected best of k of n trials drawn without replacement, for k = 1..n: the results of smaller budgets.

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
