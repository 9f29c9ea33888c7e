"""Whole searches over real MPI, as a user starts them, undisturbed and disturbed."""

import itertools
import math
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter

import psutil
import pytest
import ranks
import yaml
from commands import FAILING, STABLE, atoll, end, journal_lines, start, wait_until

from atoll.storage.store import Store

pytestmark = pytest.mark.mpi

FLAGS = ("search", "--method", "daso", "--workload", "digits_mlp", "--epochs", "2", "--name", "s")
SLOW = ("search", "--method", "ddp", "--workload", FAILING, "--name", "s", "--ranks", "2", "--epochs", "4")


def write_stable(folder):
    study = {"name": "s", "workload": "digits_mlp", "method": "daso", "epochs": 2, "space": STABLE}
    (folder / "s.yaml").write_text(yaml.safe_dump(study))


def read(folder):
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    return store, store.study("s")


def check_complete(folder, num_trials):
    """The budget is used up, every line is in the store, and no trial is there twice."""
    store, study = read(folder)
    trials = store.trials(study)
    ended = [t.number for t in trials if t.state in ("complete", "failed")]
    assert sorted(ended) == list(range(num_trials))
    assert study.state == "complete"
    lines = journal_lines(folder / "atoll-studies" / "s", "progress")
    assert len(store.progress([t.id for t in trials])) == len(lines)
    return store, study, trials


