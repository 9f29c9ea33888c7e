"""Heartbeats through files: a rank touches its own file at its poll points, and the launcher detects silent ranks.

No thread touches the file, because a rank that is stuck, stopped or cut off must fall silent. No port is needed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


class Heartbeat:
    """A rank's heartbeat; called at every poll, it touches its file at intervals."""

    def __init__(self, path: Path, interval: float) -> None:
        path.touch()
        self._path = path
        self._interval = interval
        self._beaten = time.monotonic()

    def __call__(self) -> None:
        """Touch the file if the interval has elapsed."""
        now = time.monotonic()
        if now - self._beaten > self._interval:
            self._beaten = now
            self._path.touch()

    def end(self) -> None:
        """Remove the file: this rank has done its part. One that ends without this word has died."""
        self._path.unlink(missing_ok=True)


def interval(timeout: float) -> float:
    """Seconds between two heartbeats of a rank that counts as dead after `timeout`."""
    return min(timeout / 10, 5.0)


class HeartbeatMonitor:
    """The launcher's monitor: detects ranks whose files have not changed for too long, by the launcher's clock."""

    CHECKS_PER_TIMEOUT = 20

    def __init__(self, paths: Sequence[Path], timeout: float) -> None:
        self._paths = paths
        self._timeout = timeout
        self._checked = time.monotonic()
        self._seen = [(_changed(path), self._checked) for path in paths]

    def silent(self) -> list[int]:
        """World ranks that have been silent for longer than the timeout; looks up the files at intervals only."""
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
