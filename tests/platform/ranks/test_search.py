"""Whole searches, their ranks as threads of this process: budgets, failures, timeouts, stop and resume.

tests/platform/launch/test_over_mpi.py has one search of each kind over MPI, and tells that both do the same.
"""

import itertools
import math
import signal
from collections import Counter

import pytest
import yaml
from commands import FAILING, STABLE, called, journal_lines, stopped_when

from atoll.platform.ranks.stopping import stop_on_signals
from atoll.platform.stop_signals import STOP_SIGNALS
from atoll.storage.store import Store

pytestmark = pytest.mark.slow

SLOW = ("search", "--in-process", "--method", "ddp", "--workload", FAILING, "--name", "s", "--ranks", "2")
SLOW = (*SLOW, "--epochs", "4")


def write(folder, /, **content):
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "epochs": 2, "space": STABLE}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


def search(folder, *arguments, code=0):
    return called("search", "s.yaml", "--outside", "--in-process", *arguments, cwd=folder, code=code)


def read(folder):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return store, store.study("s")


def check_complete(folder, num_trials, state="complete"):
    """The budget is used up, every line is in the store, and no trial is there twice."""
    store, study = read(folder)
    trials = store.trials(study)
    ended = [t.number for t in trials if t.state in ("complete", "failed")]
    assert sorted(ended) == list(range(num_trials))
    assert study.state == state
    lines = journal_lines(folder / "atoll-studies" / "s", "progress")
    assert len(store.progress([t.id for t in trials])) == len(lines)
    return store, study, trials


def test_two_islands_of_two_workers_of_two_ranks(tmp_path):
    write(tmp_path, method="daso")
    said = search(tmp_path, "--trials", "16", "--islands", "2", "--workers", "2", "--ranks", "2").stdout
    store, study, trials = check_complete(tmp_path, 16)
    assert {(t.state, t.reason) for t in trials} == {("complete", None)}
    assert {(t.island, t.worker) for t in trials} == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert {t.seed for t in trials} == set(range(16))
    assert trials[0].hyperparameters == {"B": 4, "S": 1} | trials[0].hyperparameters  # the default candidate
    assert store.migrations(study)
    assert {(h.world_rank, h.rank) for h in store.hosts(study)} == {(r, r % 2) for r in range(8)}
    best = store.leaderboard(study)[0]
    assert best.wire_bytes == pytest.approx(sum(entry.wire_bytes for entry in store.ledger(best.id)))
    assert f"{best.objective:.4g}" in said
    assert "16 complete" in said


def test_one_rank(tmp_path):
    write(tmp_path, workload="digits_cnn", epochs=1, trials=2, topology={"threads": 1})
    search(tmp_path)
    check_complete(tmp_path, 2)


def test_an_exception_on_one_rank_fails_its_trial_only(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "raise")
    write(tmp_path, workload=FAILING, trials=9, topology={"ranks": 2, "islands": 2})
    search(tmp_path)
    _, _, trials = check_complete(tmp_path, 9)
    assert {t.number for t in trials if t.state == "failed"} == {2, 5, 8}
    for trial in (t for t in trials if t.state == "failed"):
        assert trial.reason.startswith("RuntimeError: broken on purpose (rank 1 on ")
        assert "in loss" in trial.traceback
        assert trial.objective is None


def test_nan_fails_its_trial_and_is_never_the_best(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "nan")
    write(tmp_path, workload=FAILING, trials=6, topology={"ranks": 2})
    search(tmp_path)
    store, study, trials = check_complete(tmp_path, 6)
    failed = [t for t in trials if t.state == "failed"]
    assert {t.number for t in failed} == {2, 5}
    assert all(t.reason.startswith("Diverged: diverged at step ") for t in failed)
    assert not {t.number for t in failed} & {t.number for t in store.leaderboard(study)}


def test_stop_and_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "slow")
    slow = (*SLOW, "--epochs", "2", "--trials", "8")
    flags = (*slow, "--islands", "2")
    folder = tmp_path / "atoll-studies" / "s"
    with stopped_when(folder, "trial_ended", 2):
        done = called(*flags, cwd=tmp_path, code=75)
    assert "--resume" in done.stdout
    store, study = read(tmp_path)
    before = {t.number: t.objective for t in store.trials(study) if t.state == "complete"}
    assert study.state == "stopped"
    assert 2 <= len(before) < 8
    refused = called(*flags, cwd=tmp_path, code=1)
    assert "already holds a study; continue it with --resume" in refused.stderr
    changed = called(*flags, "--seed", "7", "--resume", cwd=tmp_path, code=1)
    assert "seed: 0 before, 7 now" in changed.stderr
    # islands and workers may change, ranks per worker may not
    wrong = called(*slow, "--ranks", "1", "--resume", cwd=tmp_path, code=1)
    assert "topology.ranks: 2 before, 1 now" in wrong.stderr
    monkeypatch.setenv("FAIL", "")
    called(*slow, "--workers", "2", "--continue", cwd=tmp_path)
    _, _, trials = check_complete(tmp_path, 8)
    assert {t.island for t in trials if t.number not in before and t.state == "complete"} == {0}
    complete = {t.number: t.objective for t in trials if t.state == "complete"}
    assert before.items() <= complete.items()
    lost = [t for t in trials if t.state == "lost"]
    assert 1 <= len(lost) <= 2  # what the two workers were at; no further trial was started
    assert all((t.number, 1) in {(r.number, r.attempt) for r in trials} for t in lost)
    finished = called(*flags, "--resume", cwd=tmp_path, code=1)
    assert "is complete: it has used its budget of 8 trials" in finished.stderr
    finished = called(*flags, "--continue", cwd=tmp_path)
    assert "is complete: it has used its budget of 8 trials" in finished.stdout
    assert "complete: 8 complete" in finished.stdout  # and the leaderboard
    assert "--continue includes --resume" in called(*flags, "--continue", "--resume", cwd=tmp_path, code=2).stderr