def test_eight_ranks_on_two_islands(tmp_path):
    write_stable(tmp_path)
    flags = ("--trials", "24", "--islands", "2", "--workers", "2", "--ranks", "2")
    done = atoll("search", *flags, "s.yaml", cwd=tmp_path)
    store, study, trials = check_complete(tmp_path, 24)
    assert {(t.state, t.reason) for t in trials} == {("complete", None)}
    assert {(t.island, t.worker) for t in trials} == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert {t.seed for t in trials} == set(range(24))
    assert trials[0].hyperparameters == {"B": 4, "S": 1} | trials[0].hyperparameters  # the default candidate
    assert store.migrations(study)
    assert {(h.world_rank, h.rank) for h in store.hosts(study)} == {(r, r % 2) for r in range(8)}
    assert {h.threads for h in store.hosts(study)} == {max(1, len(os.sched_getaffinity(0)) // 8)}
    processes = {h.process for h in store.hosts(study)}
    assert len(processes) == 8
    assert not any(psutil.pid_exists(process) for process in processes)  # none is left behind
    best = store.leaderboard(study)[0]
    assert best.wire_bytes == pytest.approx(sum(entry.wire_bytes for entry in store.ledger(best.id)))
    assert f"{best.objective:.4g}" in done.stdout
    assert "24 complete" in done.stdout


def test_eight_ranks_over_tcp(tmp_path):
    tcp = {"MPIR_CVAR_NOLOCAL": "1", "FI_PROVIDER": "tcp", "MPIR_CVAR_CH4_NETMOD": "ofi"}
    write_stable(tmp_path)
    flags = ("--trials", "8", "--islands", "2", "--workers", "2", "--ranks", "2", "--ranks-per-node", "1")
    atoll("search", *flags, "s.yaml", cwd=tmp_path, env=tcp)
    _, _, trials = check_complete(tmp_path, 8)
    assert {(t.state, t.reason) for t in trials} == {("complete", None)}


def test_one_rank(tmp_path):
    atoll("search", "--method", "ddp", "--workload", "digits_cnn", "--epochs", "1", "--trials", "3", "--name", "s",
          cwd=tmp_path)  # fmt: skip
    check_complete(tmp_path, 3)


def test_an_exception_on_one_rank_fails_its_trial_only(tmp_path):
    started = time.monotonic()
    flags = (*SLOW, "--trials", "9", "--islands", "2")
    atoll(*flags, cwd=tmp_path, env={"FAIL": "raise"})
    _, _, trials = check_complete(tmp_path, 9)
    failed = [t for t in trials if t.state == "failed"]
    assert len(failed) >= 2
    for trial in failed:
        assert trial.reason.startswith("RuntimeError: broken on purpose (rank 1 on ")
        assert "in loss" in trial.traceback
        assert trial.objective is None
        # The peer was interrupted while it waited for the rank that raised.
        assert trial.finished - trial.started < 1.0
    assert time.monotonic() - started < 60


def test_nan_fails_its_trial_and_is_never_the_best(tmp_path):
    atoll(*SLOW, "--trials", "6", cwd=tmp_path, env={"FAIL": "nan"})
    store, study, trials = check_complete(tmp_path, 6)
    failed = [t for t in trials if t.state == "failed"]
    assert len(failed) == 2
    assert all(t.reason.startswith("Diverged: diverged at step ") for t in failed)
    assert not {t.number for t in failed} & {t.number for t in store.leaderboard(study)}


def test_stop_and_resume(tmp_path):
    flags = (*SLOW, "--trials", "10", "--islands", "2")
    search = start(*flags, cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and len(journal_lines(folder, "trial_ended")) >= 2)
    atoll("stop", "s", cwd=tmp_path)
    done = end(search)
    assert done.returncode == 75, done.stderr
    assert "--resume" in done.stdout
    store, study = read(tmp_path)
    before = {t.number: t.objective for t in store.trials(study) if t.state == "complete"}
    assert study.state == "stopped"
    assert 2 <= len(before) < 10
    refused = atoll(*flags, cwd=tmp_path, code=1)
    assert "already holds a study; continue it with --resume" in refused.stderr
    changed = atoll(*flags, "--seed", "7", "--resume", cwd=tmp_path, code=1)
    assert "seed: 0 before, 7 now" in changed.stderr
    # islands and workers may change, ranks per worker may not
    wrong = atoll(*SLOW, "--trials", "10", "--ranks", "1", "--resume", cwd=tmp_path, code=1)
    assert "topology.ranks: 2 before, 1 now" in wrong.stderr
    atoll(*SLOW, "--trials", "10", "--workers", "2", "--resume", cwd=tmp_path, env={"FAIL": ""})
    _, _, trials = check_complete(tmp_path, 10)
    assert {t.island for t in trials if t.number not in before and t.state == "complete"} == {0}
    complete = {t.number: t.objective for t in trials if t.state == "complete"}
    assert before.items() <= complete.items()
    lost = [t for t in trials if t.state == "lost"]
    assert 1 <= len(lost) <= 2  # what the two workers were at; no further trial was started
    assert all((t.number, 1) in {(r.number, r.attempt) for r in trials} for t in lost)
    finished = atoll(*flags, "--resume", cwd=tmp_path, code=1)
    assert "is complete: it has used its budget of 10 trials" in finished.stderr


def test_an_interrupt_stops_cleanly(tmp_path):
    search = start(*SLOW, "--trials", "10", cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and journal_lines(folder, "progress"))
    search.send_signal(signal.SIGINT)
    assert end(search, timeout=30).returncode == 75
    assert read(tmp_path)[1].state == "stopped"


@pytest.mark.long
def test_a_killed_rank_is_started_again(tmp_path):
    search = start(*SLOW, "--trials", "6", cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and len(journal_lines(folder, "progress")) >= 3)
    os.kill(journal_lines(folder, "host")[1]["process"], signal.SIGKILL)
    done = end(search)
    assert done.returncode == 0, done.stdout
    _, _, trials = check_complete(tmp_path, 6)
    (lost,) = [t for t in trials if t.state == "lost"]
    assert "the MPI job ended with exit code" in lost.reason
    retried = next(t for t in trials if (t.number, t.attempt) == (lost.number, 1))
    assert retried.hyperparameters == lost.hyperparameters
    assert len(journal_lines(folder, "restarted")) == 1


@pytest.mark.long
def test_a_stopped_rank_is_noticed_by_its_heartbeat(tmp_path):
    study = {"name": "s", "workload": FAILING, "method": "ddp", "trials": 4, "epochs": 4, "heartbeat_timeout": 12.0}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"topology": {"ranks": 2}}))
    search = start("search", "study.yaml", "--outside", cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and len(journal_lines(folder, "progress")) >= 2)
    process = journal_lines(folder, "host")[1]["process"]
    os.kill(process, signal.SIGSTOP)
    done = end(search)
    assert done.returncode == 0, done.stdout
    assert not psutil.pid_exists(process)
    _, _, trials = check_complete(tmp_path, 4)
    (lost,) = [t for t in trials if t.state == "lost"]
    # Its peer waits for it, and shows that it is alive.
    assert lost.reason.startswith("rank 1 made no progress for 12 s (heartbeat_timeout)")


