"""One budget for all workers: tickets from one owner, asked for one ahead.

A worker that is fast takes more tickets, and none waits at the end for a share that is not its own. The owner, root 0
of the search, answers from its poll points: a one-sided counter would wait there too as soon as it crosses hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.platform.mailbox import Mailbox  # needs MPI, which the launcher does without

ASK, GIVE = 11, 12


@dataclass(frozen=True)
class Ticket:
    """The right to evaluate one trial.

    Attributes:
        number, attempt: the trial's key in the study.
        hyperparameters: what to evaluate, for a default or a retried trial; None to breed.
    """

    number: int
    attempt: int = 0
    hyperparameters: dict[str, Any] | None = None


class TicketOffice:
    """One root's window of the ticket office; that of root 0 owns the tickets.

    Args:
        mailbox: between the roots.
        tickets: what there is to evaluate, at the owner.
        open_: at the owner, whether tickets may still be given out.
    """

    def __init__(self, mailbox: Mailbox, tickets: Iterable[Ticket], open_: Callable[[], bool]) -> None:
        self._mailbox = mailbox
        self._tickets = iter(tickets)
        self._open = open_
        self._asked = False

    @property
    def is_owner(self) -> bool:
        """Whether this root gives the tickets out."""
        return self._mailbox.rank == 0

    def serve(self) -> None:
        """Answer those who have asked, at the owner."""
        while self.is_owner and (message := self._mailbox.take(ASK)) is not None:
            self._mailbox.send(self._next(), message[0], GIVE)

    def ask(self) -> None:
        """Ask for the next ticket, so that it is there when it is wanted."""
        if not self._asked and not self.is_owner:
            self._mailbox.send(None, 0, ASK)
        self._asked = True

    def take(self, wait: Callable[[Callable[[], bool]], None]) -> Ticket | None:
        """The next ticket, or None when there are no more.

        Args:
            wait: returns when the condition that it is given holds.
        """
        self.ask()
        self._asked = False
        if self.is_owner:
            return self._next()
        answers: list[tuple[int, Any]] = []

        def answered() -> bool:
            if (message := self._mailbox.take(GIVE)) is not None:
                answers.append(message)
            return bool(answers)

        wait(answered)
        ticket: Ticket | None = answers[0][1]
        return ticket

    def _next(self) -> Ticket | None:
        return next(self._tickets, None) if self._open() else None
