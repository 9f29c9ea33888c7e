"""Numbers, durations and sizes for people to read: the same words on the command line and in the dashboard."""

from __future__ import annotations

import math

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


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 worker, 2 workers; `plural` if it does not end in s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def parent(number: int) -> str:
    """A trial that another one was bred from; a negative number is a result from elsewhere, of `learn_from`."""
    return f"trial {number}" if number >= 0 else f"learned result {-number}"
