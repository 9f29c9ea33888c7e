"""What a worker evaluates next: proposals that are valid and have not failed, prepared while the trial before trains.

A sampler's own time must not stall a gang of ranks, nor those whom its root serves. Slow samplers are asked in a
thread, one trial ahead; what they hear meanwhile they are told afterwards.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from atoll.platform.search.propagators.propagator import SHARED, Propagator, Proposal, seed_of
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

if TYPE_CHECKING:
    from atoll.platform.search.population import Individual

NUM_DRAWS = 10_000


@dataclass(frozen=True)
class Refusal:
    """A proposal that must not be trained, and why; a resumed sampler hears of it again."""

    hyperparameters: dict[str, Any]
    reason: str
    genes: dict[str, Gene]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """What to evaluate.

    Attributes:
        hyperparameters: all that are searched or fixed.
        proposal: where they come from.
        refused: what was proposed before it.
        waited: seconds that the worker stood still for it.
    """

    hyperparameters: dict[str, Any]
    proposal: Proposal
    refused: tuple[Refusal, ...] = ()
    waited: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The proposal as plain data."""
        return vars(self.proposal) | {"waited": self.waited}


def proposal_of(content: Mapping[str, Any]) -> Proposal:
    """The proposal that a journal holds."""
    fields = {name: content[name] for name in ("genes", "operator", "sources", "attributes", "seconds")}
    return Proposal(parents=tuple(content["parents"]), **fields)


def draw(space: SearchSpace, refuses: Infeasibility, seed: int) -> tuple[dict[str, Gene], dict[str, Any]]:
    """Genes and hyperparameters of a random configuration that is not refused.

    Raises:
        ValueError: where next to nothing is left.
    """
    rng, reason = random.Random(seed), None
    for _ in range(NUM_DRAWS):
        genes: dict[str, Gene] = {
            name: rng.uniform(*ends) if isinstance(ends[0], float) else rng.randint(*ends)
            for name, ends in space.limits().items()
        }
        hyperparameters = space.decode(genes)
        if (reason := refuses(hyperparameters)) is None:
            return genes, hyperparameters
    raise ValueError(f"of {NUM_DRAWS} random configurations all were refused; the last one: {reason}")