@pytest.mark.long
def test_a_configuration_that_kills_its_worker_twice_is_failed(tmp_path):
    flags = ("search", "--method", "ddp", "--workload", FAILING, "--name", "s", "--epochs", "4")
    atoll(*flags, "--trials", "4", "--islands", "2", cwd=tmp_path, env={"FAIL": "kill"})
    _, _, trials = check_complete(tmp_path, 4)
    states = {(t.number, t.attempt): t.state for t in trials}
    assert (states[2, 0], states[2, 1]) == ("lost", "failed")
    failed = next(t for t in trials if t.state == "failed")
    assert failed.reason.startswith("its worker died during this trial twice; the second time: the MPI job ended")
    # Those that went down with it are not to blame.
    assert all(state in ("complete", "lost") for (number, _), state in states.items() if number != 2)


def test_a_trial_that_takes_too_long_is_failed_and_keeps_its_progress(tmp_path):
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 2, "epochs": 5000, "trial_timeout": 3.0}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"topology": {"ranks": 2}}))
    atoll("search", "study.yaml", cwd=tmp_path)
    store, _, trials = check_complete(tmp_path, 2)
    assert {t.state for t in trials} == {"failed"}
    for trial in trials:
        assert trial.reason.startswith("TrialTimeout: the trial was stopped after trial_timeout (3 s)")
        assert trial.traceback is None
        assert 3.0 <= trial.finished - trial.started < 5.0
        assert store.progress([trial.id])


def searched_within(tmp_path, budget, epochs=2):
    """The trials of two islands' search within a budget of seconds, which must then be complete and not shrink."""
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "epochs": epochs, "topology": {"islands": 2}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | budget))
    atoll("search", "study.yaml", cwd=tmp_path)
    store, row = read(tmp_path)
    assert row.state == "complete"
    smaller = {name: seconds / 2 for name, seconds in budget.items()}
    (tmp_path / "smaller.yaml").write_text(yaml.safe_dump(study | smaller))
    refused = atoll("search", "smaller.yaml", "--resume", cwd=tmp_path, code=1)
    assert "a budget may only increase" in refused.stderr
    return store.trials(row)


def test_a_budget_of_seconds(tmp_path):
    trials = searched_within(tmp_path, {"seconds": 6.0})
    assert {t.state for t in trials} <= {"complete", "failed"}
    starts = [t.started for t in trials]
    assert 0 < max(starts) - min(starts) <= 6.0
    finished = atoll("search", "study.yaml", "--resume", cwd=tmp_path, code=1)
    assert "is complete: it has used its budget of 6 seconds" in finished.stderr


def test_a_budget_of_busy_seconds(tmp_path):
    """Once it is used up, a worker at most goes on with the one trial that it trained or was about to start."""
    trials = searched_within(tmp_path, {"busy_seconds": 4.0}, epochs=10)
    ends = sorted(trials, key=lambda t: t.finished)
    spent = itertools.accumulate(t.finished - t.started for t in ends)
    used_up = next((t.finished for t, seconds in zip(ends, spent, strict=True) if seconds >= 4.0), math.inf)
    # A worker hears of it while it trains, at every step, so that it cannot start a second one.
    late = Counter(t.worker for t in trials if t.started > used_up)
    assert all(count == 1 for count in late.values())
    assert sum(t.finished - t.started for t in trials) >= 4.0 - 0.01 * len(trials)  # which journal lines may take


