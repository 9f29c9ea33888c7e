"""The memory of a process."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_HIGHEST = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
_RESET = "5"  # the peak becomes the present size


class _Usage:
    """Whether `getrusage` follows the resets of the peak, as it takes a hundredth of the time of reading a file.

    It does in most processes: Linux takes the larger one of the present program's peak, which `reset_peak_memory`
    resets, and of what the process was before it became this program.
    """

    follows: bool | None = None  # not known before the first reset


def peak_memory() -> int:
    """The process's largest resident size since its start or `reset_peak_memory`, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return used if _Usage.follows else _status() or used


def can_reset_peak_memory() -> bool:
    """Whether the system can forget the largest size so far: Linux can."""
    return os.access(_CLEAR, os.W_OK)


def reset_peak_memory() -> None:
    """Forget the largest size so far, where the system can: on Linux."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET)
        if _Usage.follows is None:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            highest = _status()
            _Usage.follows = highest is not None and used <= highest


def _status() -> int | None:
    """The peak that the system's file tells; None if it has none."""
    with contextlib.suppress(OSError):
        if (found := _HIGHEST.search(_STATUS.read_text())) is not None:
            return int(found[1]) * 1024
    return None
