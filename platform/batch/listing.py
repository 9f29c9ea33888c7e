"""The state of a study's jobs, from the batch system and from what the jobs have written; and their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.platform.batch.records import Run, Submission, Submitted, submissions
from atoll.platform.batch.systems import QUEUED, RUNNING, SYSTEMS, BatchSystem, InQueue, SystemUnavailable
from atoll.platform.launch.errors import LaunchError
from atoll.storage.folder import StudyFolder


@dataclass(frozen=True)
class JobRow:
    """One job.

    Attributes:
        id, submission: the batch system's name of it; the number of the `atoll submit`.
        lane, position: its chain, and its place there, from 1.
        state: queued, running, ended, killed (it started and did not say how it ended), canceled (it left the queue
            before it started), or unknown, where the batch system cannot be asked.
        code: its exit code, if it said so.
        reason: why it waits, or why the state is unknown.
        starts: how often it started.
        submitted, started, ended: times in seconds since 1970.
        hostname: its first host.
        log: its log.
    """

    id: str
    submission: int
    lane: int
    position: int
    state: str
    code: int | None
    reason: str
    starts: int
    submitted: float
    started: float | None
    ended: float | None
    hostname: str | None
    log: Path


def jobs(folder: StudyFolder) -> list[JobRow]:
    """All jobs of a study, oldest first."""
    return [row for submission in submissions(folder) for row in _of_submission(submission)]


def _of_submission(submission: Submission) -> list[JobRow]:
    system = SYSTEMS[submission.meta().system]
    known = _expanded(submission, system)
    runs = submission.runs()
    unsure = [job.id for job in known if _last(runs.get(job.id, {})).code is None or len(runs.get(job.id, {})) > 1]
    waiting: dict[str, InQueue] = {}
    problem = ""
    try:
        waiting = system.queue(unsure) if unsure else {}
    except SystemUnavailable as error:
        problem = str(error)
    return [_row(submission, job, runs.get(job.id, {}), waiting.get(job.id), problem) for job in known]


def _expanded(submission: Submission, system: BatchSystem) -> list[Submitted]:
    """The jobs, with the tasks of arrays in their place, and with those that only the jobs themselves tell of."""
    known: list[Submitted] = []
    for job in submission.submitted():
        if not job.tasks:
            known.append(job)
        known += [
            Submitted(system.task(job.id, number), lane=number, when=job.when) for number in range(1, job.tasks + 1)
        ]
    told = {job.id for job in known}
    return known + [
        Submitted(job, when=next(iter(runs.values())).started)
        for job, runs in submission.runs().items()
        if job not in told
    ]


def _last(runs: dict[int, Run]) -> Run:
    return runs[max(runs)] if runs else Run(0.0, "")


def _row(submission: Submission, job: Submitted, runs: dict[int, Run], queued: InQueue | None, problem: str) -> JobRow:
    last = _last(runs)
    reason = ""
    if queued is not None and (queued.state == QUEUED or last.code is None):
        state, reason = queued.state, queued.reason
    elif last.code is not None:
        state = "ended"
    elif problem:
        state, reason = "unknown", problem
    else:
        state = "killed" if runs else "canceled"
    return JobRow(
        id=job.id,
        submission=int(submission.path.name),
        lane=job.lane,
        position=job.position,
        state=state,
        code=last.code if state == "ended" else None,
        reason=reason,
        starts=len(runs),
        submitted=job.when,
        started=last.started if runs else None,
        ended=last.ended,
        hostname=last.hostname if runs else None,
        log=submission.log(job.id),
    )


def check_none_waits(folder: StudyFolder, name: str) -> None:
    """Raise LaunchError while jobs of a study wait or run: they would start it anew."""
    if left := [row.id for row in jobs(folder) if row.state in (QUEUED, RUNNING)]:
        raise LaunchError(f"jobs of {name} wait or run: {', '.join(left)}; end them with `atoll stop {name}` first")


@dataclass(frozen=True)
class Stopped:
    """What was asked to end.

    Attributes:
        canceled: the jobs that waited.
        asked: the jobs that ran, and were asked to stop.
        problems: why a batch system could not be asked.
    """

    canceled: tuple[str, ...]
    asked: tuple[str, ...]
    problems: tuple[str, ...]


def stop(folder: StudyFolder) -> Stopped:
    """End all chains of a study: cancel its jobs that wait, and ask those that run to stop."""
    canceled: list[str] = []
    asked: list[str] = []
    problems: list[str] = []
    for submission in submissions(folder):
        rows = _of_submission(submission)
        if not any(row.state in (QUEUED, RUNNING, "unknown") for row in rows):
            continue
        submission.stopped.touch()  # first: a job that starts now sees it, or is listed below
        rows = _of_submission(submission)
        problems += {row.reason for row in rows if row.state == "unknown"}
        system = SYSTEMS[submission.meta().system]
        try:
            canceled += _cancel(system, [row.id for row in rows if row.state == QUEUED])
            for row in rows:
                if row.state == RUNNING:
                    system.ask_to_stop(row.id)
                    asked.append(row.id)
        except SystemUnavailable as error:
            problems.append(str(error))
    return Stopped(tuple(canceled), tuple(asked), tuple(problems))


def _cancel(system: BatchSystem, jobs: Sequence[str]) -> Sequence[str]:
    if jobs:
        system.cancel(jobs[::-1])  # the last first, as in `chain.end`
    return jobs
