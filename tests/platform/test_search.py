"""Whole searches over real MPI, as a user starts them, undisturbed and disturbed."""

import os
import signal
import sqlite3
import time

import psutil
import pytest
import ranks
from commands import FAILING, atoll, end, journal_lines, start, wait_until

from atoll.storage.store import Store

pytestmark = pytest.mark.mpi

FLAGS = ("search", "--method", "daso", "--workload", "digits_mlp", "--epochs", "2", "--name", "s")
SLOW = ("search", "--method", "ddp", "--workload", FAILING, "--name", "s", "--ranks", "2", "--epochs", "4")


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
    done = atoll(*FLAGS, "--trials", "24", "--islands", "2", "--workers", "2", "--ranks", "2", cwd=tmp_path)
    store, study, trials = check_complete(tmp_path, 24)
    assert {t.state for t in trials} == {"complete"}
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
    assert "24/24" in done.stdout or "trials, best accuracy" in done.stdout


def test_eight_ranks_over_tcp(tmp_path):
    tcp = {"MPIR_CVAR_NOLOCAL": "1", "FI_PROVIDER": "tcp", "MPIR_CVAR_CH4_NETMOD": "ofi"}
    flags = (*FLAGS, "--trials", "8", "--islands", "2", "--workers", "2", "--ranks", "2", "--ranks-per-node", "1")
    atoll(*flags, cwd=tmp_path, env=tcp)
    _, _, trials = check_complete(tmp_path, 8)
    assert {t.state for t in trials} == {"complete"}


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
    assert all(t.reason.startswith("Diverged: diverged: the training loss is nan at step") for t in failed)
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
    atoll(*flags, "--resume", cwd=tmp_path, env={"FAIL": ""})
    _, _, trials = check_complete(tmp_path, 10)
    complete = {t.number: t.objective for t in trials if t.state == "complete"}
    assert before.items() <= complete.items()
    lost = [t for t in trials if t.state == "lost"]
    assert all((t.number, 1) in {(r.number, r.attempt) for r in trials} for t in lost)
    finished = atoll(*flags, "--resume", cwd=tmp_path, code=1)
    assert "has used up its 10 trials" in finished.stderr


def test_an_interrupt_stops_cleanly(tmp_path):
    search = start(*SLOW, "--trials", "10", cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and journal_lines(folder, "progress"))
    search.send_signal(signal.SIGINT)
    assert end(search, timeout=30).returncode == 75
    assert read(tmp_path)[1].state == "stopped"


def test_a_killed_rank_ends_the_job_and_resume_goes_on(tmp_path):
    flags = (*SLOW, "--trials", "6")
    search = start(*flags, cwd=tmp_path, env={"FAIL": "slow"})
    folder = tmp_path / "atoll-studies" / "s"
    wait_until(lambda: folder.exists() and len(journal_lines(folder, "progress")) >= 3)
    process = journal_lines(folder, "host")[1]["process"]
    os.kill(process, signal.SIGKILL)
    done = end(search, timeout=60)
    assert done.returncode == 1
    store, study = read(tmp_path)
    assert study.state == "failed"
    assert "the MPI job ended with code" in study.reason
    assert [t.state for t in store.trials(study)][-1] == "lost"
    atoll(*flags, "--resume", cwd=tmp_path)
    check_complete(tmp_path, 6)


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
