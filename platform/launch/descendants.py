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
from pathlib import Path

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
    before = set(_children().get(os.getpid(), ()))
    try:
        yield
    finally:
        _kill_new(before)
        system.prctl(_PR_SET_CHILD_SUBREAPER, was.value)


def _kill_new(before: set[int]) -> None:
    """Until none is left: one that forks while it is killed leaves a child, which comes here."""
    end = time.monotonic() + PATIENCE
    while new := [child for child in _children().get(os.getpid(), ()) if child not in before]:
        for process in _with_descendants(new):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        for child in new:
            with contextlib.suppress(OSError):
                os.waitpid(child, os.WNOHANG)
        if time.monotonic() > end:
            return
        time.sleep(0.005)


def _with_descendants(processes: list[int]) -> list[int]:
    children, found = _children(), list(processes)
    for process in found:  # grows
        found += children.get(process, ())
    return found


def _children() -> dict[int, list[int]]:
    """The children of each process of this host."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            # The fields of proc(5) after the command, which may contain spaces: the state, and the parent.
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(entry))
    return children
