"""A worker's next candidate: a feasible proposal that has not failed before, prepared while the previous trial trains.

A sampler's own time must not stall the ranks of its worker, nor the workers that its root serves. Slow samplers run in
a thread, one trial ahead, and receive the events of that time afterwards.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from atoll.platform.search.heard import Kind, Notes
from atoll.platform.search.own_code import OwnCodeError, raise_it
from atoll.platform.search.propagators.attributes import is_number, is_trial
from atoll.platform.search.propagators.propagator import SHARED, Propagator, Proposal, seed_of
from atoll.platform.search.propagators.random_search import uniform_genes
from atoll.searchspaces.space import Gene, Infeasibility, SearchSpace

if TYPE_CHECKING:
    from atoll.platform.search.population import Individual

NUM_DRAWS = 10_000


@dataclass(frozen=True)
class InfeasibleProposal:
    """An infeasible proposal, and the reason; a resumed sampler is told about it again."""

    hyperparameters: dict[str, Any]
    reason: str
    genes: dict[str, Gene]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A configuration to evaluate.

    Attributes:
        hyperparameters: all searched and fixed hyperparameters.
        proposal: their origin.
        infeasible: the infeasible proposals before it.
        waited: seconds that the worker waited for it.
        is_outside: whether it is outside of the space, which has changed since it was proposed: its result is a result
            of the study, and no individual.
    """

    hyperparameters: dict[str, Any]
    proposal: Proposal
    infeasible: tuple[InfeasibleProposal, ...] = ()
    waited: float = 0.0
    is_outside: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The proposal as plain data."""
        return vars(self.proposal) | {"waited": self.waited}


def known_fields(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a journal's proposal that have the right type, and the names of the others."""
    known = {name: value for name, value in content.items() if name in _FIELDS and _FIELDS[name](value)}
    return known, [name for name in content if name not in known]


def proposal_of(content: Mapping[str, Any]) -> Proposal:
    """A proposal from a journal, whose fields are known ones; it has genes at least."""
    fields = {name: value for name, value in content.items() if name != "waited"}
    return Proposal(**{"operator": "unknown"} | fields | {"parents": tuple(content.get("parents", ()))})


def _are_genes(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


# The fields of a proposal in a journal, and what each must be.
_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "genes": _are_genes,
    "operator": lambda value: isinstance(value, str),
    "parents": lambda value: isinstance(value, list) and all(map(is_trial, value)),
    "sources": lambda value: isinstance(value, dict) and all(isinstance(v, int | str) for v in value.values()),
    "attributes": lambda value: isinstance(value, dict),
    "seconds": is_number,
    "waited": is_number,
}


def draw(space: SearchSpace, infeasibility: Infeasibility, seed: int) -> tuple[dict[str, Gene], dict[str, Any]]:
    """Genes and hyperparameters of a random feasible configuration.

    Raises:
        ValueError: if almost everything is infeasible.
    """
    rng, reason = random.Random(seed), None
    for _ in range(NUM_DRAWS):
        genes = uniform_genes(space.limits(), rng)
        hyperparameters = space.decode(genes)
        if (reason := infeasibility(hyperparameters)) is None:
            return genes, hyperparameters
    raise ValueError(f"all of {NUM_DRAWS} random configurations were infeasible; the last one: {reason}")


@dataclass
class _Preparation:
    """A candidate that a thread prepares.

    Attributes:
        number: the trial's number.
        future: the candidate, or the error that its preparation raised.
        is_wanted: whether this worker will evaluate that trial.
    """

    number: int
    future: Future[Candidate] = field(default_factory=Future)
    is_wanted: bool = True

    def start(self, make: Callable[[int], Candidate]) -> None:
        """Make the candidate in a thread."""

        def work() -> None:
            try:
                self.future.set_result(make(self.number))
            except BaseException as error:
                self.future.set_exception(error)

        threading.Thread(target=work, name="sampler", daemon=True).start()


