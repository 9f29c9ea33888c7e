"""Every point of a grid once: the trial's number is the point's, so that workers need not agree."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

from optuna.distributions import CategoricalDistribution, IntDistribution

from atoll.platform.search.propagators.propagator import Propagator, Proposal
from atoll.platform.study.samplers import Grid
from atoll.searchspaces.space import Gene, Infeasibility, Parameter, SearchSpace

LARGEST = 100_000


class GridPropagator(Propagator):
    """Enumerates the grid in an order that the seed shuffles.

    Args:
        settings: points of each range.
        space: what is searched.
        seed: the study's.
        first: the number of the first trial that the grid is for.
        refuses: why hyperparameters must not be trained, or None where they may.
    """

    def __init__(
        self,
        settings: Grid,
        space: SearchSpace,
        seed: int,
        first: int,
        refuses: Infeasibility = lambda _: None,
    ) -> None:
        self._points = points(settings, space, refuses)
        random.Random(seed).shuffle(self._points)
        self._first = first

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """The point of this number; from the beginning again, once the grid is through."""
        return Proposal(self._points[(number - self._first) % len(self._points)], "grid")


def points(settings: Grid, space: SearchSpace, refuses: Infeasibility = lambda _: None) -> list[dict[str, Gene]]:
    """Genes of every configuration of the grid that differs from the others and may be trained.

    Raises:
        ValueError: for a parameter that the space does not have, or a grid that is too large.
    """
    by_name = settings.points if isinstance(settings.points, dict) else {}
    otherwise = 5 if isinstance(settings.points, dict) else settings.points
    known = {parameter.name for parameter in space.parameters}
    if unknown := sorted(set(by_name) - known):
        raise ValueError(f"sampler.points names {', '.join(unknown)}; the space has {', '.join(sorted(known))}")
    axes = [list(_axis(p, by_name.get(p.name, otherwise))) for p in space.parameters]
    size = 1
    for axis in axes:
        size *= len(axis)
    if size > LARGEST:
        raise ValueError(f"a grid may have up to {LARGEST} points; this one has {size}: give fewer sampler.points")
    found: dict[str, dict[str, Gene]] = {}
    for genes in itertools.product(*axes):
        named = dict(zip(space.limits(), genes, strict=True))
        values = space.decode(named)
        if refuses(values) is None:
            found.setdefault(json.dumps(values, sort_keys=True), named)
    return list(found.values())


def _axis(parameter: Parameter, count: int) -> Iterator[Gene]:
    """The genes of one parameter: every choice, or `count` points from end to end, at most as many as integers."""
    d = parameter.distribution
    if isinstance(d, CategoricalDistribution):
        yield from range(len(d.choices))
        return
    if isinstance(d, IntDistribution):
        count = min(count, (d.high - d.low) // d.step + 1)
    if count == 1:
        yield 0.5
        return
    yield from (index / (count - 1) for index in range(count))
