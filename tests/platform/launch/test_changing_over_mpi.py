"""Searches over MPI that `atoll change` changes while they run: killed and continued, with several launchers."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import changed
import pytest
from commands import atoll, called, end, journal_lines, start, wait_until

from atoll.platform.launch.job_variables import rank_environment
from atoll.platform.launch.mpi_launcher import choose
from atoll.storage.store import Store

pytestmark = [pytest.mark.mpi, pytest.mark.long]


SEARCH = ("search", "s.json", "--outside")


@pytest.fixture
def study(tmp_path):
    content = {
        "name": "s", "objective": f"{changed.__file__}:steady", "trials": 60, "check": False,
        "space": {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}},
        "topology": {"islands": 2}, "sampler": {"name": "evolution"},
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def folder(study):
    return study / "atoll-studies" / "s"


def lines(folder, event):
    return journal_lines(folder, event) if folder.exists() else []


def change(study, *arguments):
    """The number of a change that was asked for."""
    return json.loads(called("change", "s", *arguments, "--json", cwd=study).stdout)["number"]


def check_whole(study, folder, num_trials, *numbers):
    """Each trial has one result, within the space from the first trial of each change on."""
    store = Store(f"sqlite:///{study}/atoll.db", create=False)
    row = store.study("s")
    results = [trial for trial in store.trials(row) if trial.state == "complete"]
    assert sorted(trial.number for trial in results) == list(range(num_trials))
    ended = Counter(line["number"] for line in lines(folder, "trial_ended") if line["state"] != "lost")
    assert ended == dict.fromkeys(range(num_trials), 1)
    changes = store.changes(row)
    assert tuple(row.number for row in changes) == numbers
    for row in changes:
        for one in row.settings:
            if one["setting"] == "space.x":
                values = [trial.hyperparameters["x"] for trial in results if trial.number >= row.first_trial]
                assert values
                assert max(values) <= one["after"]["high"]
    return changes


def test_a_search_changes_is_killed_and_goes_on(study, folder):
    search = start(*SEARCH, cwd=study)
    wait_until(lambda: len(lines(folder, "trial_ended")) >= 4, 90)
    assert change(study, "--space", "x.high=0.4", "--trials", "+10") == 1
    wait_until(lambda: lines(folder, "study_changed"), 60)
    (taken,) = lines(folder, "study_changed")
    wait_until(lambda: any(n["number"] > taken["first_trial"] for n in lines(folder, "trial_ended")), 60)
    change(study, "--sampler", "optuna-tpe")
    os.kill(search.pid, signal.SIGKILL)  # whether it has seen the second change or not
    search.communicate(timeout=60)
    told = atoll(*SEARCH, "--continue", cwd=study)
    assert "in force, as changed since: trials: 60 → 70 (change 1)" in told.stderr
    first, second = check_whole(study, folder, 70, 1, 2)
    assert first.first_trial < second.first_trial < 70
    starts = lines(folder, "trial_started")
    later = [line for line in starts if line["number"] >= second.first_trial and not line["attempt"]]
    assert {line["proposal"]["operator"] for line in later} == {"optuna-tpe"}


def test_all_launchers_of_a_search_take_a_change_up(study, folder):
    search = start(*SEARCH, cwd=study)
    wait_until(lambda: lines(folder, "trial_ended"), 90)
    joined = start("join", "s", "--islands", "1", "--workers", "1", cwd=study)
    wait_until(lambda: any(line["worker"] == 2 for line in lines(folder, "trial_started")), 90)
    change(study, "--space", "x.high=0.4", "--trials", "+12")
    refused = called("change", "s", "--islands", "3", cwd=study, code=2)
    assert "islands and workers can change while one launcher searches the study, and 2 do" in refused.stderr
    assert end(joined).returncode == 0
    assert end(search).returncode == 0
    (row,) = check_whole(study, folder, 72, 1)
    later = {line["worker"] for line in lines(folder, "trial_started") if line["number"] >= row.first_trial}
    assert later == {0, 1, 2}


def test_inside_someones_own_mpirun_a_change_stops_the_search(study, folder):
    command = [*choose().command, "-n", "2", sys.executable, "-m", "atoll", *SEARCH]
    running = subprocess.Popen(
        command, cwd=study, env=rank_environment(), start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(lambda: len(lines(folder, "trial_ended")) >= 2, 90)
    change(study, "--space", "x.high=0.4", "--trials", "+2")
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 75, output
    assert "change 1 takes effect when it goes on" in output
    atoll(*SEARCH, "--continue", "--in-process", cwd=study)
    check_whole(study, folder, 62, 1)
