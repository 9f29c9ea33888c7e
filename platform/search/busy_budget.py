"""A budget of worker-seconds (`busy_seconds`): the total time that all workers spend in trials.

Within it, methods that train fast get more trials, and a search on twice the workers ends in half the time. Root 0 adds
up, and informs the others when the budget is spent; running trials are then trained to the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.communication.mailbox import Mailbox  # needs MPI, which the launcher does without

SPENT, OVER = 14, 15


class BusyBudget:
    """One root's access to the budget.

    Args:
        mailbox: the mailbox of all roots.
        seconds: the remaining seconds; None for no limit.

    Attributes:
        is_over: whether no further trial may start.
    """

    def __init__(self, mailbox: Mailbox, seconds: float | None) -> None:
        self._mailbox = mailbox
        self._left = seconds
        self.is_over = seconds is not None and seconds <= 0

    def spend(self, seconds: float) -> None:
        """Charge a trial of this worker."""
        if self._left is not None:
            self._mailbox.send(seconds, 0, SPENT)
            self.serve()

    def serve(self) -> None:
        """Add up the messages that have arrived at root 0; on other roots, receive the end of the budget."""
        if self._left is None:
            return
        while (message := self._mailbox.take(SPENT)) is not None:
            self._left -= message[1]
            if self._left <= 0 and not self.is_over:
                self.is_over = True
                self._mailbox.send_to(self._mailbox.others(), None, OVER)
        if self._mailbox.take(OVER) is not None:
            self.is_over = True
