"""One launcher per study: a lock file that names its holder, and is taken over from a dead holder.

The file is made by a hard link, which is atomic on network file systems, too. On the holder's own host, its process is
looked up; from elsewhere, the holder counts as dead if it has not refreshed the file for a while.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any


class Locked(Exception):
    """Another process holds the lock; the message names it."""


class Lock:
    """The lock of one study, held from `acquire` to `release`."""

    SILENCE = 60.0
    REFRESH_INTERVAL = 5.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refreshed = 0.0

    def acquire(self) -> None:
        """Take the lock, if necessary over from a dead holder. Raises Locked."""
        mine = self._path.with_name(f"{self._path.name}.{socket.gethostname()}.{os.getpid()}")
        mine.write_text(json.dumps(_identity()))
        try:
            # Between the check and the link, a holder may die, or another launcher may take the lock.
            for _ in range(10):
                try:
                    os.link(mine, self._path)
                except FileExistsError:
                    self._clear_if_dead(now=mine.stat().st_mtime)
                else:
                    return
            raise Locked(f"{self._path} could not be taken, because several launchers compete for it; try again")
        finally:
            mine.unlink()

    def _clear_if_dead(self, now: float) -> None:
        try:
            holder = json.loads(self._path.read_text())
            silence = now - self._path.stat().st_mtime
        except (FileNotFoundError, ValueError):
            self._path.unlink(missing_ok=True)
            return
        if _is_alive(holder, silence, self.SILENCE):
            raise Locked(
                f"this study is running as process {holder['process']} on {holder['hostname']} (since "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(holder['since']))}); stop it first, or wait"
            )
        self._path.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Show that the holder is alive; to be called often, touches the file at intervals."""
        if time.monotonic() - self._refreshed > self.REFRESH_INTERVAL:
            self._refreshed = time.monotonic()
            os.utime(self._path)

    def release(self) -> None:
        """Release the lock."""
        self._path.unlink(missing_ok=True)

    def holder(self) -> dict[str, Any] | None:
        """The live process that holds the lock; None if there is none."""
        try:
            owner: dict[str, Any] = json.loads(self._path.read_text())
            silence = time.time() - self._path.stat().st_mtime
        except (FileNotFoundError, ValueError):
            return None
        return owner if _is_alive(owner, silence, self.SILENCE) else None


def _identity() -> dict[str, Any]:
    return {
        "hostname": socket.gethostname(),
        "process": os.getpid(),
        "started": _start_of(os.getpid()),
        "since": time.time(),
    }


def _is_alive(holder: dict[str, Any], silence: float, patience: float) -> bool:
    if holder.get("hostname") != socket.gethostname():
        return silence < patience
    started = _start_of(int(holder["process"]))
    return started is not None and started == holder.get("started")


def _start_of(process: int) -> str | None:
    """The start time of a process on this host, in the system's format; None if there is no such process."""
    try:
        # The fields of proc(5) after the command, which may contain spaces: the state, ..., and field 22.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(process)
    return None if fields[0] == "Z" else fields[19]


def _without_proc(process: int) -> str | None:
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(process, 0)
    except OSError:
        return None
    return "alive"
