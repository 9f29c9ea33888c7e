"""The ends of a search and of a running trial: budgets of seconds, timeouts, and stop requests."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable

from atoll.platform.study.study import Study
from atoll.platform.trial.failure import Stopped, TrialTimeout


class Deadlines:
    """The clocks of one root.

    Args:
        study: the study, with its seconds, grace and trial_timeout.
        seconds_before: the seconds of searching before a resume.
        stop_requested: whether a stop was requested; called at intervals, as it looks up a file.
        job_seconds: seconds until the job ends that this process is part of; None if that is unknown.
        lengths: the worker-seconds of complete trials so far.
        makes_way: whether the ranks are to end between trials, as the study is to be searched otherwise; called at
            intervals, too.

    With checkpoints, also those that a function writes, a running trial is first asked to write one and stop
    (`asks_to_stop`), and ended if it has not when half of stop_grace is over.
    """

    STOP_CHECK_INTERVAL = 0.5
    NUM_LENGTHS = 100  # of the last complete trials, whose median the next one is expected to have

    def __init__(
        self,
        study: Study,
        seconds_before: float,
        stop_requested: Callable[[], bool],
        *,
        job_seconds: float | None = None,
        lengths: Iterable[float] = (),
        makes_way: Callable[[], bool] = lambda: False,
    ) -> None:
        self._left = None if study.seconds is None else study.seconds - seconds_before
        self._grace = study.grace
        self._timeout = study.trial_timeout
        self._stop_requested = stop_requested
        self._started = self._trial_started = time.monotonic()
        self._stop_checked = 0.0
        self._stopping = False
        self._makes_way = makes_way
        self._way_checked = 0.0
        self._making_way = False
        self._writes_checkpoints = self._saves = study.writes_checkpoints
        self._stop_grace = study.stop_grace
        self._asked = math.inf
        self._job_ends = math.inf if job_seconds is None else self._started + job_seconds
        self._lengths = deque(lengths, maxlen=self.NUM_LENGTHS)

    def trial_starts(self) -> None:
        """Note that a trial starts now."""
        self._trial_started = time.monotonic()
        self._saves = self._writes_checkpoints

    @property
    def saves(self) -> bool:
        """Whether the last trial has written checkpoints."""
        return self._saves

    def trial_saves(self) -> None:
        """Note that the running trial, of a function, has written a checkpoint, and may be expected to write others."""
        self._saves = True

    def trial_seconds(self) -> float:
        """Seconds since the last trial started."""
        return time.monotonic() - self._trial_started

    def is_over(self) -> bool:
        """Whether no further trial may start."""
        over = self._left is not None and time.monotonic() - self._started >= self._left
        return over or self._is_stopping() or self._is_making_way() or not self._ends_in_time()

    def _ends_in_time(self) -> bool:
        """Whether a trial that starts now can write a checkpoint, or end, before the job is asked to stop."""
        if math.isinf(self._job_ends):
            return True
        left = self._job_ends - self._stop_grace - time.monotonic()
        expected = statistics.median(self._lengths) if self._lengths and not self._writes_checkpoints else 0.0
        return left > expected

    def trial_took(self, seconds: float) -> None:
        """Note the length of a complete trial."""
        self._lengths.append(seconds)

    def interruption(self) -> Exception | None:
        """The reason to end the running trial; None if there is none."""
        if self._is_stopping() and time.monotonic() - self._asked >= self._patience():
            return Stopped("the search was asked to stop")
        if self._timeout is not None and self.trial_seconds() > self._timeout:
            return TrialTimeout(f"the trial was stopped after trial_timeout ({self._timeout:g} s)")
        elapsed = time.monotonic() - self._started
        if self._left is not None and self._grace is not None and elapsed > self._left + self._grace:
            return Stopped("the search's seconds and grace were used up")
        return None

    def _patience(self) -> float:
        """Seconds that a trial has for its checkpoint, once the search was asked to stop."""
        grace = min(self._stop_grace, self._job_ends - self._asked)  # a batch system's signal may come late
        return grace / 2 if self._saves else 0.0

    def asks_to_stop(self) -> bool:
        """Whether the running trial is to write a checkpoint and stop; one that writes none is trained to its end.

        Unless the search is asked to stop.
        """
        return self._is_stopping() or (self._saves and self._is_making_way())

    def was_asked_to_stop(self) -> bool:
        """Whether the search has been asked to stop up to now."""
        return self._is_stopping(at_once=True)

    def _is_making_way(self) -> bool:
        if not self._making_way and time.monotonic() - self._way_checked > self.STOP_CHECK_INTERVAL:
            self._way_checked = time.monotonic()
            self._making_way = self._makes_way()
        return self._making_way

    def _is_stopping(self, *, at_once: bool = False) -> bool:
        due = at_once or time.monotonic() - self._stop_checked > self.STOP_CHECK_INTERVAL
        if not self._stopping and due:
            self._stop_checked = time.monotonic()
            self._stopping = self._stop_requested()
            if self._stopping:
                self._asked = time.monotonic()
        return self._stopping
