"""The adapter to Propulate 1.2.2: one worker root's view of its island's population.

All that we use of Propulate's internals is in this file, and tests/test_island.py holds each of them: its Migrator and
Pollinator, built with our own communicators, their propagators, and their exchange of individuals. Their loop, pickles,
checkpoints, surrogates and printing are not used.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from propulate._globals import INDIVIDUAL_TAG, MIGRATION_TAG
from propulate.migrator import Migrator
from propulate.pollinator import Pollinator
from propulate.population import Individual
from propulate.propagators import InitUniform
from propulate.propulator import MPI as PROPULATE_MPI
from propulate.utils import get_default_propagator

from atoll.platform.mailbox import Mailbox
from atoll.platform.study import Sampler

Genes = Mapping[str, float | int]


__all__ = ["Founder", "Individual", "Island"]


@dataclass(frozen=True)
class Founder:
    """An individual that a resumed island starts with: its trial's number, genes and loss."""

    number: int
    genes: Genes
    loss: float


class _MigrationWatch(Mailbox):
    """The roots' mailbox, which notes what emigrates: Propulate sends each emigrant to every worker of an island."""

    def __init__(self, mailbox: Mailbox, first_workers: Mapping[int, int], note: Callable[[int, int], None]) -> None:
        super().__init__(mailbox.comm)
        self._first_workers = first_workers
        self._note = note

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        if tag == MIGRATION_TAG and int(dest) in self._first_workers:
            for individual in obj:
                self._note(individual.number, self._first_workers[int(dest)])
        super().send(obj, dest, tag)


class Island:
    """The population of one island, as one of its workers' roots sees it.

    Args:
        sampler: probabilities of the genetic operators, and migration.
        population: size of the breeding population.
        limits: of every gene; floats for numbers, integers for categories.
        island_sizes: workers of every island.
        index: this island.
        workers: mailbox between the island's roots.
        roots: mailbox between all roots.
        seed: of this root's random stream.
        founders: the island's population to start with, the same at all of its workers.
        on_emigration: told the number of a trial, and the island that its individual was sent to.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        population: int,
        limits: Mapping[str, tuple[float, float] | tuple[int, int]],
        island_sizes: Sequence[int],
        index: int,
        workers: Mailbox,
        roots: Mailbox,
        seed: int,
        founders: Sequence[Founder] = (),
        on_emigration: Callable[[int, int], None] = lambda number, island: None,
    ) -> None:
        self._limits = dict(limits)
        rng = random.Random(seed)
        firsts = [int(first) for first in np.cumsum([0, *island_sizes[:-1]])]
        topology = np.ones((len(island_sizes), len(island_sizes)), dtype=int)
        np.fill_diagonal(topology, 0)
        self._migrates = len(island_sizes) > 1
        kind = Pollinator if sampler.pollination else Migrator
        with tempfile.TemporaryDirectory() as nowhere:  # it looks for a pickle to load
            self._propulator = kind(
                loss_fn=None,
                propagator=get_default_propagator(
                    population, limits, sampler.crossover, sampler.mutation, sampler.random, sampler.sigma, rng
                ),
                rng=rng,
                island_idx=index,
                island_comm=workers,
                propulate_comm=_MigrationWatch(roots, {first: i for i, first in enumerate(firsts)}, on_emigration),
                worker_sub_comm=PROPULATE_MPI.COMM_SELF,
                generations=-1,  # with 0, a pollinator's default, the object is left half-built
                checkpoint_path=nowhere,
                migration_topology=topology,
                # Per island and evaluation, hence shared out over its workers, as Propulate's Islands does.
                migration_prob=sampler.migration / island_sizes[index],
                island_displs=np.array(firsts),
                island_counts=np.array(island_sizes),
            )
        self._propulator.population.extend(
            self._founder(founder, position, index, island_sizes[index]) for position, founder in enumerate(founders)
        )

    def _founder(self, founder: Founder, position: int, index: int, num_workers: int) -> Individual:
        individual = Individual(dict(founder.genes), self._limits)
        individual.number, individual.loss = founder.number, founder.loss
        # Below every generation of this start, and each different, as Propulate tells individuals apart by it.
        individual.generation, individual.rank = -2 - position, 0
        individual.island, individual.current = index, position % num_workers
        individual.migration_steps, individual.migration_history = 0, str(index)
        return individual

    def breed(self) -> Individual:
        """Breed an individual from the active population."""
        # Only the genes are taken: offspring that no operator changed is its parent's very object, and offspring
        # inherits its parent's attributes by copy.
        bred = self._propulator.propagator(self.population())
        return self._fresh({name: bred[name] for name in self._limits})

    def draw(self) -> Individual:
        """Draw an individual at random."""
        drawn = InitUniform(self._limits, rng=self._propulator.rng)()
        return self._fresh({name: drawn[name] for name in self._limits})

    def settle(self, genes: Genes) -> Individual:
        """Make an individual with given genes."""
        return self._fresh(genes)

    def _fresh(self, genes: Genes) -> Individual:
        p = self._propulator
        individual = Individual(dict(genes), self._limits, generation=p.generation, rank=p.island_comm.rank)
        individual.island, individual.current = p.island_idx, p.island_comm.rank
        individual.migration_steps, individual.migration_history = 0, str(p.island_idx)
        p.generation += 1
        return individual

    def add(self, individual: Individual, number: int, loss: float, seconds: float) -> None:
        """Take an evaluated individual into the population, and tell the island's other workers.

        Only finite losses may come here: anything else would spoil selection.
        """
        assert np.isfinite(loss), loss
        individual.number, individual.loss = number, float(loss)
        individual.evaltime, individual.evalperiod = time.time(), seconds
        p = self._propulator
        p.population.append(individual)
        for rank in range(p.island_comm.size):
            if rank != p.island_comm.rank:
                p.island_comm.send(individual, dest=rank, tag=INDIVIDUAL_TAG)

    def exchange(self, emigrate: bool = True) -> None:
        """Take in what other workers of the island have evaluated, and migrate."""
        p = self._propulator
        p._receive_intra_island_individuals()
        if not self._migrates or p.migration_prob == 0:
            return
        if emigrate and p.rng.random() < p.migration_prob:
            p._send_emigrants()
        p._receive_immigrants()
        if isinstance(p, Pollinator):
            p._deactivate_replaced_individuals()
        else:
            p._deactivate_emigrants()

    def population(self) -> list[Individual]:
        """The individuals that may be selected."""
        active, _ = self._propulator._get_active_individuals()
        return list(active)

    def all_sent(self) -> bool:
        """Whether every message of this root has left it."""
        return bool(self._propulator.island_comm.all_sent() and self._propulator.propulate_comm.all_sent())
