"""An island's population as one worker's root holds it: compact, in order, at a cost that does not grow with its size.

Propulate scans all individuals at every evaluation; here the best are at hand, and nobody looks again at what was sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sortedcontainers import SortedKeyList

from atoll.analysis import pareto

Losses = tuple[float, ...]
Genes = tuple[float | int, ...]


@dataclass(slots=True, eq=False)
class Individual:
    """An evaluated candidate.

    Attributes:
        number: of its trial.
        genes: in the order of the space's parameters.
        losses: what to minimise, one for each objective; of a pruned one its last value.
        island: where it was bred.
        home: the worker, counted inside its present island, that may send it elsewhere.
        is_complete: whether it was trained to the end; pruned ones rank behind all that were.
        steps: how often it has migrated.
        visited: of a migrant, the islands that know it, or will be sent it from where it came.
        attributes: what its sampler keeps with it.
        curve: its intermediate values by epoch, where a sampler uses them.
    """

    number: int
    genes: Genes
    losses: Losses
    island: int
    home: int
    is_complete: bool = True
    steps: int = 0
    visited: frozenset[int] = frozenset()
    attributes: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)


def _rank(individual: Individual) -> tuple[bool, float, int]:
    return not individual.is_complete, individual.losses[0], individual.number


class Population:
    """The individuals that are on one island, in order, and the numbers of those that have left it.

    Args:
        size: of the breeding population, whose members `best` returns.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._here: dict[int, Individual] = {}
        self._gone: dict[int, int] = {}  # number -> migration steps at which it was last let go
        self._order: SortedKeyList[Individual] = SortedKeyList(key=_rank)
        self._pool: list[Individual] = []  # of several objectives: enough of those that are here to breed from
        self._best: list[Individual] | None = None

    def __len__(self) -> int:
        return len(self._here)

    def __iter__(self) -> Iterator[Individual]:
        return iter(self._order)

    def holds(self, individual: Individual) -> bool:
        """Whether this very individual is here."""
        return self._here.get(individual.number) is individual

    def admit(self, individual: Individual) -> bool:
        """Take an individual in; false where it is here already, or has been let go since it took as many steps."""
        if individual.number in self._here or self._gone.get(individual.number, -1) >= individual.steps:
            return False
        self._here[individual.number] = individual
        self._order.add(individual)
        self._best = None
        if len(individual.losses) > 1:
            self._pool.append(individual)
            if len(self._pool) > 4 * self.size:
                self._pool = _front(self._pool, 2 * self.size)
        return True

    def dismiss(self, number: int, steps: int) -> Individual | None:
        """Let an individual go, or not in when it comes; returns it where it was here."""
        self._gone[number] = max(steps, self._gone.get(number, -1))
        found = self._here.get(number)
        if found is None or found.steps > steps:
            return None
        del self._here[number]
        self._order.remove(found)
        self._best = None
        if found in self._pool:
            self._pool = _front(list(self._order), 2 * self.size)
        return found

    def best(self) -> list[Individual]:
        """The breeding population, the best first: by objective, or by front and crowding (Deb et al. 2002)."""
        if self._best is None:
            several = bool(self._pool)
            self._best = _front(self._pool, self.size) if several else list(self._order[: self.size])
        return self._best


def _front(individuals: list[Individual], size: int) -> list[Individual]:
    """The `size` best of several objectives; what was pruned comes last."""
    complete = [i for i in individuals if i.is_complete]
    order = pareto.order([i.losses for i in complete]) if complete else []
    return ([complete[index] for index in order] + [i for i in individuals if not i.is_complete])[:size]


class Emigrants:
    """What a worker may send to the other islands, the best first; no island is sent what it knows.

    Args:
        home: the worker.
        island: its island.
        num_islands: how many there are.
    """

    def __init__(self, home: int, island: int, num_islands: int) -> None:
        self._home = home
        self._waiting: dict[int, SortedKeyList[Individual]] = {
            target: SortedKeyList(key=_rank) for target in range(num_islands) if target != island
        }

    def add(self, individual: Individual) -> None:
        """Offer an individual to all islands that do not know it."""
        if individual.home == self._home and individual.is_complete:
            for target, waiting in self._waiting.items():
                if target not in individual.visited:
                    waiting.add(individual)

    def take(self, target: int, count: int, population: Population) -> list[Individual]:
        """The best `count` that are still here; fewer, where there are not so many."""
        taken: list[Individual] = []
        waiting = self._waiting[target]
        while waiting and len(taken) < count:
            individual = self._best_of(waiting, population)
            waiting.remove(individual)
            if population.holds(individual):
                taken.append(individual)
        return taken

    @staticmethod
    def _best_of(waiting: SortedKeyList[Individual], population: Population) -> Individual:
        """By its objective; of several, the first by front and crowding that waits, or else by the first objective."""
        if len(waiting[0].losses) > 1:
            chosen = next((i for i in population.best() if i in waiting), None)
            if chosen is not None:
                return chosen
        first: Individual = waiting[0]
        return first
