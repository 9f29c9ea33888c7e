"""The memory of a process."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_HIGHEST = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
_RESET = "5"  # the peak becomes the present size


def peak_memory() -> int:
    """The process's largest resident size since its start or `reset_peak_memory`, in bytes."""
    with contextlib.suppress(OSError):
        if (found := _HIGHEST.search(_STATUS.read_text())) is not None:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory() -> None:
    """Forget the largest size so far, where the system can: on Linux."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET)
