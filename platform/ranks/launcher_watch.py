"""A rank must not outlive its launcher: ranks without one hold cores, and write beside those of the next launch."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from atoll.platform.exit_codes import EXIT_ORPHANED
from atoll.storage.process import Process

INTERVAL = 1.0
# On other hosts than the launcher's: the lock that it refreshes every few seconds.
SILENCE = 60.0


class LauncherWatch:
    """Tells whether the launcher has ended: on its own host by its process, elsewhere by its lock's last change.

    Args:
        launcher: the process that started the MPI job.
        lock: the file that it refreshes while it lives; None if it has none.
    """

    def __init__(self, launcher: Process, lock: Path | None) -> None:
        self._launcher = launcher
        self._lock = lock
        self._seen: tuple[int | None, float] = (None, time.monotonic())

    def is_over(self) -> bool:
        """Whether the launcher has ended, or has been silent for too long by this host's clock."""
        if self._launcher.is_here:
            return self._launcher.has_ended()
        if self._lock is None:
            return False
        try:
            changed = self._lock.stat().st_mtime_ns
        except OSError:
            changed = None
        now = time.monotonic()
        if changed is not None and changed != self._seen[0]:
            self._seen = changed, now
        return now - self._seen[1] > SILENCE


def end_with(launcher: Process, lock: Path | None) -> threading.Thread:
    """End this process soon after the launcher. A thread watches, as a trial may compute for minutes between polls."""
    watch = LauncherWatch(launcher, lock)

    def follow() -> None:
        while not watch.is_over():
            time.sleep(INTERVAL)
        print(f"the launcher (process {launcher.pid} on {launcher.hostname}) has ended", file=sys.stderr, flush=True)
        os._exit(EXIT_ORPHANED)

    thread = threading.Thread(target=follow, name="launcher watch", daemon=True)
    thread.start()
    return thread
