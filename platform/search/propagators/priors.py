"""Priors for any sampler: early trials are drawn from what users expect, and fewer as evidence grows or contradicts.

The share of such trials follows two rules. As PriorBand does (Mallik et al. 2023), it is weighed by how
probable the best configurations so far are under the prior, against under a distribution around the incumbent. As piBO
does (Hvarfner et al. 2022), it decays with the number of results.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Mapping

from atoll.platform.search.population import Individual, Population
from atoll.platform.search.propagators.mixed import MixedPropagator
from atoll.platform.search.propagators.propagator import Propagator, Proposal
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

    def __init__(self, sampler: Propagator, space: SearchSpace, population: Population, seed: int) -> None:
        super().__init__([sampler])
        self._sampler = sampler
        self._space = space
        self._population = population
        self._seed = seed

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
        weights = [math.log(len(others) - place) for place in range(len(others))]
        of_prior = _log_sum(w + self._under_prior(one) for w, one in zip(weights, others, strict=True))
        of_incumbent = _log_sum(w + self._around(incumbent, one) for w, one in zip(weights, others, strict=True))
        ratio = 1 / (1 + math.exp(min(of_incumbent - of_prior, 700.0)))
        return self._largest_share() * min(1.0, 2 * ratio)

    def _largest_share(self) -> float:
        return FIRST_SHARE * DECAY / (DECAY + len(self._population))

    def _under_prior(self, individual: Individual) -> float:
        """The log density of an individual's genes under the priors."""
        genes = dict(zip(self._space.limits(), individual.genes, strict=True))
        return self._log_density(genes, {})

    def _around(self, incumbent: Individual, individual: Individual) -> float:
        """The log density of an individual's genes around the incumbent's, of the parameters with priors."""
        names = list(self._space.limits())
        values = self._space.decode(dict(zip(names, incumbent.genes, strict=True)))
        around = {name: Prior(values[name], INCUMBENT_SIGMA) for name in names if name in values}
        return self._log_density(dict(zip(names, individual.genes, strict=True)), around)

    def _log_density(self, genes: Mapping[str, Gene], around: Mapping[str, Prior]) -> float:
        values = self._space.decode(genes)
        return sum(
            around.get(p.name, p.prior).log_density(p.distribution, genes[p.name], p.ceiling(values))
            for p in self._space.parameters
            if p.prior is not None and p.name in values
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
                genes[p.name] = rng.uniform(low, high) if isinstance(low, float) else rng.randint(low, int(high))
            values[p.name] = p.decode(genes[p.name], ceiling)
        return genes


def _log_sum(terms: Iterable[float]) -> float:
    """The logarithm of a sum, of the logarithms of its terms."""
    listed = list(terms)
    largest = max(listed)
    return largest + math.log(sum(math.exp(term - largest) for term in listed))
