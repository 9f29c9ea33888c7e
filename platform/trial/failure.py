"""The ends of a trial before its time, and the words for exceptions of user code.

User code may refuse to describe itself, or have megabytes to say.
"""

from __future__ import annotations

import traceback

from atoll.storage.text import REASON_LIMIT, TRACEBACK_LIMIT, shortened, storable


class Diverged(ArithmeticError):
    """The loss, or the value that a function reports, became NaN or infinite."""


class Stopped(Exception):
    """The trial was stopped before its end; it is requeued."""


class TrialTimeout(Exception):
    """The trial exceeded the study's trial_timeout."""


def reason_of(error: BaseException) -> str:
    """The type and the message, without what no database holds, and cut to a size."""
    return shortened(storable(f"{type(error).__name__}: {str.strip(_message(error))}"), REASON_LIMIT)


def traceback_of(error: BaseException) -> str:
    """The traceback with the causes, without what no database holds, and cut to a size."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as unprintable:  # user code again: its notes, its attributes, the line that it shows
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = (
            f"Traceback (most recent call last):\n{frames}{reason_of(error)}\n"
            f"[{type(unprintable).__name__} while printing it]\n"
        )
    return shortened(storable(text), TRACEBACK_LIMIT)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as unprintable:
        return f"its message cannot be shown, as its __str__ raises {type(unprintable).__name__}"
