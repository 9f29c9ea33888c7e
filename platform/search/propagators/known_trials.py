"""The trials that a model-based sampler knows, kept by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.platform.search.population import Genes, Individual
from atoll.searchspaces.space import Gene


class KnownTrials:
    """Ended and running trials by number; a propagator passes its events on.

    A model needs all of them, where a population shows its best; and in an order that a resume does not change.

    Args:
        names: the space's parameters.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._ended: dict[int, Individual] = {}
        self._running: dict[int, Genes] = {}

    def __len__(self) -> int:
        return len(self._ended)

    @property
    def ended(self) -> list[Individual]:
        """Those with a result, in the order of their numbers."""
        return [individual for _, individual in sorted(self._ended.items())]

    def running(self, but: int) -> list[Genes]:
        """The genes of the others that are being evaluated, in the order of their numbers."""
        return [genes for number, genes in sorted(self._running.items()) if number != but]

    def points(self, genes: Sequence[Sequence[Gene]]) -> NDArray[np.float64]:
        """(n, parameters): genes as an array."""
        return np.array(genes, dtype=float).reshape(len(genes), len(self._names))

    def started(self, number: int, genes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        self._running[number] = tuple(genes[name] for name in self._names)

    def arrived(self, individual: Individual) -> None:
        """A trial has a result, or a newer one."""
        self._running.pop(individual.number, None)
        self._ended[individual.number] = individual

    def infeasible(self, number: int) -> None:
        """A proposal was infeasible."""
        self._running.pop(number, None)

    def forget(self, number: int) -> None:
        """A trial has no result, or has emigrated: a resumed search does not know it either."""
        self._running.pop(number, None)
        self._ended.pop(number, None)
