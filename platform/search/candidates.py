"""The configuration for each ticket: a given one, a lost one, or the sampler's proposal, prepared ahead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from atoll.platform.search.journal_writer import SearchJournal
from atoll.platform.search.proposals import Candidate, Proposer, key
from atoll.platform.search.tickets import Ticket
from atoll.platform.study.plan import Plan

log = logging.getLogger("atoll.search")

Wait = Callable[[Callable[[], bool]], None]
Given = tuple[dict[str, Any], str]  # hyperparameters and their origin


def given_first(plan: Plan, warm_start: Sequence[dict[str, Any]]) -> list[Given]:
    """The hyperparameters of the first trials: the default and a warm start, or the configurations to confirm."""
    if plan.study.confirm is not None:
        return [(hyperparameters, "confirm") for hyperparameters in plan.study.confirm.trials()]
    first = [(plan.space.default(), "default")] if plan.study.default_first else []
    return first + [(hyperparameters, "warm_start") for hyperparameters in warm_start]


class Candidates:
    """The candidates for one root's tickets.

    Candidates that a slow sampler has prepared are journaled, so that a resumed search uses them.

    Args:
        proposer: makes candidates.
        journal: records them.
        given: the configurations to evaluate first, with their origins.
        earlier: the candidate of a trial that was proposed before the study's space or sampler has changed; None for
            any other trial.
    """

    def __init__(
        self,
        proposer: Proposer,
        journal: SearchJournal,
        given: Sequence[Given],
        earlier: Callable[[int], Candidate | None] = lambda _: None,
    ) -> None:
        self._proposer = proposer
        self._journal = journal
        self._earlier = earlier
        self._given = {key(hyperparameters): operator for hyperparameters, operator in given}
        self._noted: set[int] = set()  # trials whose prepared candidates are in the journal

    def of(self, ticket: Ticket, wait: Wait) -> Candidate:
        """The ticket's configuration, or a proposal."""
        if ticket.hyperparameters is not None and (known := self._known(ticket, ticket.hyperparameters)) is not None:
            return known
        candidate = self._proposer.take(ticket.number, wait)
        if ticket.number not in self._noted:
            self._journal.infeasible(ticket.number, candidate)
        return candidate

    def _known(self, ticket: Ticket, hyperparameters: dict[str, Any]) -> Candidate | None:
        """The ticket's candidate; None if a damaged line of a journal left one that is outside the space."""
        if (earlier := self._earlier(ticket.number)) is not None:
            return earlier
        operator = self._given.get(key(hyperparameters), "retry")
        try:
            return self._proposer.settle(hyperparameters, operator, ticket.proposal)
        except ValueError as error:
            log.warning("trial %d gets a new configuration, as its journaled one is invalid: %s", ticket.number, error)
            return None

    def prepare(self, ticket: Ticket | None, receive: Callable[[], None]) -> None:
        """Let a slow sampler prepare the next ticket's candidate while a trial trains, and journal it when ready.

        Args:
            ticket: the next ticket; None if there is none yet.
            receive: takes in the messages that the sampler should know before it starts.
        """
        if ticket is None or ticket.hyperparameters is not None or not self._proposer.is_slow:
            return
        if not self._proposer.is_busy:
            receive()
            self._proposer.prepare(ticket.number)
        self._note(ticket.number)

    def give_back(self, ticket: Ticket) -> Ticket:
        """The ticket for an idle worker, with its prepared candidate."""
        if ticket.hyperparameters is None and (candidate := self._proposer.ready(ticket.number)) is not None:
            self._note(ticket.number)
            ticket = replace(ticket, hyperparameters=candidate.hyperparameters, proposal=candidate.as_dict())
        self._proposer.give_up(ticket.number)
        return ticket

    def keep(self, wait: Wait) -> None:
        """When the search ends, wait for the candidate that is being prepared, and journal it for a resume."""
        number = self._proposer.number
        if number is not None:
            wait(self._proposer.is_made)
            self._note(number)

    def failed(self, configuration_key: str) -> None:
        """Note that a configuration has failed, and must not be evaluated again unchanged."""
        self._proposer.failed(configuration_key)

    def _note(self, number: int) -> None:
        if number not in self._noted and (candidate := self._proposer.ready(number)) is not None:
            self._noted.add(number)
            self._journal.infeasible(number, candidate)
            self._journal.prepared(number, candidate.hyperparameters, candidate.as_dict())
