"""Submits a study's jobs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

from atoll.platform.batch.job import BatchError, Job
from atoll.platform.batch.records import Meta, Submission, Submitted, reserve
from atoll.platform.batch.script import script
from atoll.platform.batch.systems import SYSTEMS, SystemUnavailable
from atoll.storage.folder import StudyFolder


def submit(job: Job, study: StudyFolder) -> tuple[Submission, list[Submitted]]:
    """Write a job's script into the study's folder, and submit it as often as its chain says.

    Args:
        job: the job; its folder is replaced by the one that the submission gets.
        study: the study's files.

    Raises:
        BatchError: if the batch system refuses a job; those before it are submitted and recorded.
        SystemUnavailable: if the batch system cannot be asked.
    """
    script(job)  # what cannot be written is told before a folder is made
    submission = Submission(reserve(study))
    job = replace(job, folder=submission.path)
    meta = Meta(job.name, str(study.path), job.batch.system, job.chain.limit, job.chain.lanes)
    submission.write(meta, script(job))
    submitted: list[Submitted] = []
    try:
        for one in _all(job, submission):
            submission.add(one)
            submitted.append(one)
    except (BatchError, SystemUnavailable) as error:
        if not submitted:
            shutil.rmtree(submission.path)
            raise
        jobs = "job was" if len(submitted) == 1 else f"{len(submitted)} jobs were"
        raise BatchError(
            f"the first {jobs} submitted, and can be canceled by `atoll stop {job.name}`; the next one failed: {error}"
        ) from None
    return submission, submitted


def _all(job: Job, submission: Submission) -> Iterator[Submitted]:
    system = SYSTEMS[job.batch.system]
    if job.array is not None:
        yield Submitted(system.submit(submission.script, None), lane=0, tasks=job.array)
        return
    for lane in range(1, job.chain.lanes + 1):
        previous = None
        for position in range(1, (job.chain.limit or 1) + 1):
            following = system.submit(submission.script, previous)
            yield Submitted(following, position, lane, previous)
            previous = following