def test_a_second_launcher_is_refused_and_a_signal_stops_the_first(tmp_path):
    search = start(*SLOW, "--trials", "10", cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and journal_lines(folder, "progress"))
    refused = atoll(*SLOW, "--trials", "10", "--resume", cwd=tmp_path, code=1)
    assert f"is running as process {search.pid} on " in refused.stderr
    search.send_signal(signal.SIGTERM)
    assert end(search, timeout=20).returncode == 75


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.long) for n in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)),
    ],
)
def test_a_signal_to_mpiexec_stops_the_search(tmp_path, number):
    search = start(*SLOW, "--trials", "10", cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and journal_lines(folder, "progress"))
    (mpiexec,) = [p for p in psutil.Process(search.pid).children() if "mpiexec" in p.name()]
    mpiexec.send_signal(number)
    assert end(search, timeout=20).returncode == 75
    assert read(tmp_path)[1].state == "stopped"
    wait_until(lambda: not any(psutil.pid_exists(line["process"]) for line in journal_lines(folder, "host")), 10)


def test_a_database_locked_for_ten_seconds_stops_nothing_and_loses_nothing(tmp_path):
    flags = (*SLOW, "--trials", "60", "--islands", "2")
    search = start(*flags, cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and journal_lines(folder, "progress"))
    lock = sqlite3.connect(tmp_path / "atoll.db", isolation_level=None, timeout=30)
    lock.execute("BEGIN EXCLUSIVE")
    locked_at, before = time.monotonic(), len(journal_lines(folder, "progress"))
    wait_until(lambda: time.monotonic() - locked_at > 10)
    while_locked = len(journal_lines(folder, "progress")) - before
    stored = lock.execute("SELECT count(*) FROM progress").fetchone()[0]
    lock.execute("COMMIT")
    lock.close()
    assert while_locked > 10  # training went on
    assert stored < before + while_locked
    atoll("stop", "s", cwd=tmp_path)
    assert end(search).returncode == 75
    store, study = read(tmp_path)
    assert len(store.progress([t.id for t in store.trials(study)])) == len(journal_lines(folder, "progress"))
    assert len(store.trials(study)) == len(journal_lines(folder, "trial_started"))


def test_inside_someones_own_mpirun(tmp_path):
    arguments = ("-m", "atoll.platform.cli", *FLAGS, "--trials", "4", "--islands", "2", "--ranks", "2")
    done = ranks.mpiexec(4, *arguments, env={"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_complete(tmp_path, 4)


def test_inside_a_world_of_another_size(tmp_path):
    done = ranks.mpiexec(3, "-m", "atoll.platform.cli", *FLAGS, "--islands", "2", "--ranks", "2", cwd=tmp_path)
    assert done.returncode != 0
    assert "the search needs 4 ranks (2 islands x 1 workers x 2 ranks) but MPI started 3" in done.stderr
    assert not (tmp_path / "atoll-studies").exists()


@pytest.mark.may_skip
def test_a_full_disk_stops_the_search_with_a_clear_error(tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        study = {
            "name": "s",
            "workload": "digits_mlp",
            "method": "ddp",
            "trials": 2000,
            "epochs": 2,
            "folder": str(disk / "s"),
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        done = atoll("search", "study.yaml", cwd=tmp_path, code=1)
        assert "a journal cannot be written (" in done.stdout
        assert "free some disk space, then continue with --resume" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        # What was recorded stays readable, and is in the store.
        atoll("record", disk / "s", cwd=tmp_path)
        store, row = read(tmp_path)
        lines = {line["number"] for line in journal_lines(disk / "s", "trial_ended")}
        assert len(lines) > 5
        assert {t.number for t in store.trials(row) if t.state in ("complete", "failed")} == lines
    finally:
        subprocess.run(["umount", disk], check=True)
