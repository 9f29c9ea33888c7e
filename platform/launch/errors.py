"""The errors of a search that cannot start."""

from __future__ import annotations


class LaunchError(Exception):
    """The search cannot start; the message has the reason and a remedy."""


class AlreadyComplete(LaunchError):
    """The search has used up its budget, or a rule of its `stop` has ended it.

    Attributes:
        reason: that of the rule; None if the budget is used up.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