class Proposer:
    """Asks a propagator for candidates, and tells it what happens to them.

    Args:
        propagator: whom to ask.
        space: what is searched.
        refuses: why hyperparameters must not be trained, or None where they may.
        seed: the study's.

    Attributes:
        number: the trial that a candidate is being prepared for, or is ready; None where nobody wants one.
        failures: keys of configurations that have failed, which are not evaluated again unchanged.
    """

    # How often the propagator is asked before a random candidate is taken.
    NUM_PROPOSALS = 10

    def __init__(self, propagator: Propagator, space: SearchSpace, refuses: Infeasibility, seed: int) -> None:
        self._propagator = propagator
        self._space = space
        self._refuses = refuses
        self._seed = seed
        self._thread: threading.Thread | None = None
        self._made: tuple[int, Candidate | Exception] | None = None
        self._unheard: list[Callable[[], None]] = []
        self.number: int | None = None
        self.failures: set[str] = set()

    def settle(self, hyperparameters: dict[str, Any], operator: str) -> Candidate:
        """A candidate that is given: the default one, a warm start, or what was lost."""
        return Candidate(hyperparameters, Proposal(self._space.encode(hyperparameters), operator))

    @property
    def is_slow(self) -> bool:
        """Whether it is worth while to prepare."""
        return self._propagator.is_slow

    @property
    def tells_pending(self) -> bool:
        """Whether the propagator wants to hear of what other workers evaluate."""
        return self._propagator.tells_pending

    @property
    def is_busy(self) -> bool:
        """Whether a candidate is being made, or is there and not taken."""
        self._look()
        return self._thread is not None or self.number is not None

    def prepare(self, number: int) -> None:
        """Start to make a candidate for trial `number`; nothing may be under way."""
        assert not self.is_busy

        def work() -> None:
            try:
                self._made = number, self._make(number)
            except Exception as error:
                self._made = number, error

        self._tell_all()
        self.number, self._made = number, None
        self._thread = threading.Thread(target=work, name="sampler", daemon=True)
        self._thread.start()

    def ready(self, number: int) -> Candidate | None:
        """The candidate for `number`, once it is there; none where its making failed, which `take` raises."""
        self._look()
        if self._thread is not None or self.number != number or self._made is None:
            return None
        candidate = self._made[1]
        return candidate if isinstance(candidate, Candidate) else None

    def give_up(self, number: int) -> None:
        """Forget the candidate for `number`, also where it is still being made: another worker evaluates that trial."""
        if self.number == number:
            self.number = None
            self._look()

    def _look(self) -> None:
        """Take notice of a thread that has ended, and drop what nobody wants."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread.join()
            self._thread = None
            self._tell_all()
        if self._thread is None and self.number is None and self._made is not None:
            self._propagator.dropped(self._made[0])
            self._made = None

    def is_made(self) -> bool:
        """Whether nothing is being made any more."""
        self._look()
        return self._thread is None

    def take(self, number: int, wait: Callable[[Callable[[], bool]], None]) -> Candidate:
        """The candidate for trial `number`: the prepared one, or one that is made now.

        Args:
            number: of the trial.
            wait: serves until the condition that it is given holds.
        """
        started = time.perf_counter()
        if not self.is_slow:
            return self._make(number)
        if self.number != number:
            if self.number is not None:
                self.give_up(self.number)
            wait(lambda: not self.is_busy)
            self.prepare(number)
        wait(self.is_made)
        assert self._made is not None
        candidate = self._made[1]
        self.number = self._made = None
        if isinstance(candidate, Exception):
            raise candidate
        return replace(candidate, waited=time.perf_counter() - started)

    def _make(self, number: int) -> Candidate:
        refused: list[Refusal] = []
        shared: dict[str, Any] = {}
        before = None
        for attempt in range(self.NUM_PROPOSALS):
            try:
                proposal = self._propagator.propose(number, attempt)
            except Exception as error:  # such as a matrix that cannot be inverted: no reason to end a search
                self._propagator.dropped(number)
                return self._random(number, refused, f"random after {type(error).__name__}: {error}")
            # What a sampler shares with others holds, whatever becomes of the proposal that it came with.
            shared |= {name: value for name, value in proposal.attributes.items() if name.startswith(SHARED)}
            hyperparameters = self._space.decode(proposal.genes)
            reason = self._why_not(hyperparameters)
            if reason is None:
                whole = replace(proposal, attributes=shared | proposal.attributes)
                return Candidate(hyperparameters, whole, tuple(refused))
            refused.append(Refusal(hyperparameters, reason, proposal.genes, proposal.attributes))
            self._propagator.refused(number, proposal.genes, proposal.attributes)
            if proposal.genes == before:
                break  # it has nothing else to propose
            before = proposal.genes
        return self._random(number, refused, "random")

    def _random(self, number: int, refused: list[Refusal], operator: str) -> Candidate:
        genes, hyperparameters = draw(self._space, self._why_not, seed_of(self._seed, number, -1))
        return Candidate(hyperparameters, Proposal(genes, operator), tuple(refused))

    def _why_not(self, hyperparameters: dict[str, Any]) -> str | None:
        if key(hyperparameters) in self.failures:
            return "this configuration has failed before"
        return self._refuses(hyperparameters)

    # What happens, told to the propagator at once or, while it thinks, afterwards.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        self._tell(lambda: self._propagator.started(number, genes, attributes))

    def arrived(self, individual: Individual) -> None:
        """An individual has been evaluated."""
        self._tell(lambda: self._propagator.arrived(individual))

    def refused(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A proposal was refused."""
        self._tell(lambda: self._propagator.refused(number, genes, attributes))

    def dropped(self, number: int) -> None:
        """A trial has failed."""
        self._tell(lambda: self._propagator.dropped(number))

    def left(self, number: int) -> None:
        """An individual has emigrated."""
        self._tell(lambda: self._propagator.left(number))

    def _tell(self, what: Callable[[], None]) -> None:
        self._unheard.append(what)
        if self._thread is None:
            self._tell_all()

    def _tell_all(self) -> None:
        unheard, self._unheard = self._unheard, []
        for what in unheard:
            what()


def key(hyperparameters: Mapping[str, Any]) -> str:
    """The same text for the same configuration."""
    return json.dumps(hyperparameters, sort_keys=True)
