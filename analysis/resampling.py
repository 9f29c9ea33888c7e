"""Bootstrap resampling of values, or of groups and then of values inside them.

Seeds that share a tuning are not independent studies. With several tunings, these are drawn first (Davison and Hinkley
1997, section 3.8), so that an interval includes the luck of tuning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

NUM_RESAMPLES = 2000
LEVEL = 0.95


def in_groups(groups: Sequence[ArrayLike]) -> Array:
    """An array (groups, members), or a single group of all values if the groups differ in size."""
    arrays = [np.asarray(group, dtype=float).ravel() for group in groups]
    if len({len(array) for array in arrays}) > 1:
        return np.asarray(np.concatenate(arrays)[None, :])
    return np.array(arrays)


def resample(values: Array, num_resamples: int, rng: np.random.Generator) -> Array:
    """Draw groups (groups, members) with replacement, and members inside each: (resamples, groups x members)."""
    num_groups, num_members = values.shape
    groups = np.zeros((num_resamples, 1), dtype=int)
    if num_groups > 1:
        groups = rng.integers(num_groups, size=(num_resamples, num_groups))
    members = rng.integers(num_members, size=(*groups.shape, num_members))
    return np.asarray(values[groups[..., None], members].reshape(num_resamples, -1))


def interval(drawn: Array | NDArray[np.int64]) -> tuple[float, float]:
    """The middle 95 % of resampled numbers. The ends are drawn numbers, not interpolated, as some may be infinite."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn.astype(np.float64), [tail, 1 - tail], method="closest_observation")
    return float(low), float(high)
