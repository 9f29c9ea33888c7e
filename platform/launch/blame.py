"""Which workers are suspected when ranks die, and why: evidence from mpiexec's log and from heartbeats."""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
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


def suspected_workers(
    folder: StudyFolder,
    launch: int,
    log_start: int,
    silent: Sequence[int],
    asked_to_end: Collection[tuple[str, int]] = (),
    *,
    first_rank: int = 0,
) -> set[int] | None:
    """The workers whose ranks died first; None if unknown.

    Args:
        folder, launch: the study's files, and the launch that has ended.
        log_start: where the log of this start of the ranks begins.
        silent: the ranks whose heartbeats have stopped.
        asked_to_end: host and number of the ranks' processes that the process manager has terminated: they lived on.
        first_rank: the study's number for rank 0 of the MPI job, in journals that do not tell how a rank was started.
    """
    dead, ranks = named(_log_since(folder, log_start)), hosts(folder, launch)
    first = {
        rank.world_rank
        for rank in ranks
        if rank.process in dead.processes or rank.world_rank in silent or _started_as(rank, first_rank) in dead.ranks
    }
    if asked_to_end:  # these notes are of this job, and the log is of all that run at this time
        spared = {rank.world_rank for rank in ranks if (rank.hostname, rank.process) in asked_to_end}
        first = first - spared or {rank.world_rank for rank in ranks} - spared
    return {rank.worker for rank in ranks if rank.world_rank in first} or None


def _started_as(rank: RankPlaced, first_rank: int) -> int:
    return rank.world_rank - first_rank if rank.started_as is None else rank.started_as


@dataclass(frozen=True)
class Dead:
    """Those ranks, by their processes or in the world, that a process manager names as the first to have died."""

    processes: frozenset[int] = frozenset()
    ranks: frozenset[int] = frozenset()


# Open MPI 4 and 5: how a process ended, in the words of prterun or mpirun. The process number may be 0.
_OPEN_MPI = re.compile(
    r"process\s+rank\s+(\d+)\s+with\s+PID|Process name:\s+\[\S*,(\d+)\](?!,)|MPI_ABORT was invoked on rank (\d+) in "
    r"communicator MPI_COMM_WORLD"
)
# MPICH's Hydra, for the first one; Intel MPI's, for each one, including those that it has killed itself.
_HYDRA = re.compile(
    r"^=\s+(?:RANK \d+ )?PID (\d+) RUNNING AT .*\n=\s+(EXIT CODE|KILLED BY SIGNAL|EXIT STATUS): (\d+)", re.MULTILINE
)
_HYDRA_SIGNAL = re.compile(r"EXIT STRING: .*\(signal (\d+)\)")
_MPICH_ABORT = re.compile(r"^Abort\(-?\d+\) on node (\d+) ", re.MULTILINE)
# Slurm's srun and Cray's PALS: a line for each end; those that they terminate themselves get SIGTERM.
_SRUN = re.compile(r"^srun: error: \S+: tasks? ([\d,-]+): (?!Terminated)", re.MULTILINE)
_PALS = re.compile(r"^\S+: rank (\d+) (?:died from signal (?!15\b)\d+|exited with code [1-9])", re.MULTILINE)


def named(log: str) -> Dead:
    """What the output of mpiexec or srun tells of the ranks that died first."""
    if found := _OPEN_MPI.search(log):
        return Dead(ranks=frozenset({next(int(group) for group in found.groups() if group is not None)}))
    if found := _MPICH_ABORT.search(log):
        return Dead(ranks=frozenset({int(found[1])}))
    if blocks := _HYDRA.findall(log):
        return Dead(processes=_first_of_hydra(blocks, _HYDRA_SIGNAL.search(log)))
    if found := _SRUN.search(log):
        return Dead(ranks=frozenset(_tasks(found[1])))
    if found := _PALS.search(log):
        return Dead(ranks=frozenset({int(found[1])}))
    return Dead()


def _first_of_hydra(blocks: Sequence[tuple[str, str, str]], why: re.Match[str] | None) -> frozenset[int]:
    """Those that Hydra has not killed itself; all, if each was killed. None, if it names a victim of its own."""
    killed = str(int(signal.SIGKILL))
    others = {int(process) for process, _, code in blocks if code != killed}
    # It names the first process, by rank, with an exit code, which may be one that it has killed, and the true signal.
    if not others and why is not None and why[1] != killed:
        return frozenset()
    return frozenset(others or {int(process) for process, _, _ in blocks})


def _tasks(numbers: str) -> Iterator[int]:
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


_KILLED = re.compile(
    r"\b[Ss]ignal:? 9\b|EXIT CODE: 9\b|SIGNAL: 9\b|^srun: error: .*: (?:Killed|Out Of Memory)", re.MULTILINE
)


def was_killed(folder: StudyFolder, log_start: int, exit_code: int) -> bool:
    """Whether mpiexec or a rank was killed (SIGKILL), such as for want of memory, rather than failed by itself."""
    return exit_code == -signal.SIGKILL or _KILLED.search(_log_since(folder, log_start)) is not None
