"""A search whose first trials all fail alike stops and says so."""

import json
import re

import journals
import pytest
from commands import atoll, called, journal_lines
from ranks import SUPPORT, mpiexec

from atoll.platform.launch import lifecycle
from atoll.platform.launch.first_trials import FirstTrials
from atoll.platform.study.study import Study
from atoll.storage.journal import JournalWriter
from atoll.storage.store import Store

RAISING = f"{SUPPORT / 'raising.py'}:Raising"
MISSING = "FileNotFoundError: no file {}.png (rank 0 on here)"


def study_of(tmp_path, **content):
    return Study(name="s", workload="digits_mlp", method="ddp", folder=str(tmp_path / "s"), **content)


def write(folder, numbers, state="failed", reason=MISSING, root=0):
    lines = JournalWriter(folder.root_journal(root))
    for number in numbers:
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, None, state=state, reason=reason.format(number))
    lines.close()


@pytest.fixture
def folder(tmp_path):
    return journals.start_folder(tmp_path / "s")


def looked(first_trials):
    first_trials.INTERVAL = 0.0
    first_trials.look()
    return first_trials


def test_the_first_three_failures_of_one_kind_stop_it_with_the_message_and_the_users_line(tmp_path, folder):
    first_trials = looked(FirstTrials(folder, study_of(tmp_path)))
    write(folder, [0, 1])
    assert looked(first_trials).reason is None
    lines = JournalWriter(folder.root_journal(1))
    journals.start_trial(lines, 2)
    trace = 'Traceback (most recent call last):\n  File "/data/mine.py", line 7, in loss\n    raise\n'
    journals.end_trial(lines, 2, None, reason=MISSING.format(2), traceback=trace)
    lines.close()
    assert not folder.stop_request.exists()
    reason = looked(first_trials).reason
    assert reason.startswith("the first 3 trials failed alike: FileNotFoundError: no file 0.png (rank 0 on here)")
    assert "--resume" in reason
    assert "--keep-going" in reason
    assert folder.stop_request.exists()


def test_the_place_is_the_users(tmp_path, folder):
    first_trials = FirstTrials(folder, study_of(tmp_path))
    trace = 'Traceback (most recent call last):\n  File "/data/mine.py", line 7, in loss\n    raise\n'
    lines = JournalWriter(folder.root_journal(0))
    for number in range(3):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, None, reason="ValueError: two\nlines", traceback=trace)
    lines.close()
    assert "alike: ValueError: two, at /data/mine.py, line 7, in loss; " in looked(first_trials).reason


@pytest.mark.parametrize(
    "written",
    [
        [([0, 1, 2], {"reason": "OSError: {}"}), ([3], {"state": "complete"})],
        [([0], {"state": "pruned"}), ([1, 2, 3, 4], {})],
        [([0, 1], {}), ([2], {"reason": "ValueError: another"}), ([3, 4, 5], {})],
        [([0, 1], {}), ([2, 3], {"state": "lost"})],
    ],
    ids=["one complete", "one pruned", "two kinds", "lost"],
)
def test_it_goes_on_otherwise(tmp_path, folder, written):
    first_trials = FirstTrials(folder, study_of(tmp_path))
    for numbers, how in written:
        write(folder, numbers, **how)
    assert looked(first_trials).reason is None
    write(folder, [9], reason="ValueError: another")
    assert looked(first_trials).reason is None
    assert not folder.stop_request.exists()


def test_as_many_trials_decide_as_there_are_workers(tmp_path, folder):
    first_trials = FirstTrials(folder, study_of(tmp_path, topology={"islands": 2, "workers": 2}))
    write(folder, [0, 1, 2])
    assert looked(first_trials).reason is None
    write(folder, [3], root=3)
    assert looked(first_trials).reason.startswith("the first 4 trials failed alike")


def test_keep_going_goes_on(tmp_path, folder):
    first_trials = FirstTrials(folder, study_of(tmp_path, keep_going=True))
    write(folder, range(9))
    assert looked(first_trials).reason is None


def test_failures_from_before_a_resume_do_not_count(tmp_path, folder):
    write(folder, range(5))
    first_trials = looked(FirstTrials(folder, study_of(tmp_path)))
    write(folder, [5, 6])
    assert looked(first_trials).reason is None
    write(folder, [7])
    assert looked(first_trials).reason is not None


def test_a_trial_that_trained_before_a_resume_counts(tmp_path, folder):
    write(folder, [0], state="complete")
    first_trials = FirstTrials(folder, study_of(tmp_path))
    write(folder, range(1, 9))
    assert looked(first_trials).reason is None


def test_the_study_has_failed_unless_its_budget_is_used_up(tmp_path, folder):
    study = study_of(tmp_path, trials=4)
    write(folder, range(3))
    journals.start_trial(JournalWriter(folder.root_journal(1)), 3)
    assert lifecycle.end(folder, study, None, "alike") == ("failed", "alike")
    (lost,) = journal_lines(folder.path, "trial_lost")
    assert (lost["reason"], lost["blamed"]) == ("alike", False)
    assert lifecycle.end(folder, study_of(tmp_path, trials=3), None, "alike") == ("failed", "all 3 trials failed")


def write_study(tmp_path, **content):
    study = {"name": "s", "workload": RAISING, "method": "local_sgd", "trials": 12, "space": {"batch_size": 2}}
    study |= {"sampler": {"name": "random"}, "check": False}  # else it would not start
    (tmp_path / "s.json").write_text(json.dumps(study | content))


@pytest.mark.slow
def test_a_search_stops_keeps_going_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAISED", "base")
    monkeypatch.setenv("RAISED_AFTER", "0.05")  # else all have failed before the launcher looks
    write_study(tmp_path, trials=60, topology={"islands": 2})
    search = ("search", "s.json", "--outside", "--in-process")
    done = called(*search, cwd=tmp_path, code=1)
    told = r"\nthe first 3 trials failed alike: OwnBaseError: b \(rank 0 on .+\), at .+raising.py, line "
    assert re.search(told, done.stdout)
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    study = store.study("s")
    assert study.state == "failed"
    assert study.reason.startswith("the first 3 trials failed alike")
    assert 3 <= sum(trial.state == "failed" for trial in store.trials(study)) < 60
    monkeypatch.setenv("RAISED", "none")  # the cause is corrected
    assert "complete: " in called(*search, "--resume", cwd=tmp_path).stdout


@pytest.mark.slow
def test_keep_going_is_an_option(tmp_path, monkeypatch):
    monkeypatch.setenv("RAISED", "base")
    write_study(tmp_path)
    done = called("search", "s.json", "--outside", "--in-process", "--keep-going", cwd=tmp_path, code=1)
    assert "all 12 trials failed" in done.stdout


@pytest.mark.mpi
@pytest.mark.long
@pytest.mark.parametrize("inside", [False, True], ids=["own ranks", "someone's mpirun"])
def test_it_stops_over_mpi(tmp_path, inside):
    write_study(tmp_path, trials=3000, topology={"islands": 2})
    env = {"RAISED": "base", "PYTHONPATH": str(SUPPORT), "ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}
    if inside:
        done = mpiexec(2, "-m", "atoll.platform.cli", "search", "s.json", "--outside", env=env, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
    else:
        done = atoll("search", "s.json", "--outside", env=env, cwd=tmp_path, code=1)
    assert "\nthe first 3 trials failed alike: OwnBaseError: b" in done.stdout
    assert Store(env["ATOLL_STORE"]).study("s").state == "failed"
