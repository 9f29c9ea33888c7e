"""Whether a study is running, in which process, and how it ended; and the request to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable

from atoll.platform.launch.errors import LaunchError
from atoll.storage.folder import BenchmarkFolder, StudyFolder
from atoll.storage.liveness import holder


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
    """Ask a running search to stop: running trials end at their next poll, and are requeued on resume.

    Raises:
        OSError: if the request cannot be written, as on a full disk.
    """
    folder.stop_request.touch()


class StopClock:
    """Measures how long a search has been stopping, by a monotonic clock.

    Args:
        is_asked: whether the search was asked to stop.
    """

    def __init__(self, is_asked: Callable[[], bool]) -> None:
        self._is_asked = is_asked
        self._seen: float | None = None

    def seconds(self) -> float | None:
        """Seconds since this was first called with a stop request; None if there is none."""
        if not self._is_asked():
            self._seen = None
            return None
        if self._seen is None:
            self._seen = time.monotonic()
        return time.monotonic() - self._seen
