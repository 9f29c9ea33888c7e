"""Priors for any sampler: early trials are drawn from what users expect, and fewer as evidence grows or contradicts.

The share of such trials follows two rules. As PriorBand does (Mallik et al. 2023), it is weighed by how
probable the best configurations so far are under the prior, against under a distribution around the incumbent. As piBO
does (Hvarfner et al. 2022), it decays with the number of results.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping

import numpy as np

from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.mixed import MixedPropagator
from atoll.platform.search.propagators.propagator import Breeders, Propagator, Proposal
from atoll.platform.search.propagators.random_search import uniform_gene
from atoll.searchspaces.prior import Prior
from atoll.searchspaces.space import Gene, SearchSpace

FIRST_SHARE = 0.75  # PriorBand's at its lowest rung with its factor of 3: one random configuration in 1 + 3
FEWEST = 3  # results, before which they say nothing about the prior
DECAY = 10  # results after which the share is halved; piBO's beta
INCUMBENT_SIGMA = 0.25  # PriorBand's


class PriorPropagator(MixedPropagator):
    """Draws from the space's priors, or asks the sampler; the sampler learns from all trials.

    Args:
        sampler: the sampler.
        space: a space in which a parameter has a prior.
        population: the island's population.
        seed: the study's seed.
    """

    def __init__(self, sampler: Propagator, space: SearchSpace, population: Breeders, seed: int) -> None:
        super().__init__([sampler])
        self._sampler = sampler
        self._space = space
        self._population = population
        self._seed = seed
        self._priors = {p.name: p.prior for p in space.parameters if p.prior is not None}

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """From the priors with a probability that evidence decides; else the sampler's proposal."""
        started = time.perf_counter()
        rng = random.Random(f"{self._seed}/{number}/{attempt}/prior")
        drawn = rng.random()
        # What the results say makes the share smaller; with many of them, it is nearly never worth asking.
        if drawn >= self._largest_share() or drawn >= self.share():
            return self._sampler.propose(number, attempt)
        return Proposal(self._draw(rng), "prior", seconds=time.perf_counter() - started)

    def share(self) -> float:
        """The present share of proposals from the priors."""
        most = max(FEWEST, len(self._population) // 3)
        best = [individual for individual in self._population.best() if individual.is_complete][:most]
        if len(best) < FEWEST:
            return self._largest_share()
        incumbent, *others = best  # the incumbent says nothing about its own distribution
        weights = np.log(np.arange(len(others), 0, -1))  # the best one counts most
        around = self._around(incumbent)
        of_prior, of_incumbent = (
            np.logaddexp.reduce(weights + [self._log_density(one, beliefs) for one in others])
            for beliefs in (self._priors, around)
        )
        ratio = math.exp(of_prior - np.logaddexp(of_prior, of_incumbent))
        return self._largest_share() * min(1.0, 2 * ratio)

    def _largest_share(self) -> float:
        return FIRST_SHARE * DECAY / (DECAY + len(self._population))

    def _around(self, incumbent: Individual) -> dict[str, Prior]:
        """The distribution around the incumbent, of the parameters that have priors and an effect in it."""
        values = self._space.decode(self._genes(incumbent))
        return {name: Prior(values[name], INCUMBENT_SIGMA) for name in self._priors if name in values}

    def _genes(self, individual: Individual) -> dict[str, Gene]:
        return dict(zip(self._space.limits(), individual.genes, strict=True))

    def _log_density(self, individual: Individual, beliefs: Mapping[str, Prior]) -> float:
        """The log density of an individual's genes; a parameter without a belief, or without an effect, has none."""
        genes = self._genes(individual)
        values = self._space.decode(genes)
        return sum(
            beliefs[p.name].log_density(p.distribution, genes[p.name], p.ceiling(values))
            for p in self._space.parameters
            if p.name in beliefs and p.name in values
        )

    def _draw(self, rng: random.Random) -> dict[str, Gene]:
        """A configuration from the priors; a parameter without one is drawn uniformly."""
        genes: dict[str, Gene] = self._space.inactive_genes()
        values = dict(self._space.fixed)
        for p in self._space.parameters:
            if not p.is_active(values):
                continue
            ceiling = p.ceiling(values)
            if p.prior is not None:
                genes[p.name] = p.prior.draw(p.distribution, rng, ceiling)
            else:
                low, high = p.limits()
                genes[p.name] = uniform_gene(low, high, rng)
            values[p.name] = p.decode(genes[p.name], ceiling)
        return genes
