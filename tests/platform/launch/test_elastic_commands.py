"""The commands of searches with several launchers, and of those in the background; ranks whose death has a meaning."""

import json
import os
import signal
import subprocess
import sys

import pytest
from commands import STABLE, atoll, end, journal_lines, start, wait_until

from atoll.platform import rank_guard
from atoll.platform.launch.job_variables import rank_environment
from atoll.platform.launch.mpi_launcher import choose
from atoll.storage.store import Store

pytestmark = [pytest.mark.mpi, pytest.mark.long]


@pytest.fixture
def study(tmp_path):
    content = {
        "name": "s", "workload": "digits_mlp", "method": "local_sgd", "epochs": 2, "trials": 30, "check": False,
        "space": STABLE,
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(content))
    return tmp_path


def trials(folder):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return [trial for trial in store.trials(store.study("s")) if trial.state != "lost"]


def test_a_detached_search_is_joined_followed_and_ends(study):
    told = atoll("search", "s.json", "--continue", "--detach", "--json", cwd=study)
    detached = json.loads(told.stdout)
    assert "is not running" not in told.stderr
    joined = start("join", "s", "--workers", "2", cwd=study)
    shown = atoll("follow", "s", cwd=study)
    assert end(joined).returncode == 0
    assert "s is complete" in shown.stdout
    assert "30/30 trials, best accuracy" in shown.stdout
    assert sorted(trial.number for trial in trials(study)) == list(range(30))
    assert len({trial.worker for trial in trials(study)}) == 3
    wait_until(lambda: not os.path.exists(f"/proc/{detached['process']}"))
    again = atoll("search", "s.json", "--continue", "--detach", cwd=study)
    assert "s is complete: it has used its budget of 30 trials" in again.stderr
    refused = atoll("join", "s", cwd=study, code=1)
    assert "s is not running: start it, or continue it, by `atoll search STUDY.yaml --continue`" in refused.stderr


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_in_someones_own_mpirun_gives_75_and_the_study_goes_on(study, killed):
    search = ("-m", "atoll", "search", "s.json", "--continue", "--workers", "2")
    running = subprocess.Popen(
        [*choose().command, "-n", "2", sys.executable, *search], cwd=study, env=rank_environment(),
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    folder = study / "atoll-studies" / "s"
    wait_until(lambda: len(journal_lines(folder, "trial_ended")) >= 2 if folder.exists() else False, 90)
    (victim,) = (line["process"] for line in journal_lines(folder, "host") if line["world_rank"] == killed)
    os.kill(victim, signal.SIGKILL)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 75, output
    assert "a rank of the search was ended by SIGKILL; --continue goes on" in output
    (listed,) = json.loads(atoll("studies", "--json", cwd=study).stdout)
    assert listed["state"] == ("stopped" if killed else "interrupted")
    atoll("search", "s.json", "--continue", "--in-process", cwd=study)
    assert sorted(trial.number for trial in trials(study)) == list(range(30))


FORKS = """
import os, sys, time
from atoll.platform import rank_guard
rank_guard.guard(["search"])
exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("does", "code"),
    [("sys.exit(7)", 7), ("os._exit(0)", 0), ("os.kill(os.getpid(), 9)", 75), ("os.abort()", 75)],
)
def test_the_parent_of_a_rank_exits_with_its_code_or_says_that_it_can_go_on(does, code):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, does], env=os.environ | {"PMI_SIZE": "2"}, timeout=60, check=False
    )
    assert done.returncode == code


def test_signals_reach_the_rank_and_it_ends_with_its_parent():
    does = """
import signal
signal.signal(15, lambda *_: sys.exit(3))
print(os.getpid(), flush=True)
time.sleep(60)"""
    command = [sys.executable, "-c", FORKS, does]
    options = {"env": os.environ | {"PMI_SIZE": "2"}, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as parent:
        child = int(parent.stdout.readline())
        assert child != parent.pid
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 3
    with subprocess.Popen(command, **options) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        wait_until(lambda: not os.path.exists(f"/proc/{child}"), 20)


def test_who_is_no_rank_has_no_parent():
    assert rank_guard.num_ranks({}) == 1
    assert rank_guard.num_ranks({"PMI_SIZE": "4"}) == 4
    assert rank_guard.num_ranks({"OMPI_COMM_WORLD_SIZE": "3", "SLURM_STEP_NUM_TASKS": "1"}) == 3
