"""What a worker evaluates next: proposals that are valid and have not failed, prepared while the trial before trains.

A sampler's own time must not stall a gang of ranks. Slow samplers are asked in a thread, one trial ahead; what they
hear meanwhile they are told afterwards.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from atoll.platform.population import Individual
from atoll.platform.propagators.propagator import Propagator, Proposal, seed_of
from atoll.searchspaces.space import Gene, SearchSpace


@dataclass(frozen=True)
class Candidate:
    """What to evaluate.

    Attributes:
        hyperparameters: all that are searched or fixed.
        proposal: where they come from.
        refused: hyperparameters that were proposed before and refused, and why.
        waited: seconds that the worker stood still for it.
    """

    hyperparameters: dict[str, Any]
    proposal: Proposal
    refused: tuple[tuple[dict[str, Any], str], ...] = ()
    waited: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The proposal as plain data."""
        return vars(self.proposal) | {"waited": self.waited}


def proposal_of(content: Mapping[str, Any]) -> Proposal:
    """The proposal that a journal holds."""
    fields = {name: content[name] for name in ("genes", "operator", "sources", "attributes", "seconds")}
    return Proposal(parents=tuple(content["parents"]), **fields)


class Proposer:
    """Asks a propagator for candidates, and tells it what happens to them.

    Args:
        propagator: whom to ask.
        space: what is searched.
        refuses: why hyperparameters must not be trained, or None where they may.
        seed: the study's.

    Attributes:
        failures: keys of configurations that have failed, which are not evaluated again unchanged.
    """

    # How often the propagator is asked before random candidates are tried, and how many of these.
    NUM_PROPOSALS = 10
    NUM_DRAWS = 10_000

    def __init__(
        self,
        propagator: Propagator,
        space: SearchSpace,
        refuses: Callable[[dict[str, Any]], str | None],
        seed: int,
    ) -> None:
        self._propagator = propagator
        self._space = space
        self._refuses = refuses
        self._seed = seed
        self._thread: threading.Thread | None = None
        self._prepared: tuple[int, Candidate | Exception] | None = None
        self._unheard: list[Callable[[], None]] = []
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

    def prepare(self, number: int) -> None:
        """Start to make a candidate for trial `number`."""
        assert self._thread is None
        self._prepared = None

        def work() -> None:
            try:
                self._prepared = number, self._make(number)
            except Exception as error:
                self._prepared = number, error

        self._hear()
        self._thread = threading.Thread(target=work, name="sampler", daemon=True)
        self._thread.start()

    def is_preparing(self, number: int) -> bool:
        """Whether a candidate for `number` is being made, or is ready."""
        return self._thread is not None or (self._prepared is not None and self._prepared[0] == number)

    def ready(self) -> Candidate | None:
        """The candidate that was prepared, once it is there."""
        if self._thread is not None and not self._thread.is_alive():
            self._join()
        if self._thread is None and self._prepared is not None and isinstance(self._prepared[1], Candidate):
            return self._prepared[1]
        return None

    def newly_ready(self) -> Candidate | None:
        """The candidate that was prepared, at the first call after it is there."""
        return self.ready() if self._thread is not None else None

    def take(self, number: int) -> Candidate:
        """The candidate for trial `number`: the prepared one, or one that is made now."""
        started = time.perf_counter()
        prepared = self._take_prepared()
        if prepared is not None and prepared[0] == number:
            made = prepared[1]
        else:
            if prepared is not None:
                self._propagator.dropped(prepared[0])
            made = self._make(number)
        return replace(made, waited=time.perf_counter() - started)

    def give_up(self) -> None:
        """Forget what was prepared: another worker evaluates that trial."""
        if (prepared := self._take_prepared()) is not None:
            self._propagator.dropped(prepared[0])

    def end(self) -> tuple[int, Candidate] | None:
        """What was prepared for which trial, when the search ends."""
        return self._take_prepared()

    def _take_prepared(self) -> tuple[int, Candidate] | None:
        self._join()
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            return None
        number, made = prepared
        if isinstance(made, Exception):
            raise made
        return number, made

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._hear()

    def _make(self, number: int) -> Candidate:
        refused: list[tuple[dict[str, Any], str]] = []
        for attempt in range(self.NUM_PROPOSALS):
            proposal = self._propagator.propose(number, attempt)
            hyperparameters = self._space.decode(proposal.genes)
            reason = self._why_not(hyperparameters)
            if reason is None:
                return Candidate(hyperparameters, proposal, tuple(refused))
            refused.append((hyperparameters, reason))
            self._propagator.dropped(number)
        return replace(self._draw(number), refused=tuple(refused))

    def _why_not(self, hyperparameters: dict[str, Any]) -> str | None:
        if key(hyperparameters) in self.failures:
            return "this configuration has failed before"
        return self._refuses(hyperparameters)

    def _draw(self, number: int) -> Candidate:
        rng, reason = random.Random(seed_of(self._seed, number, -1)), None
        for _ in range(self.NUM_DRAWS):
            genes = {
                name: rng.uniform(*ends) if isinstance(ends[0], float) else rng.randint(*ends)
                for name, ends in self._space.limits().items()
            }
            hyperparameters = self._space.decode(genes)
            if (reason := self._why_not(hyperparameters)) is None:
                return Candidate(hyperparameters, Proposal(genes, "random"))
        raise ValueError(f"of {self.NUM_DRAWS} random configurations all were refused; the last one: {reason}")

    # What happens, told to the propagator at once or, while it thinks, afterwards.

    def started(self, number: int, genes: Mapping[str, Gene], attributes: Mapping[str, Any]) -> None:
        """A trial is being evaluated."""
        self._tell(lambda: self._propagator.started(number, genes, attributes))

    def arrived(self, individual: Individual) -> None:
        """An individual has been evaluated."""
        self._tell(lambda: self._propagator.arrived(individual))

    def dropped(self, number: int) -> None:
        """A trial has failed."""
        self._tell(lambda: self._propagator.dropped(number))

    def left(self, number: int) -> None:
        """An individual has emigrated."""
        self._tell(lambda: self._propagator.left(number))

    def _tell(self, what: Callable[[], None]) -> None:
        self._unheard.append(what)
        if self._thread is None:
            self._hear()

    def _hear(self) -> None:
        unheard, self._unheard = self._unheard, []
        for what in unheard:
            what()


def key(hyperparameters: Mapping[str, Any]) -> str:
    """The same text for the same configuration."""
    return json.dumps(hyperparameters, sort_keys=True)
