"""One budget for all workers: one owner gives out tickets, and workers ask for one ahead.

A fast worker takes more tickets, and none waits at the end for a share of its own: a ticket prefetched by a worker in a
long trial is recalled as soon as another worker is idle. A worker that asks again within milliseconds gets several. The
owner, root 0 of the search, answers from its poll points: a one-sided counter would wait there too across hosts.

    worker A                          owner                            worker B
       |  TO_OWNER question 1, idle     |                                 |
       |------------------------------->|                                 |
       |  GIVE [ticket 0]               |                                 |
       |<-------------------------------|  A starts 0                     |
       |  TO_OWNER question 2           |                                 |
       |------------------------------->|                                 |
       |  GIVE [ticket 1]               |                                 |
       |<-------------------------------|  A holds 1 while it trains 0    |
       |                                |     TO_OWNER question 1, idle   |
       |                                |<--------------------------------|  no ticket is left
       |  RECALL question 2             |                                 |
       |<-------------------------------|                                 |
       |  TO_OWNER question 2, [1]      |                                 |
       |------------------------------->|  A returns 1 and asks again     |
       |                                |     GIVE [ticket 1]             |
       |                                |-------------------------------->|  B starts 1

A recall crosses with A's start of the held ticket: A then ignores it, and its next question says so.

With promotion, and with population-based training, nobody asks ahead, as the owner decides what a worker does when it
is free: continue a paused trial, or start a new one. Workers tell it how their trials have ended. When all tickets are
given out, the questions of idle workers stay open as long as a trial trains that may pause, and thereby make another
one promotable.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from atoll.communication.mailbox import Mailbox
    from atoll.platform.search.promotion import Ended, Paused
    from atoll.platform.study.configuration import Schedule

# All messages to the owner share one tag, so MPI keeps their order.
TO_OWNER, GIVE, RECALL = 11, 12, 13


@dataclass(frozen=True)
class Ticket:
    """The right to evaluate one trial.

    Attributes:
        number, attempt: the trial's key in the study.
        hyperparameters: the configuration of a default or retried trial; None if the sampler is to propose one.
        proposal: the origin of proposed hyperparameters.
        reached: the fidelity at which the trial has paused, if this attempt continues it.
        home: the island that knows the trial's result, if this attempt continues it.
        schedule, seed: with population-based training, those of the training that this attempt continues.
    """

    number: int
    attempt: int = 0
    hyperparameters: dict[str, Any] | None = None
    proposal: dict[str, Any] | None = None
    reached: float = 0.0
    home: int | None = None
    schedule: Schedule | None = None
    seed: int | None = None


class TicketSource(Protocol):
    """Where the owner gets the tickets that it gives out."""

    def take(self, count: int) -> list[Ticket]:
        """The next ones, at most so many; none if there are none now."""


class GivenTickets:
    """Tickets that nobody else takes."""

    def __init__(self, tickets: Iterable[Ticket]) -> None:
        self._tickets = iter(tickets)

    def take(self, count: int) -> list[Ticket]:
        """The next ones, at most so many."""
        return list(itertools.islice(self._tickets, count))


class _State(Enum):
    """What the owner knows of a worker."""

    WORKING = auto()  # trains, or has ended
    ASKING = auto()  # asks for a ticket ahead
    IDLE = auto()  # asks, and has nothing to do
    HOLDING = auto()  # holds tickets that it has not started
    RECALLED = auto()  # holds tickets, and has been asked to return them


@dataclass
class _Client:
    """A worker in the owner's view.

    Attributes:
        rank: the rank of its root.
        state: see `_State`.
        since: the place in the order in which workers began to ask, or to hold tickets.
        question: the number of its last question.
        answered: the number of the last answered question; None if that question is open again.
        given_at, num_given: the time of the last answer, and its number of tickets.
    """

    rank: int
    state: _State = _State.WORKING
    since: int = 0
    question: int = 0
    answered: int | None = None
    given_at: float = -math.inf
    num_given: int = 1

    @property
    def asks(self) -> bool:
        """Whether it has an open question."""
        return self.state in (_State.ASKING, _State.IDLE)

    @property
    def holds(self) -> bool:
        """Whether it has tickets that it has not started."""
        return self.state in (_State.HOLDING, _State.RECALLED)


class _Owner:
    """Gives out tickets, and tracks the workers that hold tickets they have not started."""

    # A worker gets the tickets of this many seconds at once, up to a largest batch.
    BATCH_SECONDS = 0.02
    LARGEST_BATCH = 16

    def __init__(
        self, mailbox: Mailbox, tickets: TicketSource, is_open: Callable[[], bool], rungs: Paused | None
    ) -> None:
        self._mailbox = mailbox
        self._tickets = tickets
        self._first: Ticket | None = None  # with promotion: the next of them
        self._open = is_open
        self._rungs = rungs
        self._training: set[int] = set()  # with promotion: the trials that were given out and have not ended
        self._returned: deque[Ticket] = deque()
        self._clients: dict[int, _Client] = {}
        self._changes = itertools.count()

    def serve(self) -> None:
        """Take in the messages that have arrived, and answer open questions."""
        while (message := self._mailbox.take(TO_OWNER)) is not None:
            rank, content = message
            if not isinstance(content, tuple):
                assert self._rungs is not None
                self._training.discard(content.number)
                self._rungs.take_in(content)
                continue
            question, is_idle, returned = content
            client = self._clients.setdefault(rank, _Client(rank))
            if returned:
                assert client.holds
                self._returned.extend(returned)
                client.answered = None
                self._enter(client, _State.ASKING)
            elif client.answered != question:  # otherwise the answer is on its way
                # A new question means that the worker has started its previous tickets.
                self._enter(client, _State.IDLE if is_idle else _State.ASKING)
            client.question = question
        if any(client.asks for client in self._clients.values()):
            self._answer()

    def _enter(self, client: _Client, state: _State) -> None:
        """Change a client's state; a question repeated because it has become urgent keeps its place in the order."""
        repeats = client.asks
        client.state = state
        if not (repeats and client.asks):
            client.since = next(self._changes)

    def _answer(self) -> None:
        asking = (client for client in self._clients.values() if client.asks)
        for client in sorted(asking, key=lambda client: (client.state is not _State.IDLE, client.since)):
            tickets = self._next(self._batch(client))
            if not tickets and any(other.holds for other in self._clients.values()) and self._open():
                self._recall()
                return
            if not tickets and self._training and self._open():
                return  # one of them may pause
            num_started = int(client.state is _State.IDLE)  # an idle worker starts the first ticket at once
            self._enter(client, _State.HOLDING if len(tickets) > num_started else _State.WORKING)
            client.answered = client.question
            client.given_at, client.num_given = time.monotonic(), len(tickets)
            self._mailbox.send(tickets, client.rank, GIVE)

    def _batch(self, client: _Client) -> int:
        """The number of tickets for a worker, from its time per ticket since the last answer."""
        seconds = (time.monotonic() - client.given_at) / client.num_given
        return max(1, min(self.LARGEST_BATCH, int(self.BATCH_SECONDS / max(seconds, 1e-6))))

    def _next(self, count: int) -> list[Ticket]:
        if not self._open():
            return []
        if self._returned:
            return [self._returned.popleft()]
        if self._rungs is not None:
            return self._promoted_or_next(self._rungs)
        return self._tickets.take(count)

    def _promoted_or_next(self, rungs: Paused) -> list[Ticket]:
        """What has begun comes first: interrupted trials, then promoted ones."""
        if self._first is None:
            self._first = next(iter(self._tickets.take(1)), None)
        is_interrupted = self._first is not None and self._first.attempt > 0
        has_new = self._first is not None
        ticket = None if is_interrupted else rungs.promote(len(self._training), has_new=has_new)
        if ticket is None:
            ticket, self._first = self._first, None
        if ticket is None:
            return []
        self._training.add(ticket.number)
        return [ticket]

    def _recall(self) -> None:
        """Recall the tickets of as many workers as are idle, those first that have held theirs longest."""
        states = [client.state for client in self._clients.values()]
        num_missing = max(0, states.count(_State.IDLE) - states.count(_State.RECALLED))
        holding = (client for client in self._clients.values() if client.state is _State.HOLDING)
        for client in sorted(holding, key=lambda client: client.since)[:num_missing]:
            client.state = _State.RECALLED
            self._mailbox.send(client.question, client.rank, RECALL)


