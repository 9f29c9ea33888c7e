"""Submitting to PBS, Torque and LSF, and what their commands say."""

import os

import fake_queues
import pytest
from batch_files import write
from commands import called, called_json

from atoll.platform.batch import chain
from atoll.platform.batch.records import submissions
from atoll.platform.batch.systems import SYSTEMS, outside_of_jobs
from atoll.storage.folder import StudyFolder

pytestmark = pytest.mark.process


@pytest.fixture
def queue(tmp_path, monkeypatch):
    queue = fake_queues.Queue(tmp_path / "bin")
    queue.install()
    monkeypatch.setenv("PATH", f"{queue.folder}:{os.environ['PATH']}")
    return queue


def submitted(here, system, *options, **batch):
    write(here, system=system, **batch)
    return called_json("submit", "study.yaml", "--cluster", "cluster.yaml", *options, cwd=here)["jobs"]


def states(here):
    return {row["id"]: (row["state"], row["code"], row["reason"]) for row in called_json("jobs", "s", cwd=here)}


@pytest.mark.parametrize("system", ["pbs", "torque"])
def test_a_chain_in_pbs(tmp_path, queue, system):
    first, second, third = submitted(tmp_path, system, "--chain", "3")
    assert (first, second, third) == ("700.pbs01", "701.pbs01", "702.pbs01")
    assert [job["depend"] for job in queue.jobs().values()] == [
        "",
        *(f"depend=afternotok:{job}" for job in (first, second)),
    ]
    (submission,) = submissions(StudyFolder(tmp_path / "atoll-studies/s"))
    submission.start(first, None)
    queue.set(first, "R")
    held = ("queued", None, "held, such as for the job before it")
    assert states(tmp_path) == {first: ("running", None, ""), second: held, third: held}
    said = called_json("stop", "s", cwd=tmp_path)
    assert (said["canceled_jobs"], said["asked_jobs"]) == ([second, third], [first])
    assert queue.jobs()[first]["signal"] == "SIGUSR1"
    # The last first: the second one counts as failed from then on, and the third must not start.
    assert queue.jobs()[third]["canceled"] < queue.jobs()[second]["canceled"]
    queue.set(first, "F")  # the server forgets it
    submission.end(first, 75)
    assert states(tmp_path) == {first: ("ended", 75, ""), **dict.fromkeys((second, third), ("canceled", None, ""))}


def test_the_job_that_ends_a_chain_cancels_the_last_one_first(tmp_path, queue):
    first, second, third = submitted(tmp_path, "pbs", "--chain", "3")
    (submission,) = submissions(StudyFolder(tmp_path / "atoll-studies/s"))
    submission.start(first, None)
    chain.end(submission, first, 75)
    assert not any("canceled" in job for job in queue.jobs().values())
    chain.end(submission, first, 0)
    assert queue.jobs()[third]["canceled"] < queue.jobs()[second]["canceled"]


def test_an_array_in_pbs(tmp_path, queue):
    assert submitted(tmp_path, "pbs", "--array", "2") == ["700[].pbs01"]
    assert set(states(tmp_path)) == {"700[1].pbs01", "700[2].pbs01"}
    assert {state for state, _, _ in states(tmp_path).values()} == {"queued"}


def test_a_chain_in_lsf(tmp_path, queue):
    first, second = submitted(tmp_path, "lsf", "--chain", "2")
    assert queue.jobs()[second]["words"] == ["-w", f"exit({first})", "-ti"]
    (submission,) = submissions(StudyFolder(tmp_path / "atoll-studies/s"))
    submission.start(first, None)
    queue.set(first, "RUN")
    assert states(tmp_path) == {first: ("running", None, ""), second: ("queued", None, "")}
    said = called_json("stop", "s", cwd=tmp_path)
    assert (said["canceled_jobs"], said["asked_jobs"]) == ([second], [first])
    assert queue.jobs()[first]["signal"] == "USR1"
    queue.set(first, "EXIT")
    assert states(tmp_path) == {first: ("killed", None, ""), second: ("canceled", None, "")}


def test_an_array_in_lsf(tmp_path, queue):
    assert submitted(tmp_path, "lsf", "--array", "2") == ["800"]
    assert states(tmp_path) == {"800[1]": ("queued", None, ""), "800[2]": ("queued", None, "")}


def test_what_a_queue_refuses_is_told_in_its_words(tmp_path, queue):
    write(tmp_path, system="pbs", queue="nowhere")
    said = called("submit", "study.yaml", "--cluster", "cluster.yaml", cwd=tmp_path, code=2).stderr
    assert "qsub: Unknown queue" in said


@pytest.mark.parametrize(
    ("system", "array", "task"),
    [("slurm", "7", "7_2"), ("pbs", "7[].s", "7[2].s"), ("torque", "7[].s", "7[2].s"), ("lsf", "7", "7[2]")],
)
def test_tasks_of_an_array(system, array, task):
    assert SYSTEMS[system].task(array, 2) == task
    assert SYSTEMS[system].array_of(task) == array
    assert SYSTEMS[system].array_of(array.replace("[]", "")) is None


def test_settings_of_a_job_are_not_those_of_another_one():
    assert outside_of_jobs({"SLURM_NTASKS": "2", "SLURM_CONF": "/x", "SBATCH_ACCOUNT": "a", "PATH": "p"}) == {
        "SLURM_CONF": "/x",
        "SBATCH_ACCOUNT": "a",
        "PATH": "p",
    }