STOPPED = """
import time
from atoll.platform.workloads.digits import DigitsMlp

class Stopped(DigitsMlp):
    \"\"\"What asks the job to stop ends what this trial needs.\"\"\"

    def loss(self, outputs, targets):
        if (stop := self.trial_folder.parents[1] / "stop").parent.joinpath("asked").exists():
            stop.touch()
            raise ConnectionResetError("its helper was asked to stop")
        return super().loss(outputs, targets)
"""


def test_a_trial_that_fails_because_the_job_is_asked_to_stop_is_lost_and_trained_again(tmp_path):
    (tmp_path / "stopped.py").write_text(STOPPED)
    asked = tmp_path / "atoll-studies" / "s" / "asked"
    asked.parent.mkdir(parents=True)
    asked.touch()
    write(tmp_path, workload="stopped.py:Stopped", trials=1, epochs=1, check=False)
    search(tmp_path, code=75)
    store, study = read(tmp_path)
    (trial,) = store.trials(study)
    assert trial.state == "lost"
    assert trial.reason.startswith(
        "failed after the search was asked to stop: ConnectionResetError: its helper was ask"
    )
    asked.unlink()
    search(tmp_path, "--resume")
    assert [(t.number, t.attempt, t.state) for t in read(tmp_path)[0].trials(study)] == [
        (0, 0, "lost"), (0, 1, "complete")
    ]  # fmt: skip


def test_a_signal_that_cannot_be_passed_on_fails_no_trial(tmp_path):
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        stop_on_signals(tmp_path / "away" / "stop")
        for number in STOP_SIGNALS:
            signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_trial_that_takes_too_long_is_failed_and_keeps_its_progress(tmp_path):
    write(tmp_path, trials=2, epochs=5000, trial_timeout=1.5, topology={"ranks": 2})
    search(tmp_path, code=1)
    store, _, trials = check_complete(tmp_path, 2, state="failed")  # all of its trials have failed
    assert {t.state for t in trials} == {"failed"}
    for trial in trials:
        assert trial.reason.startswith("TrialTimeout: the trial was stopped after trial_timeout (1.5 s)")
        assert trial.traceback is None
        assert 1.5 <= trial.finished - trial.started < 3.5
        assert store.progress([trial.id])


def searched_within(tmp_path, budget, epochs=2):
    """The trials of two islands' search within a budget of seconds, which must then be complete and not shrink."""
    content = {"epochs": epochs, "topology": {"islands": 2}}
    write(tmp_path, **content, **{name: seconds / 2 for name, seconds in budget.items()})
    (tmp_path / "s.yaml").rename(tmp_path / "smaller.yaml")
    write(tmp_path, **content, **budget)
    search(tmp_path)
    store, row = read(tmp_path)
    assert row.state == "complete"
    refused = called("search", "smaller.yaml", "--resume", "--in-process", cwd=tmp_path, code=1)
    assert "a budget may only increase" in refused.stderr
    return store.trials(row)


def test_a_budget_of_seconds(tmp_path):
    trials = searched_within(tmp_path, {"seconds": 1.5})
    assert {t.state for t in trials} <= {"complete", "failed"}
    first = min(t.started for t in trials)
    assert len(trials) > 1
    # A worker asks for the time just before it draws a configuration, so that it starts at most one trial late.
    late = Counter(t.worker for t in trials if t.started > first + 1.5)
    assert all(count == 1 for count in late.values())
    assert "is complete: it has used its budget of 1.5 seconds" in search(tmp_path, "--resume", code=1).stderr


def test_a_budget_of_busy_seconds(tmp_path):
    """Once it is used up, a worker at most goes on with the one trial that it trained or was about to start."""
    trials = searched_within(tmp_path, {"busy_seconds": 1.5}, epochs=10)
    ends = sorted(trials, key=lambda t: t.finished)
    spent = itertools.accumulate(t.finished - t.started for t in ends)
    used_up = next((t.finished for t, seconds in zip(ends, spent, strict=True) if seconds >= 1.5), math.inf)
    # A worker hears of it while it trains, at every step, so that it cannot start a second one.
    late = Counter(t.worker for t in trials if t.started > used_up)
    assert all(count == 1 for count in late.values())
    assert sum(t.finished - t.started for t in trials) >= 1.5 - 0.01 * len(trials)  # which journal lines may take


def test_a_search_without_its_end_is_ended_by_a_resume(tmp_path):
    write(tmp_path, trials=3)
    search(tmp_path)
    last = tmp_path / "atoll-studies" / "s" / "journals" / "launcher.2.jsonl"
    assert "study_ended" in last.read_text()
    last.unlink()
    search(tmp_path, "--resume")
    check_complete(tmp_path, 3)
    assert len(journal_lines(tmp_path / "atoll-studies" / "s", "trial_started")) == 3
