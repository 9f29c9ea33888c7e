"""The clock of an EASGD tree's nodes on one rank: its steps, and the time once these are over."""

from __future__ import annotations

import time
from collections.abc import Callable

# In seconds. With shorter steps, as in tests, nodes would tick more often than a rank polls.
SHORTEST_STEP = 1e-4


class Pace:
    """Counts a rank's steps, and ticks on at their pace while the rank waits for others to finish theirs.

    The source's inner nodes are processes that loop forever (Zhang 2016, algorithm 6). Here they share a rank with a
    leaf, and must not stop with it: a late leaf's training would not reach the root, and leaves that are early would
    leave the root to it.

    Args:
        now: the time in seconds.

    Attributes:
        num_steps: steps of the rank's leaf.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.num_steps = 0
        self._since: float | None = None  # when the first of the epoch's steps began
        self._num_since = 0
        self._waiting_since: float | None = None
        self._seconds = SHORTEST_STEP  # of a step
        self._num_ticks = 0  # since the last step

    def begin_step(self) -> None:
        """The rank is at work."""
        self.stop()
        if self._since is None:
            self._since, self._num_since = self._now(), 0

    def end_step(self, *, is_last: bool) -> None:
        """A step is over; after the epoch's last one the clock goes on by time."""
        self.num_steps += 1
        self._num_since += 1
        if is_last:
            assert self._since is not None
            self._waiting_since = self._now()
            self._seconds = max((self._waiting_since - self._since) / self._num_since, SHORTEST_STEP)
            self._since, self._num_ticks = None, 0

    def stop(self) -> None:
        """Tick no more until the next epoch's steps are over."""
        self._waiting_since = None

    def ticks(self) -> range:
        """The numbers of the steps that would have begun since the last call; none while the rank is at work."""
        if self._waiting_since is None:
            return range(0)
        before, self._num_ticks = self._num_ticks, int((self._now() - self._waiting_since) / self._seconds)
        return range(self.num_steps + before, self.num_steps + self._num_ticks)


def has_multiple(numbers: range, period: int) -> bool:
    """Whether one of consecutive numbers is a multiple of the period."""
    return bool(numbers) and -numbers.start % period < len(numbers)