class TicketOffice:
    """One root's access to the tickets; root 0's owns them.

    Args:
        mailbox: the mailbox of all roots.
        tickets: the source of the trials to evaluate; used at the owner.
        is_open: whether tickets may still be given out; used at the owner.
        give_back: called with the next ticket when it is recalled; returns the ticket for the other worker.
        rungs: with promotion, the trials that have paused so far; used at the owner.
        promotes: whether paused trials are promoted.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        tickets: TicketSource,
        is_open: Callable[[], bool],
        give_back: Callable[[Ticket], Ticket] = lambda ticket: ticket,
        rungs: Paused | None = None,
        promotes: bool = False,
    ) -> None:
        self._mailbox = mailbox
        self._give_back = give_back
        self._owner = _Owner(mailbox, tickets, is_open, rungs) if mailbox.rank == 0 else None
        self._promotes = promotes
        self._question = 0
        self._is_asked = False
        self._is_answered = False
        self._ahead: deque[Ticket] = deque()

    @property
    def prefetched(self) -> Ticket | None:
        """The ticket for the trial after the current one; None while there is none."""
        return self._ahead[0] if self._ahead else None

    def serve(self) -> None:
        """Take in the messages that have arrived, and answer them."""
        if self._owner is not None:
            self._owner.serve()
        if self._is_asked and (message := self._mailbox.take(GIVE)) is not None:
            self._is_answered = True
            self._ahead.extend(message[1])
        while (message := self._mailbox.take(RECALL)) is not None:
            if self._ahead and message[1] == self._question:  # otherwise they have been started meanwhile
                first, *others = self._ahead
                returned = [self._give_back(first), *others]
                self._ahead.clear()
                self._is_asked, self._is_answered = True, False
                self._mailbox.send((self._question, None, returned), 0, TO_OWNER)

    def ask(self) -> None:
        """Ask for the next ticket, so that it is available when it is needed; with promotion it is too early."""
        if not self._ahead and not self._is_asked and not self._promotes:
            self._ask(is_idle=False)

    def ended(self, ended: Ended) -> None:
        """Tell the owner how a trial has ended, for promotion."""
        if self._promotes:
            self._mailbox.send(ended, 0, TO_OWNER)

    def _ask(self, *, is_idle: bool) -> None:
        if not self._is_asked:  # otherwise the same question is repeated, because it has become urgent
            self._question += 1
            self._is_asked = True
        self._mailbox.send((self._question, is_idle, None), 0, TO_OWNER)

    def take(self, wait: Callable[[Callable[[], bool]], None]) -> Ticket | None:
        """The next ticket, or None if there are no more.

        Args:
            wait: serves until its argument returns true.
        """
        self.serve()
        if not self._ahead and not self._is_answered:
            self._ask(is_idle=True)
            wait(lambda: self._is_answered)
        self._is_asked = self._is_answered = False
        return self._ahead.popleft() if self._ahead else None
