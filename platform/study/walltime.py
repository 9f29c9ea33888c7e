"""The time limit of a job: a number of seconds, or as batch systems write it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from atoll.analysis import batch


def seconds_of(limit: str | float) -> float:
    """Seconds of a time limit: a number of them, or a text such as "4:00:00", "1-00:00:00" or "90m".

    Raises:
        ValueError: for anything else.

    Example:
        >>> seconds_of("1-02:00:30"), seconds_of("90")
        (93630.0, 90.0)
    """
    if isinstance(limit, bool) or not isinstance(limit, str | int | float):
        raise ValueError(f"a time limit must be a number of seconds, or a text such as 4:00:00; got {limit!r}")
    try:
        seconds = float(limit)
    except ValueError:
        return float(batch.seconds(str(limit)))
    if not 0 < seconds < math.inf:
        raise ValueError(f"a time limit must be above 0 seconds, and finite; got {limit!r}")
    return seconds


def _checked(value: Any) -> Any:
    return value if value is None else seconds_of(value)


Walltime = Annotated[float, BeforeValidator(_checked), Field(gt=0)]
