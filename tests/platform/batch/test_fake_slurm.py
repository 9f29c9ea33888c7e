"""The fake Slurm behaves as Slurm's manual pages say, where atoll depends on it."""

import time

import fake_slurm
import pytest
from commands import wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def sbatch(tmp_path, slurm, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def submit(body, *options, head=""):
        (tmp_path / "job.sh").write_text(f"#!/bin/bash\n{head}\n{body}\n")
        return slurm.call("sbatch", "--parsable", *options, "job.sh").strip()

    return submit


def test_a_time_limit_ends_all_processes_with_term_and_later_kill(slurm, sbatch, tmp_path):
    body = "trap 'echo batch' TERM\nsetsid bash -c \"trap 'echo child >>child' TERM; while :; do sleep 0.1; done\" &\n"
    job = sbatch(f"{body}while :; do wait; done", "--time=0:01")
    slurm.wait(job)
    row = slurm.jobs()[job]
    assert (row["state"], row["exit"]) == ("TIMEOUT", "0:9")
    assert row["end"] - row["start"] >= 2  # limit and KillWait
    text = (tmp_path / f"slurm-{job}.out").read_text()
    assert "batch" in text
    assert "DUE TO TIME LIMIT ***" in text
    assert (tmp_path / "child").read_text() == "child\n"
    assert not fake_slurm.tagged(f"{slurm.spool}:{job}")


def test_a_signal_before_the_limit_goes_to_the_batch_shell_or_to_the_steps(slurm, sbatch, tmp_path):
    step = "srun -n1 --mpi=none bash -c \"trap 'echo step >>got' USR1; while :; do sleep 0.1; done\" & wait; wait"
    for signal, expected in (("B:USR1@1", "shell\n"), ("USR1@1", "step\n")):
        (tmp_path / "got").unlink(missing_ok=True)
        job = sbatch(f"trap 'echo shell >>got' USR1; {step}", "--time=0:02", f"--signal={signal}")
        slurm.wait(job)
        assert (tmp_path / "got").read_text() == expected


def test_dependencies(slurm, sbatch):
    good, bad = sbatch("sleep 0.3"), sbatch("exit 3")
    kinds = {
        f"afterok:{good}": "COMPLETED",
        f"afterok:{bad}": "CANCELLED",
        f"afternotok:{bad}": "COMPLETED",
        f"afternotok:{good}": "CANCELLED",
        f"afterany:{good}:{bad}": "COMPLETED",
        "singleton": "COMPLETED",
    }
    jobs = {sbatch("true", f"--dependency={kind}", "--kill-on-invalid-dep=yes"): kind for kind in kinds}
    slurm.wait()
    assert {kind: slurm.jobs()[job]["state"] for job, kind in jobs.items()} == kinds
    never = sbatch("true", f"--dependency=afternotok:{good}")
    wait_until(lambda: slurm.jobs()[never]["reason"] == "DependencyNeverSatisfied")
    assert "Job dependency problem" in slurm.call("sbatch", "--dependency=afterok:99999", "job.sh", code=1)
    slurm.call("scancel", never)
    after_canceled = sbatch("true", f"--dependency=afternotok:{never}")
    slurm.wait(after_canceled)
    assert slurm.jobs()[after_canceled]["state"] == "COMPLETED"


def test_a_requeued_job_starts_again_with_its_id_and_log(slurm, sbatch, tmp_path):
    body = '[ -n "$SLURM_RESTART_COUNT" ] && { echo again $SLURM_RESTART_COUNT; exit; }\n'
    body += 'trap "exit 9" TERM; echo first; sleep 60 & wait'
    job = sbatch(body, "--requeue", "--open-mode=append")
    follower = sbatch("true", f"--dependency=afternotok:{job}")
    wait_until((tmp_path / f"slurm-{job}.out").exists)
    wait_until(lambda: "first" in (tmp_path / f"slurm-{job}.out").read_text())
    slurm.call("scontrol", "requeue", job)
    slurm.wait(job)
    text = (tmp_path / f"slurm-{job}.out").read_text()
    assert "first" in text
    assert "DUE TO JOB REQUEUE" in text
    assert "again 1" in text
    assert slurm.jobs()[follower]["start"] == 0.0  # the requeued job had not failed
    slurm.call("scancel", follower)


def test_nodes_are_limited_and_squeue_prints_as_slurm_does(slurm, sbatch):
    two, third = sbatch("sleep 60", "-N2", "-Jboth"), sbatch("sleep 60")
    wait_until(lambda: slurm.jobs()[two]["state"] == "RUNNING")
    head, *lines = slurm.call("squeue").splitlines()
    assert head == "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)"
    assert lines[0].split()[:5] == [two, "batch", "both", "user", "R"]
    assert lines[0].endswith("2 node1,node2")
    assert lines[1].endswith("(Resources)")
    assert slurm.call("squeue", "-h", "-r", "--format=%i|%T|%r") == f"{two}|RUNNING|None\n{third}|PENDING|Resources\n"
    slurm.call("scancel", "--state=PENDING", two, third)
    assert slurm.call("squeue", "-h", "-o", "%i").split() == [two]
    slurm.call("scancel", two)
    slurm.wait()
    assert "Invalid job id specified" in slurm.call("squeue", "-j", "99999", code=1)
    assert "Requested node configuration is not available" in slurm.call("sbatch", "-N3", "job.sh", code=1)
    assert "unrecognized option '--nodez=1'" in slurm.call("sbatch", "--nodez=1", "job.sh", code=1)


def test_the_variables_of_a_job_and_of_a_task(slurm, sbatch, tmp_path):
    head = '#SBATCH --ntasks=3 --ntasks-per-node=2 --nodes=2\n#SBATCH --output="with space %A_%a.log" # a comment\n'
    task = "srun --mpi=none bash -c 'echo task $SLURM_PROCID $SLURM_LOCALID $SLURMD_NODENAME $SLURM_STEP_NUM_TASKS'"
    body = "echo job $SLURM_JOB_ID $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_TASKS_PER_NODE "
    body += f"$((SLURM_JOB_END_TIME - SLURM_JOB_START_TIME)) ${{SLURM_RESTART_COUNT-none}}\n{task}"
    array = sbatch(body, "--array=2-3", "--time=1:00:00", head=head)
    slurm.wait()
    for index, number in ((2, int(array)), (3, int(array) + 1)):
        first, *tasks = (tmp_path / f"with space {array}_{index}.log").read_text().splitlines()
        assert first == f"job {number} {array} {index} 2,1 3600 none"
        assert sorted(tasks) == ["task 0 0 node1 3", "task 1 1 node1 3", "task 2 0 node2 3"]


def test_a_limit_is_rounded_up_to_whole_minutes():
    assert fake_slurm.seconds("0:45", 60) == 60
    assert fake_slurm.seconds("2:01:01", 60) == 2 * 3600 + 120
    assert fake_slurm.seconds("1-2", 60) == 26 * 3600
    assert fake_slurm.seconds("90", 60) == 5400


def test_the_controller_ends_what_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.sh").write_text("#!/bin/bash\nsleep 1000 & wait\n")
    with fake_slurm.running() as own:
        job = own.call("sbatch", "--parsable", "job.sh").strip()
        own.wait(job, states={"RUNNING"})
    time.sleep(0.1)
    assert not fake_slurm.tagged(f"{own.spool}:{job}")
