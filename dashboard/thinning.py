"""Fewer points for the same line: a screen cannot tell the difference, and no extreme is lost."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 2000
Indices = NDArray[np.int64]


def extremes(values: NDArray[np.float64], max_points: int = MAX_POINTS) -> Indices:
    """Indices of at most `max_points` of `values`: the minimum and maximum of equal parts, and both ends.

    NaN is left out if its part holds a number.
    """
    n = len(values)
    if n <= max_points:
        return np.arange(n)
    edges = np.linspace(0, n, (max_points - 2) // 2 + 1).astype(int)
    kept = {0, n - 1}
    for start, end in itertools.pairwise(edges):
        part = values[start:end]
        if np.isnan(part).all():
            continue
        kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
    return np.array(sorted(kept))


def changes(values: NDArray[np.float64]) -> Indices:
    """Indices at which `values` change, and both ends: enough to draw a staircase."""
    if not len(values):
        return np.array([], dtype=int)
    differs = np.flatnonzero(values[1:] != values[:-1]) + 1
    indices: Indices = np.unique(np.append(differs, [0, len(values) - 1]))
    return indices


def evenly(n: int, max_points: int) -> Indices:
    """At most `max_points` of `n` indices, evenly spaced."""
    return np.arange(n) if n <= max_points else np.linspace(0, n - 1, max_points).astype(int)
