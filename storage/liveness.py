"""Whether a study is running, in which process, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.storage import launches
from atoll.storage.events import Restarted, StudyEnded, StudyStarted
from atoll.storage.folder import StudyFolder
from atoll.storage.lock import Lock
from atoll.storage.models import StudyRow

INTERRUPTED = "interrupted"


def holder(folder: StudyFolder) -> dict[str, Any] | None:
    """The process that runs the study, or one of several; None if no process does."""
    leader = Lock(folder.lock).holder()
    return leader if leader is not None else next(iter(launchers(folder).values()), None)


def launchers(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """The processes that search the study now, each with ranks of its own, by the launcher's number."""
    numbers = sorted(int(path.stem) for path in folder.launchers.glob("*.lock"))
    holders = ((number, Lock(folder.launcher_lock(number)).holder()) for number in numbers)
    return {number: holder for number, holder in holders if holder is not None}


def state(folder: StudyFolder) -> str | None:
    """The state in which the study ended, from its launchers' journals; None if it has not ended."""
    ended = end(folder)
    return None if ended is None else ended.state


def end(folder: StudyFolder) -> StudyEnded | None:
    """The study's last line, from its launchers' journals; None if it has not ended."""
    last = None
    for event in launches.launchers_events(folder.journals):
        if isinstance(event, StudyStarted | Restarted | StudyEnded):
            last = event
    return last if isinstance(last, StudyEnded) else None


def true_state(folder: StudyFolder, name: str, uid: str | None) -> str:
    """The state of a study that the store holds as running: its launcher may have ended before it could say so.

    "interrupted": --resume continues it, and `atoll record` or `atoll stop` ends it. A study whose files are not here,
    or cannot be read, counts as running.
    """
    try:
        if not folder.is_of(name, uid) or holder(folder) is not None:
            return "running"
        return state(folder) or INTERRUPTED
    except OSError:
        return "running"


def true_state_of(study: StudyRow) -> str:
    """The state of a study of the store, looked up in its files while the store holds it as running."""
    if study.state != "running":
        return study.state
    return true_state(StudyFolder(study.folder), study.name, study.uid)


def true_trial_state(state: str, study_state: str) -> str:
    """The state of a trial of the store: no trial runs in a study that does not, so it is lost.

    Args:
        state: as in the store.
        study_state: the true state of its study.
    """
    return "lost" if state == "running" and study_state != "running" else state


def true_counts(counts: Mapping[str, int], study_state: str) -> dict[str, int]:
    """The numbers of a study's trials by their true state."""
    true: dict[str, int] = {}
    for state, count in counts.items():
        name = true_trial_state(state, study_state)
        true[name] = true.get(name, 0) + count
    return true
