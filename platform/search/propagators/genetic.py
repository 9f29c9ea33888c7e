"""Propulate's genetic operators (version 1.2.2), wrapped so that each offspring records the origin of its genes.

This file has all our uses of Propulate, tested in tests/platform/search/test_propagators.py: individuals whose genes
are floats and integers, and the operators of its default propagator. Its loop, pickles, communicators and surrogates
are not used; its CMA-ES, PSO and Nelder-Mead are faulty as released.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll.platform.search.population import Individual
from atoll.platform.search.propagators.propagator import Breeders, Propagator, Proposal, seed_of
from atoll.platform.study.samplers import Genetic
from atoll.searchspaces.space import Gene


def _load_propulate() -> tuple[Any, Any]:
    """Propulate's modules of operators and individuals, without the package's own `__init__`.

    The package imports GPy, matplotlib and pandas for surrogates, which takes longer than torch. A later import of
    propulate gets the whole package.
    """
    spec = importlib.util.find_spec("propulate")
    if "propulate" in sys.modules or spec is None:
        return importlib.import_module("propulate.propagators"), importlib.import_module("propulate.population")
    sys.modules["propulate"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("propulate.propagators"), importlib.import_module("propulate.population")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "propulate"]:
            del sys.modules[name]


stock, _population = _load_propulate()
PropulateIndividual: Any = _population.Individual

Limits = Mapping[str, tuple[float, float] | tuple[int, int]]


class Genome(PropulateIndividual):  # type: ignore[misc]
    """An individual for Propulate's operators; copies share the constant attributes, and have no others."""

    def __init__(self, individual: Individual, template: PropulateIndividual) -> None:
        self._share(template)
        self.mapping = dict(zip(template.limits, individual.genes, strict=True))
        self.position = np.array(individual.genes, dtype=float)
        self.number = individual.number
        self.loss = individual.losses[0]

    def _share(self, other: PropulateIndividual) -> None:
        self.limits, self.types, self.offsets = other.limits, other.types, other.offsets

    def __deepcopy__(self, memo: dict[int, Any]) -> Genome:
        copied = object.__new__(Genome)
        copied._share(self)
        copied.mapping, copied.position = dict(self.mapping), self.position.copy()
        copied.number, copied.loss = self.number, self.loss
        return copied


class GeneticPropagator(Propagator):
    """Breeds from the best of the population.

    Args:
        settings: the operators' probabilities and sizes.
        limits: the limits of each gene; floats for numbers, integers for categories.
        population: the island's population.
        seed: the study's seed.
    """

    def __init__(self, settings: Genetic, limits: Limits, population: Breeders, seed: int) -> None:
        self._limits = dict(limits)
        self._population = population
        self._seed = seed
        self._rng = random.Random()
        self._draw = stock.InitUniform(self._limits, rng=self._rng)
        self._template = self._draw()
        self._parents, self._mate, self._mutations = _operators(settings, self._limits, self._rng)
        self._genomes: dict[tuple[int, int], Genome] = {}  # by trial and attempt

    def propose(self, number: int, attempt: int = 0) -> Proposal:
        """Breed; until the breeding population is complete, draw at random."""
        started = time.perf_counter()
        self._rng.seed(seed_of(self._seed, number, attempt))
        best = self._population.best()
        if len(best) < max(self._population.size, self._parents.offspring):
            return Proposal(self._genes(self._draw()), "random", seconds=time.perf_counter() - started)
        parents = self._parents(self._genomes_of(best))
        child = self._mate(parents)
        first = parents[0]
        sources: dict[str, int | str] = dict.fromkeys(self._limits, first.number)
        for other in reversed(parents[1:]):
            theirs, ours = other.mapping, first.mapping
            sources |= {
                name: other.number for name in self._limits if child.mapping[name] == theirs[name] != ours[name]
            }
        operators = ["crossover"]
        for name, operator in self._mutations.items():
            before, child = child, operator(child)
            if child is not before and not isinstance(child, Genome):  # InitUniform returns a new individual
                return Proposal(self._genes(child), "random", seconds=time.perf_counter() - started)
            changed = {gene: name for gene in self._limits if child.mapping[gene] != before.mapping[gene]}
            if changed:
                operators.append(name)
                sources |= changed
        inherited = [parent.number for parent in parents if parent.number in sources.values()]
        took = time.perf_counter() - started
        return Proposal(self._genes(child), "+".join(operators), tuple(inherited), sources, seconds=took)

    def _genomes_of(self, best: list[Individual]) -> list[Genome]:
        known = self._genomes
        keys = [(individual.number, individual.attempt) for individual in best]
        self._genomes = {
            key: known.get(key) or Genome(one, self._template) for key, one in zip(keys, best, strict=True)
        }
        return list(self._genomes.values())

    def _genes(self, individual: PropulateIndividual) -> dict[str, Gene]:
        return {name: individual.mapping[name] for name in self._limits}


def _operators(settings: Genetic, limits: Limits, rng: random.Random) -> tuple[Any, Any, dict[str, Any]]:
    """The selection of parents, the crossover, and the mutations, in Propulate's order."""
    if settings.mating == "uniform":
        mate = stock.CrossoverUniform(settings.crossover, rng=rng)
    elif settings.mating == "sigmoid":
        # Propulate's sign is wrong: with its own temperature the worse parent's genes are preferred.
        mate = stock.CrossoverSigmoid(-settings.temperature, rng=rng)
    else:
        mate = stock.CrossoverMultiple(parents=settings.parents, rng=rng)
    parents = stock.SelectUniform(settings.parents if settings.mating == "multiple" else 2, rng=rng)
    numbers = sum(isinstance(low, float) for low, _ in limits.values())
    mutations: dict[str, Any] = {}
    if limits:  # a study of one trial may search nothing
        fewest, most = (min(points, len(limits)) for points in settings.mutation_points)
        mutations["point_mutation"] = stock.RandomPointMutation(limits, fewest, most, settings.mutation, rng)
    if numbers:
        points = min(settings.interval_points, numbers)
        mutations["interval_mutation"] = stock.IntervalMutationNormal(
            limits, settings.sigma, points, settings.interval, rng
        )
    mutations["random"] = stock.InitUniform(limits, parents=1, probability=settings.random, rng=rng)
    return parents, mate, mutations
