"""A whole search in this process, with threads as ranks: for debugging and for tests.

Breakpoints work, and the traceback of a failed trial is printed as it happens. There is no mpiexec and no heartbeat
to watch: nothing is restarted, and a crash of one rank is a crash of all. Threads share torch's random state, so with
networks that have dropout, masks and initial weights depend on the order of the threads.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from atoll.communication.thread_world import ThreadWorld, run_in_this_thread, run_in_threads
from atoll.platform.launch.running import StopClock
from atoll.platform.launch.supervise import Run
from atoll.platform.ranks import search
from atoll.storage.events import TrialEnded
from atoll.storage.launches import JournalTail

FOLLOW_INTERVAL = 0.1


class HurriedEnd(Exception):
    """A second interrupt, or a stop that takes longer than stop_grace: the search ends at once."""


def run_in_process(run: Run) -> str | None:
    """Run the ranks as threads of this process; returns the reason if they failed, otherwise None.

    Args:
        run: the search; the tracebacks of failed trials go to standard error.
    """

    def rank(world: ThreadWorld) -> None:
        search.run(run.folder, run.member.launch, world, world.check, keeps_output=False)

    failures = _Failures(run.folder.journals)
    try:
        with contextlib.chdir("."):  # a rank may change the working directory, which the launcher needs again
            watch = _watching(run, failures)
            if _may_use_this_thread(run):
                run_in_this_thread(rank, watch=watch)
            else:
                run_in_threads(run.study.topology.shape().world_size, rank, watch=watch)
    except HurriedEnd:
        return None  # it was stopped
    except Exception as error:
        traceback.print_exception(error)
        return None if run.member.asks_to_stop() else f"a rank failed: {type(error).__name__}: {error}"
    finally:
        failures.tell()
    return None


def _may_use_this_thread(run: Run) -> bool:
    """Whether the only rank may be the main thread, in which a function can be interrupted, and handle signals."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and run.study.calls_function and run.study.topology.shape().world_size == 1


class _Failures:
    """Prints the traceback of each trial that fails from now on; what failed before a resume has been told."""

    def __init__(self, journals: Path) -> None:
        self._tail = JournalTail(journals)
        while chunks := self._tail.read():
            self._tail.advance(chunks)

    def tell(self) -> None:
        """Read the new lines."""
        while chunks := self._tail.read():
            self._tail.advance(chunks)
            for event in (event for chunk in chunks.values() for event in chunk.events):
                if isinstance(event, TrialEnded) and event.traceback:
                    print(f"trial {event.number} failed:\n{event.traceback}", file=sys.stderr, flush=True)


def _watching(run: Run, failures: _Failures) -> Callable[[], None]:
    followed, stopping = 0.0, StopClock(run.member.asks_to_stop)

    def watch() -> None:
        nonlocal followed
        if run.hurry.is_set():
            raise HurriedEnd
        if (now := time.monotonic()) - followed < FOLLOW_INTERVAL:
            return
        followed = now
        run.follow(run.folder)
        if run.member.is_late(stopping.seconds()):
            raise HurriedEnd
        failures.tell()

    return watch
