"""One budget for all workers: tickets from one owner, asked for one ahead.

A worker that is fast takes more tickets, and none waits at the end for a share that is not its own: a ticket that lies
ahead of a worker in a long trial is called back as soon as another worker has nothing to do. Who asks again within
milliseconds is given several. The owner, root 0 of the search, answers from its poll points: a one-sided counter would
wait there too as soon as it crosses hosts.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.communication.mailbox import Mailbox

# What the owner hears has one tag, so that it comes in the order that it was said.
TO_OWNER, GIVE, RECALL = 11, 12, 13


@dataclass(frozen=True)
class Ticket:
    """The right to evaluate one trial.

    Attributes:
        number, attempt: the trial's key in the study.
        hyperparameters: what to evaluate, for a default or a retried trial; None to propose.
        proposal: how those hyperparameters were proposed, where they were.
    """

    number: int
    attempt: int = 0
    hyperparameters: dict[str, Any] | None = None
    proposal: dict[str, Any] | None = None


class _Owner:
    """Gives tickets out, and knows who holds some that are not begun."""

    # Workers are given the tickets of this many seconds at once, and never more than so many.
    BATCH_SECONDS = 0.02
    LARGEST_BATCH = 16

    def __init__(self, mailbox: Mailbox, tickets: Iterable[Ticket], is_open: Callable[[], bool]) -> None:
        self._mailbox = mailbox
        self._tickets = iter(tickets)
        self._open = is_open
        self._returned: deque[Ticket] = deque()
        self._holders: dict[int, bool] = {}  # of tickets that lie ahead -> whether these were called back
        self._asking: dict[int, bool] = {}  # who has no answer yet -> whether it is idle
        self._question: dict[int, int] = {}  # the number of its last question
        self._answered: dict[int, int] = {}  # the last question of each that has its answer
        self._given: dict[int, tuple[float, int]] = {}  # when, and how many

    def serve(self) -> None:
        """Answer what has come."""
        while (message := self._mailbox.take(TO_OWNER)) is not None:
            rank, (question, is_idle, returned) = message
            if returned:
                self._returned.extend(returned)
                self._holders.pop(rank)
                self._answered.pop(rank)
                self._asking[rank] = False
            elif self._answered.get(rank) != question:  # else its answer is under way
                self._holders.pop(rank, None)  # who asks anew has begun what it had
                self._asking[rank] = is_idle
            self._question[rank] = question
        if self._asking:
            self._answer()

    def _answer(self) -> None:
        # Those that are idle first, in the order that they asked.
        for rank in sorted(self._asking, key=lambda rank: not self._asking[rank]):
            tickets = self._next(self._batch(rank))
            if not tickets and self._holders and self._open():
                self._call_back(sum(self._asking.values()))
                return
            is_idle = self._asking.pop(rank)
            self._answered[rank] = self._question[rank]
            if len(tickets) > int(is_idle):  # who is idle begins the first at once
                self._holders[rank] = False
            self._given[rank] = time.monotonic(), len(tickets)
            self._mailbox.send(tickets, rank, GIVE)

    def _batch(self, rank: int) -> int:
        """How many tickets a worker gets, by how long it took for each of the last ones."""
        when, count = self._given.get(rank, (-math.inf, 1))
        seconds = (time.monotonic() - when) / count
        return max(1, min(self.LARGEST_BATCH, int(self.BATCH_SECONDS / max(seconds, 1e-6))))

    def _next(self, count: int) -> list[Ticket]:
        if not self._open():
            return []
        if self._returned:
            return [self._returned.popleft()]
        return list(itertools.islice(self._tickets, count))

    def _call_back(self, num_idle: int) -> None:
        """Call back from as many workers as there are idle ones."""
        missing = num_idle - sum(self._holders.values())
        for rank in [rank for rank, called in self._holders.items() if not called][: max(0, missing)]:
            self._holders[rank] = True
            self._mailbox.send(self._question[rank], rank, RECALL)


class TicketOffice:
    """One root's window of the ticket office; that of root 0 owns the tickets.

    Args:
        mailbox: between the roots.
        tickets: what there is to evaluate, at the owner.
        is_open: at the owner, whether tickets may still be given out.
        give_back: called with the next ticket when other workers are to have it; returns what they get.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        tickets: Iterable[Ticket],
        is_open: Callable[[], bool],
        give_back: Callable[[Ticket], Ticket] = lambda ticket: ticket,
    ) -> None:
        self._mailbox = mailbox
        self._give_back = give_back
        self._owner = _Owner(mailbox, tickets, is_open) if mailbox.rank == 0 else None
        self._question = 0
        self._is_asked = False
        self._is_answered = False
        self._ahead: deque[Ticket] = deque()

    @property
    def prefetched(self) -> Ticket | None:
        """The ticket that lies ready for after the present trial; None while there is none."""
        return self._ahead[0] if self._ahead else None

    def serve(self) -> None:
        """Answer what has come."""
        if self._owner is not None:
            self._owner.serve()
        if self._is_asked and (message := self._mailbox.take(GIVE)) is not None:
            self._is_answered = True
            self._ahead.extend(message[1])
        while (message := self._mailbox.take(RECALL)) is not None:
            if self._ahead and message[1] == self._question:  # else they have been begun meanwhile
                first, *others = self._ahead
                returned = [self._give_back(first), *others]
                self._ahead.clear()
                self._is_asked, self._is_answered = True, False
                self._mailbox.send((self._question, None, returned), 0, TO_OWNER)

    def ask(self) -> None:
        """Ask for the next ticket, so that it is there when it is wanted."""
        if not self._ahead and not self._is_asked:
            self._ask(is_idle=False)

    def _ask(self, *, is_idle: bool) -> None:
        if not self._is_asked:  # else the same question is asked again, as it has become urgent
            self._question += 1
            self._is_asked = True
        self._mailbox.send((self._question, is_idle, None), 0, TO_OWNER)

    def take(self, wait: Callable[[Callable[[], bool]], None]) -> Ticket | None:
        """The next ticket, or None when there are no more.

        Args:
            wait: serves until the condition that it is given holds.
        """
        self.serve()
        if not self._ahead and not self._is_answered:
            self._ask(is_idle=True)
            wait(lambda: self._is_answered)
        self._is_asked = self._is_answered = False
        return self._ahead.popleft() if self._ahead else None
