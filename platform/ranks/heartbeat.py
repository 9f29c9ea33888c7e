"""Heartbeats through files: a rank touches its own from its poll points, and the launcher notices a rank that stops.

No thread beats: a rank that is stuck, stopped, or cut off must fall silent. No port is needed either.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


class Heartbeat:
    """A rank's own; called at every poll, it touches the file once in a while."""

    def __init__(self, path: Path, interval: float) -> None:
        path.touch()
        self._path = path
        self._interval = interval
        self._beaten = time.monotonic()

    def __call__(self) -> None:
        """Beat, if the last one is long enough ago."""
        now = time.monotonic()
        if now - self._beaten > self._interval:
            self._beaten = now
            self._path.touch()


def interval(timeout: float) -> float:
    """Seconds between two beats, for a rank that counts as dead after `timeout`."""
    return min(timeout / 10, 5.0)


class HeartbeatMonitor:
    """The launcher's view: which ranks have not changed their file for too long, by the launcher's own clock."""

    CHECKS_PER_TIMEOUT = 20

    def __init__(self, paths: Sequence[Path], timeout: float) -> None:
        self._paths = paths
        self._timeout = timeout
        self._checked = time.monotonic()
        self._seen = [(_changed(path), self._checked) for path in paths]

    def silent(self) -> list[int]:
        """World ranks that have been silent for longer than the timeout; cheap, as files are looked at now and then."""
        now = time.monotonic()
        if now - self._checked < self._timeout / self.CHECKS_PER_TIMEOUT:
            return []
        self._checked = now
        for rank, path in enumerate(self._paths):
            changed = _changed(path)
            if changed != self._seen[rank][0]:
                self._seen[rank] = changed, now
        return [rank for rank, (_, when) in enumerate(self._seen) if now - when > self._timeout]


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
