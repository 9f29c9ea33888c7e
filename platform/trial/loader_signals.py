"""Signals in processes that load data: a request to stop the search is the rank's business, not theirs.

Slurm and others send it to all processes of a job. A worker that ended would take the batch with it, so that the trial
could not write the checkpoint from which it continues.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import multiprocessing.process
import multiprocessing.util
import os
import signal
import sys
import weakref
from collections.abc import Iterator

from atoll.platform.stop_signals import STOP_SIGNALS

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


_started: weakref.WeakSet[multiprocessing.process.BaseProcess] = weakref.WeakSet()


@contextlib.contextmanager
def starting_workers(start: str | None) -> Iterator[None]:
    """Let no request reach a process that is started here before `pass_over_requests` has run in it.

    Args:
        start: fork, spawn or forkserver; None if no process is started. With forkserver, a request ends Python's
            server, which other code may use as well, and the workers with it.
    """
    if start not in ("fork", "spawn"):
        yield
        return
    if start == "spawn":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    others = set(multiprocessing.active_children())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _started.update(set(multiprocessing.active_children()) - others)


def pass_over_requests() -> None:
    """Do nothing on a request to stop, and end with the rank: to be called in a worker."""
    parent = multiprocessing.parent_process()
    is_of_rank = parent is not None and os.getppid() == parent.pid
    if sys.platform == "linux" and is_of_rank:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in STOP_SIGNALS:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)  # calls of C libraries go on
    if not is_of_rank:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _nothing(_number: int, _frame: object) -> None:
    """A handler, as ignored signals stay ignored in programs that are started."""


def _kill_started() -> None:
    """At the end of this process Python would ask them to end, and wait for that."""
    for process in list(_started):
        if process.is_alive():
            process.kill()


atexit.register(_kill_started)  # after Python's own, so it runs before
