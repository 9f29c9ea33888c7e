"""Acts for a rank while a user's function does not come back: beats, answers tickets, and ends the trial in time.

A function may compute for hours without calling atoll. So a thread looks every 20 ms whether the rank's own thread is
away in the function, and then does what a wait would do. A lock keeps the two apart: the function's thread holds it
except while it is away.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from atoll.analysis.formatting import counted
from atoll.communication.communicator import PeerAborted
from atoll.communication.thread_world import WorldFailed
from atoll.platform.exit_codes import FAILURE
from atoll.platform.trial.failure import Stopped, TrialTimeout
from atoll.platform.trial.isolation import owns_process
from atoll.storage.process import start_of, with_descendants

Value = TypeVar("Value")

# What ends a trial, whatever its function does.
ENDS = (TrialTimeout, Stopped, PeerAborted, WorldFailed)

# Ends what the function's thread does: system calls, too, such as sleeping or waiting for a process. No stop signal.
SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGXCPU


class Attendant:
    """The thread of one rank.

    Args:
        look: does the work of a wait; raises the reason to end the trial.
        may_end: whether the process is a rank's only, and may be ended; else a function is interrupted again and again.
        patience: seconds that a function has to end with its trial; then the processes that it has started are
            killed, and if it does not end even so, its rank.
    """

    INTERVAL = 0.02
    AFTER_KILLING = 5.0  # seconds from the killing of its processes to that of the rank
    AGAIN = 1.0  # seconds until a function that has not ended is interrupted again

    def __init__(self, look: Callable[[], None], *, may_end: bool = False, patience: float = 30.0) -> None:
        self._look = look
        self._may_end = may_end
        self._began = 0.0
        self._patience = patience
        self._lock = threading.Lock()
        self._lock.acquire()  # held by the rank's thread, except while it is away
        self._holds = True
        self._is_away, self._may_raise = False, False
        self._at_home: int | None = None  # the function's thread that is at home
        self._reason: BaseException | None = None
        self._found, self._interrupted = 0.0, 0.0
        self._has_killed = False
        self._rank = threading.get_ident()
        self._owns_process = owns_process()
        self._ended = threading.Event()
        if self._owns_process:
            signal.signal(SIGNAL, self._on_signal)
        self._thread = threading.Thread(target=self._attend, name="attendant", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], Value]) -> Value:
        """What the function returns; raises the reason to end the trial, if there is one, whatever the function does.

        A signal may raise at any moment until the rank's thread is home again, once in a second: hence the second try.
        """
        self._reason, self._has_killed, self._began = None, False, _now()
        raised: BaseException | None = None
        try:
            try:
                self._leave()
                returned = function()
            finally:
                self._come_home()
        except BaseException as error:
            raised = error
        finally:
            self._come_home()
        reason, self._reason = self._reason, None
        if reason is not None:
            raise reason from (None if raised is reason else raised)
        if raised is not None:
            raise raised
        return returned

    @contextmanager
    def home(self) -> Iterator[None]:
        """The function calls atoll in this context; raises the reason to end the trial, if there is one."""
        if self._at_home == threading.get_ident():  # a call within a call
            yield
            return
        self._come_home()
        self._at_home = threading.get_ident()
        try:
            if self._reason is not None:
                raise self._reason
            yield
        except ENDS as reason:  # the function may swallow it
            self._keep(reason)
            raise
        finally:
            self._at_home = None
            self._leave()

    def _keep(self, reason: BaseException) -> None:
        if self._reason is None:
            now = time.monotonic()
            self._reason, self._found, self._interrupted = reason, now, now

    def end(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _leave(self) -> None:
        self._holds = False
        self._lock.release()
        self._is_away = True

    def _come_home(self) -> None:
        self._is_away = False  # first: nothing interrupts from here on
        if not self._holds:
            self._lock.acquire()
            self._holds = True

    # In the attendant's thread.

    def _attend(self) -> None:
        while not self._ended.wait(self.INTERVAL):
            if self._is_away and self._lock.acquire(blocking=False):
                try:
                    if self._is_away:
                        self._act()
                finally:
                    self._lock.release()

    def _act(self) -> None:
        now = time.monotonic()
        if self._reason is None:
            try:
                self._look()
                return
            except BaseException as reason:  # the rank's thread raises it
                self._reason, self._found, self._interrupted = reason, now, -self.AGAIN
        else:
            with suppress(BaseException):  # the reason is known
                self._look()
        if now - self._interrupted >= self.AGAIN:
            self._interrupted = now
            self._interrupt()
        # A search that stops has a time limit of its own, and threads can be ended by nobody.
        if self._owns_process and not isinstance(self._reason, Stopped):
            self._lose_patience(now - self._found - self._patience)

    def _lose_patience(self, seconds: float) -> None:
        """The function should have ended so many seconds ago."""
        if seconds <= 0:
            return
        if not self._has_killed:  # it may wait for one of them
            self._has_killed = True
            if self._may_end and (num_killed := _kill_started(self._began)):
                print(
                    f"killed {counted(num_killed, 'process', 'processes')} that the function of an ended trial had "
                    "started",
                    file=sys.stderr,
                )
            elif not self._may_end:
                print(
                    f"the function of an ended trial ({self._reason}) cannot be interrupted: it does not return",
                    file=sys.__stderr__,
                    flush=True,
                )
        if self._may_end and seconds > self.AFTER_KILLING:
            print(
                f"the function did not end within {self._patience:g} s of the end of its trial ({self._reason}): its "
                "rank ends",
                file=sys.__stderr__,
                flush=True,
            )
            os._exit(FAILURE)

    def _interrupt(self) -> None:
        if self._owns_process:  # other threads have no signals: their function ends at its next call of atoll's
            self._may_raise = True
            signal.pthread_kill(self._rank, SIGNAL)

    # In the rank's thread.

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._is_away and self._may_raise and self._reason is not None:
            self._may_raise = False  # until the next signal
            raise self._reason


def _now() -> float:
    """Seconds since the system was started, as the starts of processes are counted."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _kill_started(since: float) -> int:
    """Kill the processes that this one, and those that it has started, have started since; returns their number."""
    number = 0
    for process in with_descendants([os.getpid()])[1:]:
        started = start_of(process)
        if started is None or int(started) / os.sysconf("SC_CLK_TCK") < since - 0.05:
            continue
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
            number += 1
    return number
