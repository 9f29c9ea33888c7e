"""Which workers are suspected when ranks die, and why: evidence from mpiexec's log and from heartbeats."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from atoll.storage import launches
from atoll.storage.events import RankPlaced
from atoll.storage.folder import StudyFolder


def hosts(folder: StudyFolder, launch: int) -> list[RankPlaced]:
    """The placement of each rank of a launch."""
    return [event for event in launches.events_of(folder.journals, {launch}) if isinstance(event, RankPlaced)]


def log_size(path: Path) -> int:
    """The size of a log, in bytes; 0 if absent."""
    return path.stat().st_size if path.exists() else 0


def _log_since(folder: StudyFolder, start: int) -> str:
    with folder.log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def explanation(folder: StudyFolder, log_start: int) -> str:
    """The last error in the ranks' log, for messages."""
    lines = _log_since(folder, log_start).splitlines()
    errors = [line.strip() for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    # What ranks printed during trials is in logs of their own.
    return f": {errors[-1]} (see {folder.log})" if errors else f" (see {folder.log.parent})"


def suspected_workers(folder: StudyFolder, launch: int, log_start: int, silent: Sequence[int]) -> set[int] | None:
    """The workers whose ranks died first, by mpiexec's log or heartbeats; None if unknown."""
    # Hydra names the process whose death made it terminate the others.
    named = {int(process) for process in re.findall(r"PID (\d+) RUNNING AT", _log_since(folder, log_start))}
    ranks = hosts(folder, launch)
    workers = {rank.worker for rank in ranks if rank.process in named or rank.world_rank in silent}
    return workers or None


def was_killed(folder: StudyFolder, log_start: int, exit_code: int) -> bool:
    """Whether mpiexec or a rank was killed (SIGKILL), such as for want of memory, rather than failed by itself."""
    log = _log_since(folder, log_start)
    return exit_code == -signal.SIGKILL or re.search(r"\b[Ss]ignal 9\b|EXIT CODE: 9\b", log) is not None
