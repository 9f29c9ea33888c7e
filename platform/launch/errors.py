"""Why a search cannot start."""

from __future__ import annotations


class LaunchError(Exception):
    """The search cannot start; the message says why, and what would help."""
