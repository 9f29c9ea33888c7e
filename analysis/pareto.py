"""Pareto fronts of objectives, all to be minimized."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Points = Sequence[Sequence[float]]


def order(points: Points) -> list[int]:
    """Indices of `points` (n, objectives), the best first: by front, inside a front by crowding (Deb et al. 2002)."""
    array = np.asarray(points, dtype=float)
    ranks = moocore.pareto_rank(array)
    crowding = np.empty(len(array))
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        crowding[members] = crowding_distance(array[members])
    return [int(index) for index in np.lexsort((np.arange(len(array)), -crowding, ranks))]


def front(points: Points) -> list[int]:
    """Indices of the points that no other one dominates; equal points are all kept."""
    if not len(points):
        return []
    return [int(i) for i in np.flatnonzero(moocore.is_nondominated(np.asarray(points, float), keep_weakly=True))]


def crowding_distance(front: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance between the neighbors of each point of a front (n, objectives), summed over objectives scaled to 1.

    Infinite values count as the largest finite one.
    """
    distance = np.zeros(len(front))
    for column in front.T:
        finite = column[np.isfinite(column)]
        values = np.minimum(column, finite.max()) if len(finite) else np.zeros(len(column))
        along = np.argsort(values, kind="stable")
        extent = values[along[-1]] - values[along[0]]
        distance[along[[0, -1]]] = np.inf
        if extent > 0:
            distance[along[1:-1]] += (values[along[2:]] - values[along[:-2]]) / extent
    return distance


def dominated_share(points: Points) -> float:
    """The hypervolume of `points` (n, objectives) in units of the box between the best and the worst of each objective.

    Infinite values count as the largest finite one; an objective in which all points are equal is ignored.
    """
    array = np.asarray(points, dtype=float)
    largest = np.where(np.isfinite(array), array, -np.inf).max(axis=0)
    array = np.minimum(array, np.where(np.isfinite(largest), largest, 0.0))  # all are equal if all miss a target
    extent = np.ptp(array, axis=0)
    array, extent = array[:, extent > 0], extent[extent > 0]
    return hypervolume((array - array.min(axis=0)) / extent, np.ones(len(extent))) if len(extent) else 1.0


def hypervolume(points: Points | NDArray[np.float64], reference: Sequence[float] | NDArray[np.float64]) -> float:
    """The volume that `points` dominate, up to the `reference` point."""
    if not len(points):
        return 0.0
    return float(moocore.hypervolume(np.asarray(points, float), ref=np.asarray(reference, float)))
