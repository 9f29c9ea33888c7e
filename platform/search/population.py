"""An island's population on one worker's root: compact and sorted, at a cost that does not grow with its size.

Propulate scans all individuals at every evaluation; here the best are at hand, and sent individuals are not revisited.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sortedcontainers import SortedKeyList

from atoll.analysis import pareto
from atoll.platform.search.replacement import RandomReplacement
from atoll.platform.study.migration import Migration, Replace

Losses = tuple[float, ...]
Genes = tuple[float | int, ...]


@dataclass(slots=True, eq=False)
class Individual:
    """An evaluated candidate.

    Attributes:
        number: its trial's number; negative for a result from elsewhere (`learn_from`).
        genes: its genes, in the order of the space's parameters.
        losses: the losses to minimize, one per objective; a pruned individual's last value.
        island: the island on which it was bred.
        home: the worker, by its index within the current island, that may send it elsewhere.
        is_complete: whether it was trained to the end; pruned individuals rank behind all complete ones.
        steps: its number of migrations.
        visited: with pollination, the islands that know it, or will receive it from its origin.
        attributes: its sampler's data.
        curve: its intermediate losses by epoch, if a sampler uses them.
        attempt: the attempt at its trial that this is the result of.
        is_learned: whether it was bred before the study's space or sampler has changed.
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
    attempt: int = 0
    is_learned: bool = False


@dataclass(frozen=True)
class Renewal:
    """The result of a trial that was continued, in place of the one before.

    Attributes:
        number, attempt: the trial's.
        losses: None if it has failed.
        is_complete, curve: see `Individual`.
    """

    number: int
    attempt: int
    losses: Losses | None
    is_complete: bool = True
    curve: dict[int, float] = field(default_factory=dict)

    def applied(self, individual: Individual) -> Individual | None:
        """The individual with this result if it is newer; None if it has failed."""
        if individual.attempt >= self.attempt:
            return individual
        if self.losses is None:
            return None
        return replace(
            individual, losses=self.losses, is_complete=self.is_complete, curve=self.curve, attempt=self.attempt
        )


def _rank(individual: Individual) -> tuple[bool, float, int]:
    return not individual.is_complete, individual.losses[0], individual.number


