"""Whether a study is running, in which process, and how it ended."""

from __future__ import annotations

import time
from typing import Any

from atoll.platform.launch.errors import LaunchError
from atoll.storage import journal
from atoll.storage.events import Restarted, StudyEnded, StudyStarted
from atoll.storage.folder import BenchmarkFolder, StudyFolder
from atoll.storage.lock import Lock


def holder(folder: StudyFolder) -> dict[str, Any] | None:
    """The process that runs the study; None if no process does."""
    return Lock(folder.lock).holder()


def true_state(folder: StudyFolder, name: str, uid: str | None) -> str:
    """The state of a study that the store holds as running: its launcher may have ended before it could say so.

    "interrupted": --resume continues it, and `atoll record` or `atoll stop` ends it. A study whose files are not here
    counts as running.
    """
    if not folder.is_of(name, uid) or holder(folder) is not None:
        return "running"
    return state(folder) or "interrupted"


def running_part(benchmark: BenchmarkFolder) -> StudyFolder | None:
    """The benchmark's study that a live process runs; None if there is none."""
    return next((study for study in benchmark.studies() if holder(study) is not None), None)


def check_not_running(folder: StudyFolder) -> None:
    """Raise LaunchError while a live process runs the study."""
    if (owner := holder(folder)) is not None:
        raise LaunchError(
            f"the study in {folder.path} is running as process {owner['process']} on {owner['hostname']}; stop it first"
        )


def request_stop(folder: StudyFolder) -> None:
    """Ask a running search to stop: running trials end at their next poll, and are requeued on resume."""
    folder.stop_request.touch()


class StopClock:
    """Measures how long a search has been stopping, by a clock that nobody sets.

    Args:
        folder: the study's files.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._seen: float | None = None

    def seconds(self) -> float | None:
        """Seconds since this was first called with a stop request; None if there is none."""
        if not self._folder.stop_request.exists():
            self._seen = None
            return None
        if self._seen is None:
            self._seen = time.monotonic()
        return time.monotonic() - self._seen


def state(folder: StudyFolder) -> str | None:
    """The state in which the study ended, from its launchers' journals; None if it has not ended."""
    last = None
    for event in journal.launchers_events(folder.journals):
        if isinstance(event, StudyStarted | Restarted | StudyEnded):
            last = event
    return last.state if isinstance(last, StudyEnded) else None
