"""The errors of a search that cannot start."""

from __future__ import annotations


class LaunchError(Exception):
    """The search cannot start; the message has the reason and a remedy."""


class AlreadyComplete(LaunchError):
    """The search has used up its budget."""
