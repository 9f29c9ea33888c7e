"""An evolutionary sampler: differential and gene-wise variation of an island's best individuals, which adapt.

Two operators breed. *Differential* variation is current-to-pbest/1 with binomial crossover (Zhang and Sanderson 2009,
JADE): it follows the shape of the breeding population, so it suits parameters that depend on each other.
*Gene-wise* variation recombines two or more individuals and moves one or two genes: it suits parameters that do not.
Strengths, and the operators' shares, adapt by success: each individual carries the strengths that it was bred with, and
new ones are drawn around those of the breeding population's individuals, which have survived.

So there is no state besides the population. A proposal is a function of the known individuals and the trial's number,
on every worker, and after a resume. The histories of successes of JADE and L-SHADE would not allow that, as they depend
on the order in which results arrive.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.configurations import Configurations, Genes
from atoll.platform.search.propagators.propagator import Breeders, Propagator, Proposal, seed_of
from atoll.platform.search.propagators.random_search import uniform_genes
from atoll.platform.study.samplers import Evolution
from atoll.searchspaces import encoding
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

# The strengths of an individual, in its attributes: the scale of its variation, and the crossover rate of the
# differential one, which those of gene-wise variation do not have.
SCALE, RATE = "evolution:scale", "evolution:rate"

NUM_TRIES = 8  # until a configuration is new; each one after the first varies twice as much
FIRST_BOOST = 0.04
CHOICE_MUTATION = 0.1  # of a choice in differential variation, times the scale
JITTER = 0.1  # of differential variation, times scale and spread: a population in a hyperplane would never leave it
SHARES = 0.2, 0.95  # the least and the largest share of differential variation
TWO_GENES = 0.4  # probability that gene-wise variation moves two genes
REDRAW = 0.25  # probability that a moved number is redrawn from its whole range
LEAST_STEP = 0.02  # of a moved number, as a share of its range
WIDTH_OF_SCALES, WIDTH_OF_RATES = 0.1, 0.25  # of the distributions around the survivors' means


@dataclass(frozen=True)
class _Breeders:
    """The breeding population, best first, as arrays.

    Attributes:
        numbers: their trials' numbers.
        losses: the first loss of each.
        genes: a row each.
        spread: the standard deviation of each gene.
        scale: the mean scale of the survivors.
        rate: the mean crossover rate of those bred by differential variation.
        differential: the share of differential variation.
    """

    numbers: list[int]
    losses: list[float]
    genes: Genes
    spread: Genes
    scale: float
    rate: float
    differential: float

    @classmethod
    def of(cls, individuals: Sequence[Individual], settings: Evolution) -> _Breeders:
        """The breeders; the settings' strengths count as `memory` survivors."""
        bred = [i.attributes for i in individuals if SCALE in i.attributes]
        scales = np.array([attributes[SCALE] for attributes in bred])
        rates = [attributes[RATE] for attributes in bred if RATE in attributes]
        prior = settings.memory
        # The Lehmer mean (JADE) favors large scales, against a premature end.
        scale = (np.sum(scales**2) + prior * settings.scale**2) / (np.sum(scales) + prior * settings.scale)
        share = (len(rates) + prior * settings.differential) / (len(bred) + prior)
        genes = np.array([i.genes for i in individuals], dtype=float)
        return cls(
            numbers=[i.number for i in individuals],
            losses=[i.losses[0] for i in individuals],
            genes=genes,
            spread=genes.std(axis=0),
            scale=float(scale),
            rate=(sum(rates) + prior * settings.rate) / (len(rates) + prior),
            differential=min(max(share, SHARES[0]), SHARES[1]),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def places(self) -> Genes:
        """The cumulative probabilities of parents, logarithmic by place (as the weights of Hansen 2016, eq. 49)."""
        weights = math.log(len(self) + 0.5) - np.log(np.arange(1, len(self) + 1))
        return np.asarray(np.cumsum(weights) / np.sum(weights))

    def draw(self, rng: np.random.Generator) -> int:
        """The place of a parent."""
        return min(int(np.searchsorted(self.places, rng.random())), len(self) - 1)


@dataclass
class _Child:
    """An offspring.

    Attributes:
        genes: its genes.
        sources: the origin of each gene: the place of a breeder, or the name of an operator.
        parents: the places of the breeders that it was made from.
        operator: the operators that made it, joined with +.
        attributes: its strengths.
    """

    genes: Genes
    sources: list[int | str]
    parents: tuple[int, ...]
    operator: str
    attributes: dict[str, float]


class EvolutionPropagator(Propagator):
    """Breeds from the best of the population; proposes no configuration more often than the settings' `repeats`.

    Args:
        settings: the sampler's settings.
        space: the search space.
        population: the island's population.
        seed: the study's seed.
        infeasibility: returns why hyperparameters are infeasible, or None.
    """

    def __init__(
        self,
        settings: Evolution,
        space: SearchSpace,
        population: Breeders,
        seed: int,
        infeasibility: Infeasibility = lambda _: None,
    ) -> None:
        self._settings = settings
        self._space = space
        self._population = population
        self._seed = seed
        self._configurations = Configurations(space, settings.repeats, infeasibility)
        self._names = list(space.limits())
        parameters = space.parameters
        self._is_number = np.array([not isinstance(p.distribution, CategoricalDistribution) for p in parameters])
        self._num_choices = [int(high) + 1 for _, high in space.limits().values()]  # of those that are no numbers
        # A smaller step would not change a number that has few values.
        sizes = (encoding.size(p.distribution) for p in parameters)
        self._least_steps = np.array([LEAST_STEP if size is None else max(LEAST_STEP, 1 / size) for size in sizes])
        self._is_conditional = any(p.only_if is not None for p in parameters)
        self._best: list[Individual] = []
        self._breeders: _Breeders | None = None

    @property
    def shares_taken(self) -> bool:  # type: ignore[override]
        """Configurations of continuous spaces do not meet by chance."""
        return not self._configurations.are_endless

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """Breed; until half of the breeding population is complete, draw at random."""
        started = time.perf_counter()
        rng = np.random.default_rng(seed_of(self._seed, number, attempt))
        best = self._population.best()
        startup = max(2, -(-self._population.size // 2))
        if not self._names or len(best) < startup or rng.random() < self._settings.random:
            return self._random(rng, started)
        breeders = self._breeders_of(best)
        is_differential = rng.random() < breeders.differential
        scale = self._scale(breeders, rng)
        for tried in range(NUM_TRIES):
            boost = FIRST_BOOST * 2 ** (tried - 1) if tried else 0.0
            vary = self._differential if is_differential else self._gene_wise
            child = vary(breeders, scale, boost, rng)
            if self._is_new(child.genes):
                return self._proposal(child, breeders, started)
        return self._random(rng, started)

    # Operators.

    @staticmethod
    def _scale(breeders: _Breeders, rng: np.random.Generator) -> float:
        """A scale from a Cauchy distribution around the survivors' mean, cut to (0, 1] (JADE)."""
        while (scale := breeders.scale + WIDTH_OF_SCALES * float(rng.standard_cauchy())) <= 0:
            pass
        return min(scale, 1.0)

    def _differential(self, breeders: _Breeders, scale: float, boost: float, rng: np.random.Generator) -> _Child:
        """A parent moved towards one of the best and along the difference of two others, in some of its genes."""
        parent = breeders.draw(rng)
        elite = int(rng.integers(max(2, round(self._settings.elite * len(breeders)))))
        donor, other = rng.choice(len(breeders), 2, replace=False)
        rate = min(max(float(rng.normal(breeders.rate, WIDTH_OF_RATES)), 0.0), 1.0)
        x = breeders.genes[parent]
        moved = x + scale * (breeders.genes[elite] - x + breeders.genes[donor] - breeders.genes[other])
        width = np.maximum(JITTER * scale * breeders.spread, boost * (scale * breeders.spread + boost))
        moved += width * rng.normal(size=len(x))
        # Halfway between the parent and the bound that was crossed (JADE).
        moved = np.where(moved < 0, x / 2, np.where(moved > 1, (1 + x) / 2, moved))
        crossed = rng.random(len(x)) < rate
        crossed[rng.integers(len(x))] = True
        genes = np.where(crossed, moved, x)
        sources: list[int | str] = ["differential" if one else parent for one in crossed]
        for gene in np.flatnonzero(~self._is_number):
            place = (parent, elite, int(donor))[rng.integers(3)] if crossed[gene] else parent
            genes[gene], sources[gene] = breeders.genes[place, gene], place
            if rng.random() < CHOICE_MUTATION * scale + boost:
                genes[gene], sources[gene] = self._other_choice(gene, genes[gene], rng), "point_mutation"
        parents = parent, elite, int(donor), int(other)
        return _Child(genes, sources, parents, "differential", {SCALE: scale, RATE: rate})

    def _gene_wise(self, breeders: _Breeders, scale: float, boost: float, rng: np.random.Generator) -> _Child:
        """Several parents recombined, and one or two active genes moved or redrawn."""
        genes, sources = self._recombined(breeders, rng)
        candidates = self._active(genes)
        count = min(len(candidates), 1 + int(rng.random() < TWO_GENES))
        operators = ["crossover"]
        for gene in rng.choice(candidates, count, replace=False):
            if not self._is_number[gene]:
                genes[gene], operator = self._other_choice(gene, genes[gene], rng), "point_mutation"
            elif rng.random() < REDRAW + boost:
                genes[gene], operator = rng.random(), "point_mutation"
            else:
                step = max(self._least_steps[gene], scale * float(breeders.spread[gene]) / 2, boost)
                genes[gene], operator = _reflected(genes[gene] + step * rng.normal()), "interval_mutation"
            sources[gene] = operator
            if operator not in operators:
                operators.append(operator)
        parents = tuple(source for source in sources if isinstance(source, int))
        return _Child(genes, sources, parents, "+".join(operators), {SCALE: scale})

    def _recombined(self, breeders: _Breeders, rng: np.random.Generator) -> tuple[Genes, list[int | str]]:
        """A crossover's genes, and the place of the breeder that each is from."""
        settings = self._settings
        if settings.mating == "multiple":
            parents = np.array([breeders.draw(rng) for _ in range(settings.parents)])
            places = parents[rng.integers(len(parents), size=len(self._names))]
        else:
            first, second = breeders.draw(rng), breeders.draw(rng)
            share = settings.crossover
            if settings.mating == "sigmoid":
                first, second = min(first, second), max(first, second)  # best first
                share = _logistic(breeders.losses[second] - breeders.losses[first], settings.temperature)
            places = np.where(rng.random(len(self._names)) < share, first, second)
        return breeders.genes[places, np.arange(len(self._names))], [int(place) for place in places]

    def _active(self, genes: Genes) -> list[int]:
        """The places of the genes that have an effect; a change of others would be the same configuration."""
        if not self._is_conditional:
            return list(range(len(self._names)))
        active = self._space.active(self._configurations.named(genes))
        return [place for place, name in enumerate(self._names) if name in active]

    def _other_choice(self, gene: int, present: float, rng: np.random.Generator) -> float:
        """Another choice than the present one, if there is one."""
        if (others := self._num_choices[gene] - 1) == 0:
            return present
        drawn = int(rng.integers(others))
        return float(drawn + (drawn >= present))

    # Configurations.

    def _random(self, rng: np.random.Generator, started: float) -> Proposal:
        """A new configuration at random, or any one if none is new."""
        plain = random.Random(int(rng.integers(2**32)))
        for _ in range(NUM_TRIES):
            genes = uniform_genes(self._space.limits(), plain)
            if self._is_new(self._configurations.array(genes)):
                break
        else:
            if left := self._configurations.left():
                genes = self._configurations.named(plain.choice(left))
        return Proposal(genes, "random", seconds=time.perf_counter() - started)

    def _is_new(self, genes: Genes) -> bool:
        """Whether a configuration may be proposed; a continuous space meets one again only by copying a breeder."""
        if self._configurations.are_endless:
            return self._breeders is None or not (self._breeders.genes == genes).all(axis=1).any()
        return self._configurations.is_free(genes)

    def _proposal(self, child: _Child, breeders: _Breeders, started: float) -> Proposal:
        sources = {
            name: source if isinstance(source, str) else breeders.numbers[source]
            for name, source in zip(self._names, child.sources, strict=True)
        }
        parents = tuple(dict.fromkeys(breeders.numbers[place] for place in child.parents))
        took = time.perf_counter() - started
        return Proposal(
            self._configurations.named(child.genes),
            child.operator,
            parents,
            sources,
            attributes=child.attributes,
            seconds=took,
        )

    def _breeders_of(self, best: list[Individual]) -> _Breeders:
        if self._breeders is None or best is not self._best:  # which the population replaces whenever it changes
            self._best, self._breeders = best, _Breeders.of(best, self._settings)
        return self._breeders

    # Events.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """The configuration is taken."""
        self.taken(number, genes)

    def arrived(self, individual: Individual) -> None:
        """The configuration is taken."""
        self.taken(individual.number, dict(zip(self._names, individual.genes, strict=True)))

    def taken(self, number: int, genes: Mapping[str, Gene]) -> None:
        """The configuration is taken; failed ones stay so."""
        self._configurations.take(number, genes)


def _reflected(gene: float) -> float:
    """A gene outside of [0, 1], reflected at the bound that it has crossed."""
    gene = abs(gene) % 2.0
    return 2.0 - gene if gene > 1.0 else gene


def _logistic(difference: float, temperature: float) -> float:
    """The share of the better parent's genes: 1 / (1 + exp(-difference / temperature)), at least one half."""
    return 1.0 / (1.0 + math.exp(-min(max(difference, 0.0) / temperature, 700.0)))
