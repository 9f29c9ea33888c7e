"""Each point of a grid once: trial n evaluates point n, so the workers need not coordinate.

Points that are evaluated first anyway, such as the default, come last: the grid goes around with them as its beginning.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from optuna.distributions import CategoricalDistribution, IntDistribution

from atoll.platform.search.propagators.propagator import Propagator, Proposal
from atoll.platform.study.samplers import Grid
from atoll.searchspaces.encoding import identity
from atoll.searchspaces.space import Gene, Infeasibility, Parameter, SearchSpace, Value

LARGEST = 100_000


class GridPropagator(Propagator):
    """Enumerates the grid in an order shuffled by the seed, the points among `given` last.

    Args:
        settings: the number of points of each range.
        space: the search space.
        seed: the study's seed.
        given: the configurations that the first trials evaluate instead.
        infeasibility: returns why hyperparameters are infeasible, or None.
    """

    def __init__(
        self,
        settings: Grid,
        space: SearchSpace,
        seed: int,
        given: Sequence[Mapping[str, Value]] = (),
        infeasibility: Infeasibility = lambda _: None,
    ) -> None:
        shuffled = list(points(settings, space, infeasibility).items())
        random.Random(seed).shuffle(shuffled)
        evaluated = set(map(identity, given))
        self._points = [genes for _, genes in sorted(shuffled, key=lambda point: point[0] in evaluated)]
        self._first = len(given)

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """The point of this trial; after the last point, the grid repeats."""
        return Proposal(self._points[(number - self._first) % len(self._points)], "grid")


def points(
    settings: Grid, space: SearchSpace, infeasibility: Infeasibility = lambda _: None
) -> dict[str, dict[str, Gene]]:
    """The genes of the grid's distinct feasible configurations, by their identities.

    Raises:
        ValueError: for a parameter that the space does not have, or a grid that is too large.
    """
    by_name = settings.points if isinstance(settings.points, dict) else {}
    otherwise = 5 if isinstance(settings.points, dict) else settings.points
    known = {parameter.name for parameter in space.parameters}
    if unknown := sorted(set(by_name) - known):
        raise ValueError(
            f"sampler.points must name parameters of the space, {', '.join(sorted(known))}; got {', '.join(unknown)}"
        )
    axes = [list(_axis(p, by_name.get(p.name, otherwise))) for p in space.parameters]
    size = 1
    for axis in axes:
        size *= len(axis)
    if size > LARGEST:
        raise ValueError(f"a grid must have at most {LARGEST} points; got {size}: reduce sampler.points")
    distinct: dict[str, dict[str, Gene]] = {}
    for genes in itertools.product(*axes):
        named = dict(zip(space.limits(), genes, strict=True))
        values = space.decode(named)
        if infeasibility(values) is None:
            distinct.setdefault(identity(values), named)
    return distinct


def _axis(parameter: Parameter, count: int) -> Iterator[Gene]:
    """The genes of one parameter: all choices, or `count` evenly spaced points (of an integer, at most all values)."""
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
