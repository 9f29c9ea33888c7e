"""One budget for all workers: tickets from one owner, asked for one ahead.

A worker that is fast takes more tickets, and none waits at the end for a share that is not its own: a ticket that lies
ahead of a worker in a long trial is called back as soon as another worker has nothing to do. The owner, root 0 of the
search, answers from its poll points: a one-sided counter would wait there too as soon as it crosses hosts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.platform.mailbox import Mailbox  # needs MPI, which the launcher does without

# What the owner hears has one tag, so that it comes in the order that it was said.
TO_OWNER, GIVE, CALL_BACK = 11, 12, 13


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
    """Gives tickets out, and knows who holds one that is not begun."""

    def __init__(self, mailbox: Mailbox, tickets: Iterable[Ticket], open_: Callable[[], bool]) -> None:
        self._mailbox = mailbox
        self._tickets = iter(tickets)
        self._open = open_
        self._returned: deque[Ticket] = deque()
        self._holders: dict[int, bool] = {}  # of a ticket that lies ahead -> whether it was called back
        self._asking: dict[int, bool] = {}  # who has no answer yet -> whether it is idle
        self._question: dict[int, int] = {}  # the number of its last question
        self._answered: dict[int, int] = {}  # the last question of each that has its answer

    def serve(self) -> None:
        """Answer what has come."""
        while (message := self._mailbox.take(TO_OWNER)) is not None:
            rank, (question, is_idle, returned) = message
            if returned is not None:
                self._returned.append(returned)
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
            ticket = self._next()
            if ticket is None and self._holders and self._open():
                self._call_back(sum(self._asking.values()))
                return
            is_idle = self._asking.pop(rank)
            self._answered[rank] = self._question[rank]
            if ticket is not None and not is_idle:
                self._holders[rank] = False
            self._mailbox.send(ticket, rank, GIVE)

    def _next(self) -> Ticket | None:
        if not self._open():
            return None
        return self._returned.popleft() if self._returned else next(self._tickets, None)

    def _call_back(self, num_idle: int) -> None:
        """Call back as many tickets as there are idle workers."""
        missing = num_idle - sum(self._holders.values())
        for rank in [rank for rank, called in self._holders.items() if not called][: max(0, missing)]:
            self._holders[rank] = True
            self._mailbox.send(self._question[rank], rank, CALL_BACK)


class TicketOffice:
    """One root's window of the ticket office; that of root 0 owns the tickets.

    Args:
        mailbox: between the roots.
        tickets: what there is to evaluate, at the owner.
        open_: at the owner, whether tickets may still be given out.

    Attributes:
        ahead: the ticket that lies ready for after the present trial; None while there is none.
        hand_back: called with the ticket ahead when another worker is to have it; returns what that worker gets.
    """

    def __init__(self, mailbox: Mailbox, tickets: Iterable[Ticket], open_: Callable[[], bool]) -> None:
        self._mailbox = mailbox
        self._owner = _Owner(mailbox, tickets, open_) if mailbox.rank == 0 else None
        self._question = 0
        self._is_asked = False
        self._is_answered = False
        self.ahead: Ticket | None = None
        self.hand_back: Callable[[Ticket], Ticket] = lambda ticket: ticket

    def serve(self) -> None:
        """Answer what has come."""
        if self._owner is not None:
            self._owner.serve()
        if self._is_asked and (message := self._mailbox.take(GIVE)) is not None:
            self._is_answered, self.ahead = True, message[1]
        while (message := self._mailbox.take(CALL_BACK)) is not None:
            if self.ahead is not None and message[1] == self._question:  # else it has been begun meanwhile
                ticket, self.ahead, self._is_answered = self.ahead, None, False
                self._mailbox.send((self._question, None, self.hand_back(ticket)), 0, TO_OWNER)

    def ask(self) -> None:
        """Ask for the next ticket, so that it is there when it is wanted."""
        if not self._is_asked:
            self._is_asked = True
            self._question += 1
            self._mailbox.send((self._question, False, None), 0, TO_OWNER)

    def take(self, wait: Callable[[Callable[[], bool]], None]) -> Ticket | None:
        """The next ticket, or None when there are no more.

        Args:
            wait: serves until the condition that it is given holds.
        """
        self.serve()
        if not self._is_answered:
            if not self._is_asked:
                self._is_asked = True
                self._question += 1
            self._mailbox.send((self._question, True, None), 0, TO_OWNER)
            wait(lambda: self._is_answered)
        ticket, self.ahead, self._is_asked, self._is_answered = self.ahead, None, False, False
        return ticket
