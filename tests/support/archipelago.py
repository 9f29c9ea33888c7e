"""Islands of several workers in one thread, between which messages are delayed at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from atoll.communication.local_mailbox import LocalMailbox
from atoll.communication.mailbox import Mailbox
from atoll.platform.search.island import Island
from atoll.platform.search.population import Individual, Population, Renewal
from atoll.platform.study.migration import Migration


class DelayedMailbox(Mailbox):
    """A mailbox whose messages arrive late; those of one sender with one tag keep their order.

    Args:
        inner: carries the messages.
        late: returns whether the next message of some sender is still under way.
        rng: which sender's message comes first.
    """

    def __init__(self, inner: LocalMailbox, late: Callable[[], bool], rng: random.Random) -> None:
        self.rank, self.size = inner.rank, inner.size
        self._inner, self._late, self._rng = inner, late, rng

    def send_to(self, ranks: Iterable[int], obj: Any, tag: int) -> None:
        self._inner.send_to(ranks, obj, tag)

    def take(self, tag: int, source: int | None = None) -> tuple[int, Any] | None:
        senders = self._rng.sample(range(self.size), self.size) if source is None else [source]
        arrived = (self._inner.take(tag, sender) for sender in senders if not self._late())
        return next((message for message in arrived if message is not None), None)

    def all_sent(self) -> bool:
        return self._inner.all_sent()

    def start_barrier(self) -> Callable[[], bool]:
        return self._inner.start_barrier()

    def close(self) -> None:
        self._inner.close()


class Learner:
    """What a sampler knows: an individual arrives once, and leaves only if it is known."""

    tells_pending = shares_taken = False

    def __init__(self) -> None:
        self.known: dict[int, tuple[float, ...]] = {}

    def started(self, number: int, genes: Mapping[str, float], attributes: Mapping[str, Any]) -> None:
        pass

    def taken(self, number: int, genes: Mapping[str, float]) -> None:
        pass

    def dropped(self, number: int) -> None:
        assert number not in self.known

    def arrived(self, individual: Individual) -> None:
        assert individual.number not in self.known
        self.known[individual.number] = individual.losses

    def left(self, number: int) -> None:
        del self.known[number]


class Archipelago:
    """All workers of a search that only evaluates and migrates.

    Args:
        sizes: the number of workers of each island.
        migration: the exchange.
        seed: of everything.
        delay: the probability that a message is still under way when its receiver looks.
        population: the size of the breeding population.
        founders: by island, individuals that all of its workers know at the start.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        migration: Migration,
        *,
        seed: int = 0,
        delay: float = 0.0,
        population: int = 8,
        founders: Mapping[int, Sequence[Individual]] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.delay = delay
        self.sent: list[tuple[int, int, int, int]] = []  # number, origin, target, steps
        self._numbers = itertools.count()
        self._island_of = [island for island, size in enumerate(sizes) for _ in range(size)]
        roots = [self._delayed(box) for box in LocalMailbox.connected(sum(sizes))]
        workers = [self._delayed(box) for size in sizes for box in LocalMailbox.connected(size)]
        self.learners = [Learner() for _ in roots]
        self.islands = [
            self._worker(rank, sizes, migration, seed, population, founders or {}, workers[rank], roots[rank])
            for rank in range(len(roots))
        ]

    def _delayed(self, box: LocalMailbox) -> DelayedMailbox:
        return DelayedMailbox(box, lambda: self.rng.random() < self.delay, self.rng)

    def _worker(self, rank, sizes, migration, seed, population, founders, workers, roots) -> Island:
        index = self._island_of[rank]
        own = Population(population, replace=migration.replace, island=index, seed=seed)
        for founder in founders.get(index, ()):
            assert own.admit(founder)
            self.learners[rank].arrived(founder)
        return Island(
            population=own,
            proposer=self.learners[rank],
            migration=migration,
            island_sizes=sizes,
            index=index,
            workers=workers,
            roots=roots,
            seed=1000 * seed + rank,
            on_emigration=lambda number, target, *steps: self.sent.append((number, index, target, *steps)),
        )

    def evaluate(self, rank: int, losses: tuple[float, ...] | None = None, *, attributes=None) -> int:
        """A worker evaluates an individual and migrates; the number of the individual."""
        number, island = next(self._numbers), self.islands[rank]
        island.receive()
        island.add(
            Individual(
                number=number,
                genes=(0.5,),
                losses=losses or (self.rng.random(),),
                island=self._island_of[rank],
                home=island.rank,
                attributes=attributes or {},
            )
        )
        island.receive()
        island.migrate()
        return number

    def run(self, rounds: int, renewed: float = 0.0) -> set[int]:
        """Each worker evaluates so often, in a random order; returns the trials that have failed when continued.

        Args:
            rounds: the number of evaluations of each worker.
            renewed: the probability that a worker then continues one of all trials, of which every fourth fails.
        """
        failed: set[int] = set()
        attempts: dict[int, int] = {}
        for _ in range(rounds):
            for rank in self.rng.sample(range(len(self.islands)), len(self.islands)):
                newest = self.evaluate(rank)
                if self.rng.random() < renewed:
                    number = self.rng.randrange(newest + 1)
                    if number in failed:
                        continue
                    attempts[number] = attempts.get(number, 0) + 1
                    losses = (self.rng.random(),) if self.rng.random() < 0.75 else None
                    failed |= {number} if losses is None else set()
                    self.islands[rank].renew(Renewal(number, attempts[number], losses))
        return failed

    def deliver(self) -> None:
        """Let everything that is under way arrive."""
        delay, self.delay = self.delay, 0.0
        for island in self.islands:
            island.receive()
        self.delay = delay

    def on(self, index: int) -> list[Population]:
        """An island's population, in the view of each of its workers."""
        return [island.population for island, its in zip(self.islands, self._island_of, strict=True) if its == index]
