"""One worker root's view of its island: the population, and the asynchronous exchange of individuals.

The model is Propulate's: every worker of an island knows all of its individuals; each has a worker that may send it to
other islands, and islands send at random moments, waiting for nobody. Migration moves individuals, pollination copies
them. Two things differ from Propulate's own bookkeeping. An individual goes to an island once, and is known there by
its trial's number: copies of copies would fill the breeding population. And pollination replaces nobody: what Propulate
replaces is the worst, which its selection never sees, and a model-based sampler would forget what it has learned.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atoll.communication.mailbox import Mailbox
from atoll.platform.search.population import Emigrants, Individual, Population
from atoll.platform.search.proposals import Proposer
from atoll.platform.study.migration import Migration
from atoll.searchspaces.space import Gene

# What an island's workers tell each other has one tag, so that it comes in the order that it was said.
NEWS, IMMIGRANTS = 21, 22


class Island:
    """The population of one island, as one of its workers' roots sees it.

    Args:
        population: what is known of the island; empty, or the same at all of its workers.
        proposer: hears of everything that its sampler learns from.
        migration: how individuals travel.
        island_sizes: workers of every island.
        index: this island.
        workers: mailbox between the island's roots.
        roots: mailbox between all roots.
        seed: of this root's random stream, for migration.
        on_emigration: told the number of a trial, and the island that its individual was sent to.
    """

    def __init__(
        self,
        *,
        population: Population,
        proposer: Proposer,
        migration: Migration,
        island_sizes: Sequence[int],
        index: int,
        workers: Mailbox,
        roots: Mailbox,
        seed: int,
        on_emigration: Callable[[int, int], None] = lambda number, island: None,
    ) -> None:
        self.population = population
        self._proposer = proposer
        self._migration = migration
        self._sizes = list(island_sizes)
        self._firsts = list(itertools.accumulate(island_sizes[:-1], initial=0))
        self._index = index
        self._workers = workers
        self._roots = roots
        self._rng = random.Random(seed)
        self._on_emigration = on_emigration
        self._hearers: dict[str, Callable[..., None]] = {
            "started": proposer.started,
            "dropped": proposer.dropped,
            "arrived": self._admit,
            "left": self._dismiss,
        }
        self._emigrants = Emigrants(workers.rank, index, len(island_sizes))
        for individual in population:
            self._emigrants.add(individual)
        self._neighbours = migration.neighbours(index, len(island_sizes))
        # Per island and evaluation, hence shared out over its workers, as Propulate's Islands does.
        self._probability = migration.probability / island_sizes[index] if len(island_sizes) > 1 else 0.0

    @property
    def rank(self) -> int:
        """This worker, counted inside its island."""
        return self._workers.rank

    def all_sent(self) -> bool:
        """Whether every message to the island's other workers has left."""
        return self._workers.all_sent()

    def start(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Say that a trial is being evaluated, to samplers that want to know."""
        self._proposer.started(number, genes, attributes)
        if self._proposer.tells_pending:
            self._tell("started", number, dict(genes), dict(attributes))

    def drop(self, number: int) -> None:
        """Say that a trial has no result."""
        self._proposer.dropped(number)
        if self._proposer.tells_pending:
            self._tell("dropped", number)

    def add(self, individual: Individual) -> None:
        """Take an evaluated individual into the population, and tell the island's other workers.

        Only numbers may come here: anything else would spoil selection.
        """
        assert not any(math.isnan(loss) for loss in individual.losses), individual
        self._admit(individual)
        self._tell("arrived", individual)

    def _tell(self, *news: Any) -> None:
        if self._workers.size > 1:
            self._workers.send_to(self._workers.others(), news, NEWS)

    def _admit(self, individual: Individual) -> None:
        if self.population.admit(individual):
            self._proposer.arrived(individual)
            self._emigrants.add(individual)

    def receive(self) -> None:
        """Take in what others have sent."""
        while (message := self._workers.take(NEWS)) is not None:
            what, *about = message[1]
            self._hearers[what](*about)
        while (message := self._roots.take(IMMIGRANTS)) is not None:
            for individual in message[1]:
                self._admit(individual)

    def _dismiss(self, number: int, steps: int) -> None:
        if self.population.dismiss(number, steps) is not None:
            self._proposer.left(number)

    def migrate(self) -> None:
        """Send some of the best to other islands, at random moments."""
        if self._probability == 0.0 or self._rng.random() >= self._probability:
            return
        for target, count in self._migration.targets(self._index, len(self._sizes), self._rng).items():
            departing = self._emigrants.take(target, count, self.population)
            if departing:
                self._send(departing, target)

    def _send(self, departing: Sequence[Individual], target: int) -> None:
        arriving = [self._emigrant(individual, target) for individual in departing]
        first = self._firsts[target]
        self._roots.send_to(range(first, first + self._sizes[target]), arriving, IMMIGRANTS)
        for individual in departing:
            self._on_emigration(individual.number, target)
            if not self._migration.pollination:
                self._dismiss(individual.number, individual.steps)
                self._tell("left", individual.number, individual.steps)

    def _emigrant(self, individual: Individual, target: int) -> Individual:
        # Copies go from here to all neighbours: none of these needs to hear of it from another one.
        here = {self._index} if not self._migration.pollination else {self._index, *self._neighbours}
        return Individual(
            number=individual.number,
            genes=individual.genes,
            losses=individual.losses,
            island=individual.island,
            home=self._rng.randrange(self._sizes[target]),
            steps=individual.steps + 1,
            visited=individual.visited | here | {target},
            attributes=individual.attributes,
        )