class _Leaders:
    """Individuals in order, and the best `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.order: SortedKeyList[Individual] = SortedKeyList(key=_rank)
        self._pool: list[Individual] = []  # with several objectives: enough individuals to take the best from
        self._best: list[Individual] | None = None

    def add(self, individual: Individual) -> None:
        self.order.add(individual)
        self._best = None
        if len(individual.losses) > 1:
            self._pool.append(individual)
            if len(self._pool) > 4 * self._size:
                self._pool = _front(self._pool, 2 * self._size)

    def remove(self, individual: Individual, *, others_rise: bool = True) -> None:
        """Without the individual, others may be among the best."""
        self.order.remove(individual)
        self._best = None
        if individual in self._pool:
            self._pool.remove(individual)
            if others_rise:
                self._pool = _front(self.order, 2 * self._size)

    def best(self) -> list[Individual]:
        """The best ones first: by objective, or by front and crowding distance (Deb et al. 2002)."""
        if self._best is None:
            several = bool(self._pool)
            self._best = _front(self._pool, self._size) if several else list(self.order[: self._size])
        return self._best


class Population:
    """The individuals on one island, sorted, and the numbers of those that have left it.

    Args:
        size: the size of the breeding population.
        replace: which individuals no longer breed as immigrants, bred on other islands, have taken their places.
        island: the island.
        seed: the study's seed.
    """

    def __init__(self, size: int, *, replace: Replace = "none", island: int = 0, seed: int = 0) -> None:
        self.size = size
        self._island = island
        self._here: dict[int, Individual] = {}
        self._gone: dict[int, int] = {}  # number -> migration steps at its last departure
        self._everyone = _Leaders(size)
        self._breeders = self._everyone if replace != "random" else _Leaders(size)
        self._replacement = RandomReplacement(island, seed) if replace == "random" else None
        self._replaces_worst = replace == "worst"
        self._num_immigrants = 0
        self._best: list[Individual] | None = None

    def __len__(self) -> int:
        return len(self._here)

    def __iter__(self) -> Iterator[Individual]:
        return iter(self._everyone.order)

    def admit(self, individual: Individual) -> bool:
        """Add an individual; false if it is here already, or has departed after at least as many migration steps."""
        if individual.number in self._here or self._gone.get(individual.number, -1) >= individual.steps:
            return False
        self._insert(individual)
        return True

    def _is_immigrant(self, individual: Individual) -> bool:
        return individual.number >= 0 and individual.island != self._island

    def _insert(self, individual: Individual) -> None:
        self._here[individual.number] = individual
        self._everyone.add(individual)
        self._num_immigrants += self._is_immigrant(individual)
        self._best = None
        if self._replacement is None:
            return
        if individual.number < 0:
            self._breeders.add(individual)
            return
        changed = self._replacement.add(individual.number, is_immigrant=self._is_immigrant(individual))
        self._breed(changed)

    def _breed(self, changed: Iterable[int]) -> None:
        """These individuals breed, or no longer do."""
        assert self._replacement is not None
        for individual in (self._here[number] for number in changed):
            breeds = individual in self._breeders.order
            if breeds == self._replacement.replaces(individual.number):
                (self._breeders.remove if breeds else self._breeders.add)(individual)

    def _remove(self, individual: Individual, *, others_rise: bool = True) -> None:
        del self._here[individual.number]
        self._everyone.remove(individual, others_rise=others_rise)
        self._num_immigrants -= self._is_immigrant(individual)
        self._best = None
        if self._replacement is None:
            return
        if individual in self._breeders.order:
            self._breeders.remove(individual, others_rise=others_rise)
        if individual.number >= 0:
            self._breed(self._replacement.remove(individual.number, is_immigrant=self._is_immigrant(individual)))

    def dismiss(self, number: int, steps: int) -> Individual | None:
        """Remove an individual, or bar one that has not arrived yet; returns it if it was here."""
        self._gone[number] = max(steps, self._gone.get(number, -1))
        individual = self._here.get(number)
        if individual is None or individual.steps > steps:
            return None
        self._remove(individual)
        return individual

    def is_nondominated(self, number: int, losses: Losses) -> bool:
        """Whether no complete individual of the fittest ones dominates trial `number` with these losses.

        Of equal ones the lower number does, as in leaderboards. Results from elsewhere do not count.
        """
        # They might be all of the fittest.
        fittest = self.fittest()
        known: Iterable[Individual] = self if any(i.number < 0 for i in fittest) else fittest
        others = (i for i in known if i.is_complete and i.number >= 0 and i.number != number)
        return not any(
            all(a <= b for a, b in zip(i.losses, losses, strict=True)) and (i.losses != losses or i.number < number)
            for i in others
        )

    def renew(self, renewal: Renewal) -> tuple[Individual, Individual | None] | None:
        """Replace an individual's result by a newer one.

        Returns:
            The individual before and after, None if it has failed; or None if it is not here, or as new.
        """
        old = self._here.get(renewal.number)
        if old is None or (new := renewal.applied(old)) is old:
            return None
        self._remove(old, others_rise=old.is_complete or new is None)  # else it only moves up
        if new is not None:
            self._insert(new)
        return old, new

    def fittest(self) -> list[Individual]:
        """The `size` best individuals, also those that have been replaced."""
        return self._everyone.best()

    def best(self) -> list[Individual]:
        """The breeding population, best first; another list whenever it changes."""
        if not self._replaces_worst:
            return self._breeders.best()
        if self._best is None:
            self._best = self.fittest()[: max(0, len(self) - self._num_immigrants)]
        return self._best


class HeldPopulation:
    """A population as a sampler sees it: while a thread proposes, as it was when it began.

    Otherwise a proposal would depend on what arrives in the meantime, and nobody could repeat it.
    """

    def __init__(self, population: Population) -> None:
        self._population = population
        self._held: tuple[list[Individual], int] | None = None

    @property
    def size(self) -> int:
        """The size of the breeding population."""
        return self._population.size

    def __len__(self) -> int:
        return len(self._population) if self._held is None else self._held[1]

    def best(self) -> list[Individual]:
        """The breeding population, best first; another list whenever it changes."""
        return self._population.best() if self._held is None else self._held[0]

    def hold(self) -> None:
        """Show the population as it is now, until the next call."""
        self._held = self._population.best(), len(self._population)


def _front(individuals: Iterable[Individual], size: int) -> list[Individual]:
    """The `size` best individuals by several objectives, in whatever order they are given; pruned ones come last."""
    ranked = sorted(individuals, key=_rank)
    complete = [i for i in ranked if i.is_complete]
    order = pareto.order([i.losses for i in complete]) if complete else []
    return ([complete[index] for index in order] + ranked[len(complete) :])[:size]


class Emigrants:
    """The individuals that a worker may send to other islands; none is sent to an island that knows it.

    Args:
        home: the worker's index within its island.
        island: its island.
        num_islands: the number of islands.
        migration: how they are chosen.
        rng: chooses at random.
    """

    def __init__(
        self, home: int, island: int, num_islands: int, migration: Migration, rng: random.Random | None = None
    ) -> None:
        self._home = home
        self._migration = migration
        self._rng = rng or random.Random(0)
        self._waiting: dict[int, SortedKeyList[Individual]] = {
            target: SortedKeyList(key=_rank) for target in range(num_islands) if target != island
        }

    def add(self, individual: Individual) -> None:
        """Offer an individual to all islands that do not know it."""
        if individual.home == self._home and individual.is_complete:
            for target, waiting in self._waiting.items():
                if target not in individual.visited:
                    waiting.add(individual)

    def remove(self, individual: Individual) -> None:
        """An individual has left."""
        for waiting in self._waiting.values():
            waiting.discard(individual)

    def renew(self, old: Individual, new: Individual | None) -> None:
        """An individual has a newer result; that an island knows it does not change."""
        if not old.is_complete and new is not None:
            self.add(new)
            return
        for waiting in self._waiting.values():
            if old in waiting:
                waiting.remove(old)
                if new is not None and new.is_complete:
                    waiting.add(new)

    def take(self, target: int, count: int, population: Population) -> list[Individual]:
        """`count` individuals for a target, or all if there are fewer; the migration says which come first."""
        taken: list[Individual] = []
        waiting = self._waiting[target]
        while waiting and len(taken) < count:
            individual = self._choose(waiting, population)
            waiting.remove(individual)
            taken.append(individual)
        return taken

    def _choose(self, waiting: SortedKeyList[Individual], population: Population) -> Individual:
        if self._migration.emigrate == "best":
            return self._best_of(waiting, population)
        num_contestants = 1 if self._migration.emigrate == "random" else self._migration.tournament
        places = self._rng.sample(range(len(waiting)), min(num_contestants, len(waiting)))
        contestants = [waiting[place] for place in sorted(places)]
        return _front(contestants, 1)[0] if len(contestants[0].losses) > 1 else contestants[0]

    @staticmethod
    def _best_of(waiting: SortedKeyList[Individual], population: Population) -> Individual:
        """By objective; with several, by front and crowding distance, or by the first objective."""
        if len(waiting[0].losses) > 1:
            chosen = next((i for i in population.fittest() if i in waiting), None)
            if chosen is not None:
                return chosen
        first: Individual = waiting[0]
        return first
