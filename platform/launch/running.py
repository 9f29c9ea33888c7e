"""Whether a study is running, in which process, and how it ended."""

from __future__ import annotations

from typing import Any

from atoll.platform.launch.errors import LaunchError
from atoll.storage import journal
from atoll.storage.events import StudyEnded, StudyStarted
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


def state(folder: StudyFolder) -> str | None:
    """The state in which the study ended, from its journal; None if it has not ended."""
    lines = folder.journal("launcher")
    events = journal.read_chunk(lines).events if lines.exists() else []
    last = [event for event in events if isinstance(event, StudyStarted | StudyEnded)]
    return last[-1].state if last and isinstance(last[-1], StudyEnded) else None
