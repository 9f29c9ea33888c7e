"""Numbers, durations and sizes for people to read: the same words on the command line and in the dashboard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from atoll.storage.text import counted as counted

MISSING = "-"
MISSING_ON_PAGES = "–"


def number(value: object, missing: str = MISSING) -> str:
    """A value for a table; numbers to four digits."""
    if value is None:
        return missing
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def duration(seconds: float | None, missing: str = MISSING) -> str:
    """A time span in hours, minutes and seconds."""
    if seconds is None or not math.isfinite(seconds):
        return missing
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(num_bytes: float | None, missing: str = MISSING) -> str:
    """A number of bytes, with decimal units."""
    if num_bytes is None:
        return missing
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.3g} {unit}"


def origin(proposal: Mapping[str, Any]) -> str:
    """What proposed a trial, of which parents, or by which related sources with what weights.

    Example:
        >>> origin({"operator": "related", "attributes": {"related:weights": {"study a": 0.75, "b.csv": 0}}})
        'related (study a 75 %)'
    """
    said = str(proposal.get("operator", "unknown"))
    if parents := proposal.get("parents"):
        said += f" of {', '.join(map(parent, parents))}"
    weights = (proposal.get("attributes") or {}).get("related:weights")
    found = weights.items() if isinstance(weights, dict) else ()  # a journal may be somebody else's
    shown = [f"{source} {100 * w:.0f} %" for source, w in found if isinstance(w, int | float) and w > 0]
    return f"{said} ({', '.join(shown)})" if shown else said


def of_budget(num_ended: int, num_trials: int | None) -> str:
    """The progress of a search: 3/12 trials; without a budget of trials 3/- trials."""
    return f"{num_ended}/{num_trials or MISSING} {'trial' if num_trials == 1 else 'trials'}"


def parent(number: int) -> str:
    """A trial that another one was bred from; a negative number is a result from elsewhere, of `learn_from`."""
    return f"trial {number}" if number >= 0 else f"learned result {-number}"
