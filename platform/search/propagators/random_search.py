"""Random search: every individual is drawn uniformly."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from atoll.platform.search.propagators.propagator import Propagator, Proposal, seed_of
from atoll.searchspaces.space import Gene

Limits = Mapping[str, tuple[float, float] | tuple[int, int]]


class RandomPropagator(Propagator):
    """Draws every individual at random.

    Args:
        limits: the limits of each gene; floats for numbers, integers for categories.
        seed: the study's seed.
    """

    def __init__(self, limits: Limits, seed: int) -> None:
        self._limits = dict(limits)
        self._seed = seed
        self._rng = random.Random()

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """Draw uniformly."""
        started = time.perf_counter()
        self._rng.seed(seed_of(self._seed, number, attempt))
        return Proposal(uniform_genes(self._limits, self._rng), "random", seconds=time.perf_counter() - started)


def uniform_genes(limits: Limits, rng: random.Random) -> dict[str, Gene]:
    """Genes drawn uniformly, in the order of the parameters."""
    return {name: uniform_gene(low, high, rng) for name, (low, high) in limits.items()}


def uniform_gene(low: Gene, high: Gene, rng: random.Random) -> Gene:
    """A gene drawn uniformly: an integer between integers, which are categories."""
    return rng.randint(low, int(high)) if isinstance(low, int) else rng.uniform(low, high)