class Proposer:
    """Asks a propagator for candidates, and informs it of what happens to them.

    Args:
        propagator: the sampler.
        space: the search space.
        infeasibility: returns why hyperparameters are infeasible, or None.
        seed: the study's seed.
        fail: called with an error of a sampler of the user's, possibly in the sampler's thread; the search is to end.
        heard: notes when proposals are begun and given up.
        hold: called before a thread proposes, to keep for it the breeding population as it is.

    Attributes:
        failures: keys of failed configurations, which are not evaluated again unchanged.
    """

    # The number of proposals before a random candidate is taken.
    NUM_PROPOSALS = 10

    def __init__(
        self,
        propagator: Propagator,
        space: SearchSpace,
        infeasibility: Infeasibility,
        seed: int,
        fail: Callable[[OwnCodeError], None] = raise_it,
        heard: Notes | None = None,
        hold: Callable[[], None] = lambda: None,
    ) -> None:
        self._propagator = propagator
        self._heard = Notes() if heard is None else heard
        self._hold = hold
        self._space = space
        self._infeasibility = infeasibility
        self._seed = seed
        self._fail = fail
        self._preparation: _Preparation | None = None
        self._deferred: list[Callable[[], None]] = []
        self.failures: set[str] = set()

    def settle(
        self, hyperparameters: dict[str, Any], operator: str, content: Mapping[str, Any] | None = None
    ) -> Candidate:
        """A candidate from given hyperparameters: the default, a warm start, or a lost trial's.

        Args:
            hyperparameters: the configuration.
            operator: its origin if there is no proposal with genes of this space.
            content: the proposal that a journal has for it.

        Raises:
            ValueError: if the hyperparameters are outside the space.
        """
        genes = self._space.encode(hyperparameters)
        if content and self._space.holds(content.get("genes", {})):
            return Candidate(hyperparameters, proposal_of(content))
        return Candidate(hyperparameters, Proposal(genes, operator))

    @property
    def is_slow(self) -> bool:
        """Whether candidates should be prepared ahead."""
        return self._propagator.is_slow

    @property
    def tells_pending(self) -> bool:
        """Whether the propagator needs to know what other workers are evaluating."""
        return self._propagator.tells_pending

    @property
    def shares_taken(self) -> bool:
        """Whether the propagator needs to know which configurations the workers of all islands evaluate."""
        return self._propagator.shares_taken

    @property
    def number(self) -> int | None:
        """The trial whose candidate is being prepared, or is ready; None if none is wanted."""
        preparation = self._preparation
        return None if preparation is None or not preparation.is_wanted else preparation.number

    @property
    def is_busy(self) -> bool:
        """Whether a candidate is being prepared, or is ready and has not been taken."""
        self._update()
        return self._preparation is not None

    def prepare(self, number: int) -> None:
        """Start to prepare the candidate for trial `number`; the proposer must not be busy."""
        assert not self.is_busy
        self._heard.add(Kind.PROPOSED, number)
        self._hold()
        self._preparation = _Preparation(number)
        self._preparation.start(self.make)

    def ready(self, number: int) -> Candidate | None:
        """The candidate for trial `number`, if it is ready; None if its preparation failed, too."""
        self._update()
        if self._preparation is None or self.number != number or not self._preparation.future.done():
            return None
        future = self._preparation.future
        return None if future.exception() is not None else future.result()

    def give_up(self, number: int) -> None:
        """Drop the candidate for trial `number`, even if it is still being prepared: another worker has the trial."""
        if self._preparation is not None and self.number == number:
            self._preparation.is_wanted = False
            self._update()

    def is_made(self) -> bool:
        """Whether no candidate is being prepared."""
        self._update()
        return not self._is_thinking()

    def _is_thinking(self) -> bool:
        return self._preparation is not None and not self._preparation.future.done()

    def _update(self) -> None:
        """Once the thread has finished, deliver deferred events and drop an unwanted candidate."""
        if self._preparation is None or self._is_thinking():
            return
        self._deliver()
        if not self._preparation.is_wanted:
            self._heard.add(Kind.GIVEN_UP, self._preparation.number)
            self._guarded(partial(self._propagator.dropped, self._preparation.number))
            self._preparation = None

    def take(self, number: int, wait: Callable[[Callable[[], bool]], None]) -> Candidate:
        """The candidate for trial `number`: the prepared one, or a new one.

        Args:
            number: the trial's number.
            wait: serves until its argument returns true.
        """
        started = time.perf_counter()
        if not self.is_slow:
            self._heard.add(Kind.PROPOSED, number)
            return self.make(number)
        if self.number != number:
            if self.number is not None:
                self.give_up(self.number)
            wait(lambda: not self.is_busy)
            self.prepare(number)
        wait(self.is_made)
        assert self._preparation is not None
        future, self._preparation = self._preparation.future, None
        self._deliver()
        return replace(future.result(), waited=time.perf_counter() - started)

    def make(self, number: int) -> Candidate:
        """Ask the propagator, in this thread; a search calls `take` and `prepare`."""
        infeasible: list[InfeasibleProposal] = []
        shared: dict[str, Any] = {}
        before = None
        for attempt in range(self.NUM_PROPOSALS):
            try:
                proposal = self._propagator.propose(number, attempt)
            except OwnCodeError as error:
                self._fail(error)
                raise
            except Exception as error:  # such as a matrix that cannot be inverted: no reason to end a search
                self._propagator.dropped(number)
                return self._random(number, infeasible, f"random after {type(error).__name__}: {error}")
            # Attributes shared by all samplers of an island stay valid even if their proposal is infeasible.
            shared |= {name: value for name, value in proposal.attributes.items() if name.startswith(SHARED)}
            hyperparameters = self._space.decode(proposal.genes)
            reason = self._why_infeasible(hyperparameters)
            if reason is None:
                whole = replace(proposal, attributes=shared | proposal.attributes)
                return Candidate(hyperparameters, whole, tuple(infeasible))
            infeasible.append(InfeasibleProposal(hyperparameters, reason, proposal.genes, proposal.attributes))
            self._guarded(partial(self._propagator.infeasible, number, proposal.genes, proposal.attributes))
            if proposal.genes == before:
                break  # the sampler has nothing else to propose
            before = proposal.genes
        return self._random(number, infeasible, "random")

    def _random(self, number: int, infeasible: list[InfeasibleProposal], operator: str) -> Candidate:
        genes, hyperparameters = draw(self._space, self._why_infeasible, seed_of(self._seed, number, -1))
        return Candidate(hyperparameters, Proposal(genes, operator), tuple(infeasible))

    def _why_infeasible(self, hyperparameters: dict[str, Any]) -> str | None:
        if key(hyperparameters) in self.failures:
            return "this configuration has failed before"
        return self._infeasibility(hyperparameters)

    # Events for the propagator, deferred while its thread is busy.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        self._tell(partial(self._propagator.started, number, genes, attributes))

    def arrived(self, individual: Individual) -> None:
        """An individual has been evaluated."""
        self._tell(partial(self._propagator.arrived, individual))

    def infeasible(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A proposal was infeasible."""
        self._tell(partial(self._propagator.infeasible, number, genes, attributes))

    def dropped(self, number: int) -> None:
        """A trial has failed."""
        self._tell(partial(self._propagator.dropped, number))

    def taken(self, number: int, genes: Mapping[str, Gene]) -> None:
        """A worker of any island or launcher evaluates this configuration, or has evaluated it."""
        if self.shares_taken:
            self._tell(partial(self._propagator.taken, number, genes))

    def failed(self, configuration_key: str) -> None:
        """A configuration has failed, and must not be evaluated again unchanged."""
        self._tell(partial(self.failures.add, configuration_key))

    def left(self, number: int) -> None:
        """An individual has emigrated."""
        self._tell(partial(self._propagator.left, number))

    def _tell(self, event: Callable[[], None]) -> None:
        self._deferred.append(event)
        if not self._is_thinking():
            self._deliver()

    def _deliver(self) -> None:
        events, self._deferred = self._deferred, []
        for event in events:
            self._guarded(event)

    def _guarded(self, event: Callable[[], None]) -> None:
        try:
            event()
        except OwnCodeError as error:
            self._fail(error)


def key(hyperparameters: Mapping[str, Any]) -> str:
    """A text that is equal for equal configurations."""
    return json.dumps(hyperparameters, sort_keys=True)
