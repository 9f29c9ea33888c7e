"""Who runs a study now, and how it ended."""

from __future__ import annotations

from typing import Any

from atoll.platform.launch.errors import LaunchError
from atoll.storage import journal
from atoll.storage.events import StudyEnded, StudyStarted
from atoll.storage.folder import BenchmarkFolder, StudyFolder
from atoll.storage.lock import Lock


def holder(folder: StudyFolder) -> dict[str, Any] | None:
    """The process that runs the study, or None where none does."""
    return Lock(folder.lock).holder()


def running_part(benchmark: BenchmarkFolder) -> StudyFolder | None:
    """The study of a benchmark that a living process runs; None where there is none."""
    return next((study for study in benchmark.studies() if holder(study) is not None), None)


def check_not_running(folder: StudyFolder) -> None:
    """Raise LaunchError while a living process runs the study."""
    if (found := holder(folder)) is not None:
        raise LaunchError(
            f"the study in {folder.path} is being run by process {found['process']} on {found['hostname']}; "
            "stop it first"
        )


def request_stop(folder: StudyFolder) -> None:
    """Ask a running search to stop: trials in flight end at their next poll, to be queued again."""
    folder.stop_request.touch()


def state(folder: StudyFolder) -> str | None:
    """How the study ended, by its journal; None while it has not."""
    lines = folder.journal("launcher")
    events = journal.read_chunk(lines).events if lines.exists() else []
    last = [event for event in events if isinstance(event, StudyStarted | StudyEnded)]
    return last[-1].state if last and isinstance(last[-1], StudyEnded) else None
