"""What a job does before and after its search: whether it searches at all, and what follows.

A chain of at most N jobs is submitted at once, each waiting for the one before it to fail: to a batch system, 75 and a
kill are failures. A job that ends the study, or fails for good, cancels the rest. Without a limit, each job submits the
next one when it starts, so that a job that is killed has a successor, too.
"""

from __future__ import annotations

import socket
import sys
import time

from atoll.platform.batch.job import BatchError, Chain
from atoll.platform.batch.records import Meta, Submission, Submitted
from atoll.platform.batch.systems import SYSTEMS, SystemUnavailable
from atoll.platform.exit_codes import EXIT_STOPPED, FAILURE, USAGE
from atoll.storage import launches
from atoll.storage.events import TrialEnded
from atoll.storage.folder import StudyFolder

RECORDED_WITHIN = 10.0  # seconds after a job was submitted
# The search's own failures, and what a shell says of a program that it cannot start. Any other code but 0 is a stop or
# a death: 75, 128 and more of a shell or srun, or, of MPICH's mpiexec, the number of the signal that has killed a rank.
FAILURES = (FAILURE, USAGE, 126, 127)


def goes_on(code: int) -> bool:
    """Whether another job can continue after one that ended with this code."""
    return code != 0 and code not in FAILURES


def progress(folder: StudyFolder) -> tuple[int, int]:
    """How far a study is: the number of trials with a result or a failure, and the sum of its checkpoints' steps."""
    events = (event for event in launches.replay(folder.journals) if isinstance(event, TrialEnded))
    ended = [event for event in events if event.state != "lost"]
    paths = sorted(folder.trials.iterdir()) if folder.trials.is_dir() else []
    steps = sum(folder.trial(int(path.name)).checkpoint_step() for path in paths if path.name.isdecimal())
    return len(ended), steps


def start(submission: Submission, job: str) -> int:
    """A job starts: record it, submit the next one if there is no limit, and tell whether it is to search.

    Returns:
        0 to search, or the exit code of a job that is not to.
    """
    try:
        meta = submission.meta()
    except FileNotFoundError:
        print(f"{submission.path} has no files of this job: the study was deleted", file=sys.stderr)
        return FAILURE
    mine = _known(submission, job, SYSTEMS[meta.system].array_of(job) is None)
    now = progress(StudyFolder(meta.study)) if meta.limit is None else None
    number = submission.start(job, now)
    again = "" if number == 1 else f", started for time {number}"
    told = Chain(meta.limit, meta.lanes).told(mine.position)
    print(f"{meta.name}: job {job} on {socket.gethostname()}{again}: {told}", flush=True)
    if submission.stopped.exists():
        return _refused(submission, job, EXIT_STOPPED, "`atoll stop` has ended this chain")
    if mine.previous is not None and (refusal := _after(submission, mine, now)) is not None:
        return _refused(submission, job, *refusal)
    if meta.limit is None:
        _submit_next(submission, meta, mine)
    return 0


def end(submission: Submission, job: str, code: int) -> None:
    """A job ends: record it, and cancel what waits for it unless that can go on."""
    submission.end(job, code)
    if goes_on(code):
        return
    meta, mine = submission.meta(), _known(submission, job)
    # The last first: to a batch system, a job that was canceled has failed, and the next one may start.
    mates = [other for other in submission.submitted() if other.lane == mine.lane]
    waiting = [other.id for other in mates if other.position > mine.position]
    if not waiting:
        return
    try:
        SYSTEMS[meta.system].cancel(waiting[::-1])
    except SystemUnavailable as error:
        print(f"jobs that wait for this one end by themselves, as it could not cancel them: {error}", file=sys.stderr)


def _refused(submission: Submission, job: str, code: int, reason: str) -> int:
    print(f"this job does not search: {reason}", file=sys.stderr)
    end(submission, job, code)
    return code


def _known(submission: Submission, job: str, waits: bool = False) -> Submitted:
    """The record of a job, for which to wait, as it may start before that is written; or one submitted by hand."""
    until = time.monotonic() + (RECORDED_WITHIN if waits else 0.0)
    while True:
        known = next((known for known in submission.submitted() if known.id == job), None)
        if known is not None or time.monotonic() >= until:
            return known or Submitted(job, lane=0)
        time.sleep(0.2)


def _after(submission: Submission, mine: Submitted, now: tuple[int, int] | None) -> tuple[int, str] | None:
    """The exit code and the reason why a job that follows another one is not to search; None if it is."""
    runs = submission.runs().get(str(mine.previous), {})
    if not runs:
        return EXIT_STOPPED, f"the job before it, {mine.previous}, was canceled before it started"
    last = runs[max(runs)]
    if last.code in FAILURES:  # after 0, the search itself says that the study is finished
        return last.code, f"the job before it, {mine.previous}, ended with code {last.code}"
    if now is not None and last.progress is not None and now <= last.progress:
        return FAILURE, (
            f"the job before it, {mine.previous}, made no progress: no trial ended, and no checkpoint was written; "
            "see its log, and submit again"
        )
    return None


def _submit_next(submission: Submission, meta: Meta, mine: Submitted) -> None:
    if any(other.previous == mine.id for other in submission.submitted()):
        return  # this job was requeued
    system = SYSTEMS[meta.system]
    try:
        following = system.submit(submission.script, mine.id)
        submission.add(Submitted(following, mine.position + 1, mine.lane, previous=mine.id))
        if submission.stopped.exists():  # `atoll stop` may have listed the jobs before this one was recorded
            system.cancel([following])
        else:
            print(f"{following} will go on, unless this job finishes the study", flush=True)
    except (SystemUnavailable, BatchError) as error:
        print(
            f"warning: no job follows this one, as it cannot be submitted from here: {error}\nwith --chain N, "
            "`atoll submit` submits all jobs at once",
            file=sys.stderr,
        )
