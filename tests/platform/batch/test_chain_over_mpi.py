"""A chain of jobs of a real search in the fake Slurm."""

import os
import signal

import fake_slurm
import pytest
from batch_files import write
from commands import COUNTING, atoll_json, journal_lines, wait_until

from atoll.platform.batch.chain import progress
from atoll.storage.folder import StudyFolder
from atoll.storage.store import Store

LIMIT, STOP = 45, 20
STEPS = 125

pytestmark = [pytest.mark.mpi, pytest.mark.long, pytest.mark.timeout(900)]


def test_a_chain_of_jobs_completes_a_study(tmp_path):
    counts = tmp_path / "counts"
    counts.mkdir()
    # 75 s of training, 25 s a trial: a job has at most 20 s for it, so no trial ends in the job that started it.
    study = {
        "name": "chained",
        "workload": COUNTING,
        "method": "local_sgd",
        "steps": STEPS,
        "trials": 3,
        "sampler": {"name": "random"},
        "topology": {"ranks": 2, "ranks_per_node": 1},
        "checkpoint": {"every": "5 steps"},
        "check": False,
        "stop_grace": 10.0,
    }
    environment = {"COUNTING": str(counts), "SECONDS_PER_STEP": "0.2"}
    write(tmp_path, study, stop_seconds=STOP, cores_per_node=2, environment=environment)
    folder = tmp_path / "atoll-studies" / "chained"
    with fake_slurm.running(num_nodes=2, resolution=1, kill_wait=10) as slurm:
        submitted = atoll_json(
            "submit", "study.yaml", "--cluster", "cluster.yaml", "--outside", "--time", f"{LIMIT}s", "--chain", "12",
            cwd=tmp_path, env=slurm.environment,
        )  # fmt: skip
        _, second, third, *_ = submitted["jobs"]

        kill_second(slurm, folder, second)
        requeue_third(slurm, folder, third)
        slurm.wait(timeout=600)
        jobs = slurm.jobs()
        rows = atoll_json("jobs", "chained", cwd=tmp_path, env=slurm.environment)
    check_chain(folder, submitted["jobs"], jobs, rows)
    check_study(tmp_path, folder)
    # Each trial continued where it was: the last attempts took only what was left.
    assert max(int(path.read_text()) for path in counts.iterdir()) < STEPS


def check_chain(folder, submitted, jobs, rows):
    """It took five jobs or more, ended with the study, and `atoll jobs` says so."""
    logs = {job: folder / "jobs" / "1" / f"{job}.log" for job in submitted}
    told = "\n".join(path.read_text() for path in logs.values() if path.exists())
    ran = [job for job in submitted if jobs[job]["start"]]
    (first, second, third, *_), last, canceled = ran, ran[-1], submitted[len(ran) :]
    assert len(ran) >= 5, told
    assert jobs[last]["exit"] == "0:0", told
    assert jobs[first]["exit"] == "75:0"
    assert jobs[second]["exit"] == "0:9"
    assert jobs[third]["restarts"] == 1
    assert {jobs[job]["state"] for job in ran[:-1]} == {"FAILED"}
    assert {jobs[job]["state"] for job in canceled} == {"CANCELLED"}
    expected = dict.fromkeys(ran, ("ended", 75)) | dict.fromkeys(canceled, ("canceled", None))
    expected |= {second: ("killed", None), last: ("ended", 0)}
    assert {row["id"]: (row["state"], row["code"]) for row in rows} == expected
    assert [job for job, path in logs.items() if path.exists()] == ran


def check_study(here, folder):
    """Every trial is complete, once, and had continued from a checkpoint."""
    store = Store(f"sqlite:///{here}/atoll.db")
    trials = store.trials(store.study("chained"))
    assert sorted(trial.number for trial in trials if trial.state == "complete") == [0, 1, 2]
    assert {trial.state for trial in trials} == {"complete", "lost"}
    for number in range(3):
        ended = [line for line in journal_lines(folder, "trial_ended") if line["number"] == number]
        assert any("continued from" in note for line in ended for note in line["notes"]), ended


def kill_second(slurm, folder, job):
    """Kill the job's script with -9 once it has come further than the one before it."""
    wait_until_further(slurm, folder, job)
    os.kill(slurm.jobs()[job]["pid"], signal.SIGKILL)


def requeue_third(slurm, folder, job):
    wait_until_further(slurm, folder, job)
    slurm.call("scontrol", "requeue", job)
    assert slurm.jobs()[job]["state"] == "RUNNING"  # it has KillWait to end


def wait_until_further(slurm, folder, job):
    slurm.wait(job, states={"RUNNING"}, timeout=120)
    before = progress(StudyFolder(folder))
    wait_until(lambda: progress(StudyFolder(folder)) > before, timeout=LIMIT)


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_the_script_starts_the_ranks_itself(tmp_path, launcher):
    """On two nodes; the study that is complete is no error in a second job."""
    study = {"name": "s", "steps": 5, "trials": 2, "topology": {"ranks": 2, "ranks_per_node": 1}}
    write(tmp_path, study, launcher=launcher, cores_per_node=2, stop_seconds=10)
    with fake_slurm.running(num_nodes=2) as slurm:
        for _ in range(2):
            command = ("submit", "study.yaml", "--cluster", "cluster.yaml", "--nodes", "2", "--time", "5m")
            (job,) = atoll_json(*command, cwd=tmp_path, env=slurm.environment)["jobs"]
            slurm.wait(job, timeout=200)
            log = tmp_path / "atoll-studies/s/jobs/1" / f"{job}.log"
            assert slurm.jobs()[job]["exit"] == "0:0", log.read_text()
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    assert [trial.state for trial in store.trials(store.study("s"))] == ["complete", "complete"]


def test_the_jobs_of_an_array_share_a_study(tmp_path):
    study = {
        "name": "shared",
        "workload": COUNTING,
        "steps": 30,
        "trials": 8,
        "sampler": {"name": "random"},
        "topology": {"ranks": 1},
        "check": False,
    }
    (tmp_path / "counts").mkdir()
    environment = {"COUNTING": str(tmp_path / "counts"), "SECONDS_PER_STEP": "0.2"}
    write(tmp_path, study, stop_seconds=10, environment=environment)
    with fake_slurm.running(num_nodes=2) as slurm:
        command = ("submit", "study.yaml", "--cluster", "cluster.yaml", "--outside", "--time", "5m", "--array", "2")
        (array,) = atoll_json(*command, cwd=tmp_path, env=slurm.environment)["jobs"]
        slurm.wait(timeout=240)
        rows = atoll_json("jobs", "shared", cwd=tmp_path, env=slurm.environment)
        logs = [(tmp_path / "atoll-studies/shared/jobs/1" / f"{array}_{task}.log").read_text() for task in (1, 2)]
    assert [(row["id"], row["state"], row["code"]) for row in rows] == [
        (f"{array}_1", "ended", 0),
        (f"{array}_2", "ended", 0),
    ], logs
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    trials = store.trials(store.study("shared"))
    assert sorted((trial.number, trial.state) for trial in trials) == [(number, "complete") for number in range(8)]
    assert len(journal_lines(tmp_path / "atoll-studies/shared", "joined")) == 1  # the other one has begun the study
