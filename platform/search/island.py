"""One worker root's view of its island: the population, and the asynchronous exchange of individuals.

The model is Propulate's: every worker of an island knows all of its individuals; each individual has a home worker that
may send it to other islands, and islands send at random moments, without waiting. Migration moves individuals, which
may return; pollination copies them. Targets are served in a random order. The differences from Propulate:

- With pollination, an individual is sent to an island once, and is identified there by its trial's number: copies of
  copies would fill the breeding population.
- A worker with fewer individuals than it is to send sends those that it has, not none.
- Pollination replaces no individual by default. With `replace`, a replaced individual leaves the breeding population
  only, as a model-based sampler would otherwise forget what it has learned. Who is replaced is a function of who is on
  the island (`replacement.py`); in Propulate the receiving worker chooses among its own and tells the others.

An individual's number of migrations, its steps, orders the news of it: what arrives late, from several workers and
launchers, never removes one that has returned or brings back one that has left.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from atoll.communication.mailbox import Mailbox
from atoll.platform.search.heard import Kind, Notes
from atoll.platform.search.population import Emigrants, Individual, Population, Renewal
from atoll.platform.search.proposals import Proposer
from atoll.platform.study.migration import Migration
from atoll.searchspaces.space import Gene

# All messages between an island's workers share one tag, so MPI keeps their order.
NEWS, IMMIGRANTS, RENEWALS, TAKEN = 21, 22, 23, 24

_KINDS = {"started": Kind.STARTED, "dropped": Kind.DROPPED, "arrived": Kind.ARRIVED, "left": Kind.LEFT}


class Island:
    """The population of one island, in the view of one worker's root.

    Args:
        population: the island's individuals; empty, or equal on all of its workers.
        proposer: receives all events that its sampler learns from.
        migration: the exchange of individuals.
        island_sizes: the number of workers of each island.
        index: this island's index.
        workers: the mailbox of the island's roots.
        roots: the mailbox of all roots.
        seed: the seed of this root's random stream for migration.
        on_emigration: called with the trial's number, the target island and the number of migrations before for each
            individual that is sent.
        heard: notes what arrives here.
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
        on_emigration: Callable[[int, int, int], None] = lambda number, island, steps: None,
        heard: Notes | None = None,
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
        self._heard = Notes() if heard is None else heard
        self._handlers: dict[str, Callable[..., None]] = {
            "started": proposer.started,
            "taken": proposer.taken,
            "dropped": proposer.dropped,
            "arrived": self._admit,
            "left": self._dismiss,
            "renewed": self._renew,
        }
        self._renewals: dict[int, Renewal] = {}  # they may overtake the individual
        self._emigrants = Emigrants(workers.rank, index, len(island_sizes), migration, self._rng)
        for individual in population:
            self._emigrants.add(individual)
        self._neighbors = migration.neighbors(index, len(island_sizes))
        self.has_workers(island_sizes[index])

    def has_workers(self, number: int) -> None:
        """The number of workers on the island has changed, as those of other launchers have joined or left it."""
        # The probability is per island and evaluation, so it is divided among the workers, as in Propulate's Islands.
        self._probability = self._migration.probability / max(1, number) if len(self._sizes) > 1 else 0.0

    def take_in(self, kind: str, *content: Any) -> None:
        """News from a worker: started, dropped, arrived, left or renewed; of any island: taken. With its content."""
        self._handlers[kind](*content)

    @property
    def rank(self) -> int:
        """This worker's index within its island."""
        return self._workers.rank

    def all_sent(self) -> bool:
        """Whether all messages to the island's other workers have been sent."""
        return self._workers.all_sent()

    def start(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """Announce that a trial is being evaluated, if the samplers need to know."""
        self._proposer.started(number, genes, attributes)
        if self._proposer.tells_pending:
            self._tell("started", number, dict(genes), dict(attributes))
        if self._proposer.shares_taken:
            self._roots.send_to(self._roots.others(), (number, dict(genes)), TAKEN)

    def drop(self, number: int) -> None:
        """Announce that a trial has no result."""
        self._proposer.dropped(number)
        if self._proposer.tells_pending:
            self._tell("dropped", number)

    def add(self, individual: Individual) -> None:
        """Add an evaluated individual to the population, and send it to the island's other workers.

        No loss may be NaN, which would corrupt the selection.
        """
        assert not any(math.isnan(loss) for loss in individual.losses), individual
        self._admit(individual)
        self._tell("arrived", individual)

    def renew(self, renewal: Renewal) -> None:
        """Replace the result of a trial that was continued, on all islands that know it."""
        assert renewal.losses is None or not any(map(math.isnan, renewal.losses)), renewal
        self._renew(renewal)
        self._roots.send_to(self._roots.others(), renewal, RENEWALS)

    def _renew(self, renewal: Renewal) -> None:
        known = self._renewals.get(renewal.number)
        if known is None or known.attempt < renewal.attempt:
            self._renewals[renewal.number] = renewal
        if (renewed := self.population.renew(renewal)) is None:
            return
        old, new = renewed
        self._proposer.left(old.number)
        if new is not None:
            self._proposer.arrived(new)
        self._emigrants.renew(old, new)

    def _tell(self, *news: Any) -> None:
        if self._workers.size > 1:
            self._workers.send_to(self._workers.others(), news, NEWS)

    def _admit(self, arriving: Individual) -> None:
        if arriving.steps and not self._migration.pollination:
            # It has left wherever it was before; if that was here, the news of it is still under way.
            self._dismiss(arriving.number, arriving.steps - 1)
        renewal = self._renewals.get(arriving.number)
        individual = arriving if renewal is None else renewal.applied(arriving)
        if individual is None:  # it has failed since
            self._proposer.dropped(arriving.number)
            return
        if self.population.admit(individual):
            self._proposer.arrived(individual)
            self._emigrants.add(individual)

    def receive(self) -> None:
        """Take in the messages from other workers and islands."""
        while (message := self._workers.take(NEWS)) is not None:
            self._note(*message[1])
            self.take_in(*message[1])
        while (message := self._roots.take(IMMIGRANTS)) is not None:
            for individual in message[1]:
                self._heard.add(Kind.IMMIGRATED, individual.number, individual.steps)
                self._admit(individual)
        while (message := self._roots.take(RENEWALS)) is not None:
            self._renew(message[1])
        while (message := self._roots.take(TAKEN)) is not None:
            self._heard.add(Kind.TAKEN, message[1][0])
            self._proposer.taken(*message[1])

    def _note(self, kind: str, subject: Individual | int, *content: Any) -> None:
        number = subject.number if isinstance(subject, Individual) else subject
        self._heard.add(_KINDS[kind], number, content[0] if kind == "left" else None)

    def _dismiss(self, number: int, steps: int) -> None:
        if (individual := self.population.dismiss(number, steps)) is not None:
            self._proposer.left(number)
            self._emigrants.remove(individual)

    def migrate(self) -> None:
        """With the migration probability, send individuals to other islands."""
        if self._probability == 0.0 or self._rng.random() >= self._probability:
            return
        targets = list(self._migration.targets(self._index, len(self._sizes), self._rng).items())
        # With migration, the first target gets the best individual.
        self._rng.shuffle(targets)
        for target, count in targets:
            departing = self._emigrants.take(target, count, self.population)
            if departing:
                self._send(departing, target)

    def _send(self, departing: Sequence[Individual], target: int) -> None:
        arriving = [self._emigrant(individual, target) for individual in departing]
        first = self._firsts[target]
        self._roots.send_to(range(first, first + self._sizes[target]), arriving, IMMIGRANTS)
        for individual in departing:
            self._on_emigration(individual.number, target, individual.steps)
            if not self._migration.pollination:
                self._heard.add(Kind.LEFT, individual.number, individual.steps)
                self._dismiss(individual.number, individual.steps)
                self._tell("left", individual.number, individual.steps)

    def _emigrant(self, individual: Individual, target: int) -> Individual:
        # Copies go from here to all neighbors, so no neighbor needs to receive it from another one. An individual that
        # moves is known nowhere else.
        visited = individual.visited | {self._index, *self._neighbors, target}
        return replace(
            individual,
            home=self._rng.randrange(self._sizes[target]) if self._sizes[target] else -1,  # of another launcher's
            steps=individual.steps + 1,
            visited=visited if self._migration.pollination else frozenset(),
        )
