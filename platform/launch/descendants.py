"""Ends whatever a child process has started, in other sessions and groups as well (Linux).

The kernel gives a process whose parent has ended to the nearest ancestor that has asked for it, not to init
(PR_SET_CHILD_SUBREAPER), so nobody leaves the tree of this process, however often it forks or calls setsid.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator

from atoll.storage.process import children, with_descendants

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h
PATIENCE = 2.0  # seconds that the system gets to end what was killed


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """At the end, kill this process's new children, and their descendants, whichever session they are in.

    Elsewhere than on Linux nothing is found. This process must not start others in the meantime.
    """
    if sys.platform != "linux":
        yield
        return
    system, was = ctypes.CDLL(None), ctypes.c_int(0)
    system.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was))
    system.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = set(children().get(os.getpid(), ()))
    try:
        yield
    finally:
        _kill_new(before)
        system.prctl(_PR_SET_CHILD_SUBREAPER, was.value)


def _kill_new(before: set[int]) -> None:
    """Until none is left: one that forks while it is killed leaves a child, which comes here."""
    end = time.monotonic() + PATIENCE
    while new := [child for child in children().get(os.getpid(), ()) if child not in before]:
        for process in with_descendants(new):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        for child in new:
            with contextlib.suppress(OSError):
                os.waitpid(child, os.WNOHANG)
        if time.monotonic() > end:
            return
        time.sleep(0.005)
