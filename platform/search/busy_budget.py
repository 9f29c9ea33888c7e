"""A budget of busy seconds: what all workers may spend inside trials, whatever they wait for besides.

Methods that train fast are tried more often within it, and a search on twice the workers ends in half the time. Root 0
adds up, and tells all when the budget is over; what is in training then is trained to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.communication.mailbox import Mailbox  # needs MPI, which the launcher does without

SPENT, OVER = 14, 15


class BusyBudget:
    """One root's window of the budget.

    Args:
        mailbox: between the roots.
        seconds: what is left; None for no limit.

    Attributes:
        is_over: whether no further trial may start.
    """

    def __init__(self, mailbox: Mailbox, seconds: float | None) -> None:
        self._mailbox = mailbox
        self._left = seconds
        self.is_over = seconds is not None and seconds <= 0

    def spend(self, seconds: float) -> None:
        """Count a trial of this worker."""
        if self._left is not None:
            self._mailbox.send(seconds, 0, SPENT)
            self.serve()

    def serve(self) -> None:
        """Add up what has come, at root 0; hear elsewhere that the budget is over."""
        if self._left is None:
            return
        while (message := self._mailbox.take(SPENT)) is not None:
            self._left -= message[1]
            if self._left <= 0 and not self.is_over:
                self.is_over = True
                self._mailbox.send_to(self._mailbox.others(), None, OVER)
        if self._mailbox.take(OVER) is not None:
            self.is_over = True
