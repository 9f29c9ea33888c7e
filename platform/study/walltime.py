"""The time limit of a job, as batch systems write it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d)(?::(?P<seconds>[0-5]?\d))?")


def seconds_of(limit: str | float) -> float:
    """Seconds of a time limit: a number of them, "H:MM", "H:MM:SS" or "D-H:MM:SS".

    Raises:
        ValueError: for anything else.

    Example:
        >>> seconds_of("1-2:00:30")
        93630.0
    """
    if isinstance(limit, int | float) and not isinstance(limit, bool):
        seconds = float(limit)
    elif match := _CLOCK.fullmatch(str(limit).strip()):
        days, hours, minutes, rest = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
        seconds = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    elif re.fullmatch(r"\d+(\.\d+)?", str(limit).strip()):
        seconds = float(limit)
    else:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"a time limit must be seconds, H:MM, H:MM:SS or D-H:MM:SS, above 0; got {limit!r}")
    return seconds


def _checked(value: Any) -> Any:
    return value if value is None else seconds_of(value)


Walltime = Annotated[float, BeforeValidator(_checked), Field(gt=0)]
