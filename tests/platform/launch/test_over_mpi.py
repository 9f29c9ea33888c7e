"""Searches over real MPI, as a user starts them: one of each kind by default, the others in the long tier.

What a search does is tested in one process (tests/platform/ranks/test_search.py, tests/platform/search/); here is what
only processes have: transports, deaths, signals, and somebody else's mpirun.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter

import disks
import psutil
import pytest
import ranks
import yaml
from commands import FAILING, STABLE, atoll, called, called_json, end, journal_lines, start, wait_until

from atoll.storage.store import Store

pytestmark = pytest.mark.mpi

FLAGS = ("search", "--method", "daso", "--workload", "digits_mlp", "--epochs", "1", "--name", "s")
SLOW = ("search", "--method", "ddp", "--workload", FAILING, "--name", "s", "--ranks", "2", "--epochs", "4")


# On both, the second one in the long tier.
BOTH = ["mpich", pytest.param("openmpi", marks=pytest.mark.long)]


def write(folder, /, **content):
    study = {"name": "s", "workload": "digits_mlp", "method": "daso", "epochs": 2, "space": STABLE}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


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


def check_mpi_is_named(trials, mpi):
    """Each configuration tells the library of the ranks, whatever wheels are installed."""
    found = {t.configuration["versions"]["MPI"] for t in trials}
    assert len(found) == 1
    assert found.pop().startswith({"mpich": "MPICH ", "openmpi": "Open MPI "}[mpi])
    assert all("mpich" not in t.configuration["versions"] for t in trials)


def started(folder, *flags, progress=1, fail="slow"):
    """A search with so many lines of progress, and its folder."""
    search = start(*flags, cwd=folder, env={"FAIL": fail})
    study = folder / "atoll-studies" / "s"
    wait_until(lambda: study.exists() and len(journal_lines(study, "progress")) >= progress, timeout=120)
    return search, study


@pytest.mark.long
def test_metrics_memory_and_predictions_as_objectives(tmp_path):
    prediction = {"projected_seconds": {"cluster": "a100_hdr200", "nodes": 16}}
    write(
        tmp_path,
        method="oialr",
        space={"batch_size": 32},
        topology={"workers": 2, "ranks": 2},
        objectives=["accuracy", "trainable_share", "peak_memory", prediction],
    )
    called("search", "s.yaml", "--trials", "8", cwd=tmp_path)
    _, study, trials = check_complete(tmp_path, 8)
    names = [one["name"] for one in study.all_objectives]
    assert names[-1] == "projected_seconds (predicted: a100_hdr200, 16 nodes)"
    assert len({t.worker for t in trials}) == 2
    for trial in trials:
        assert trial.state == "complete"
        measured = dict(zip(names, trial.objectives, strict=True))
        assert measured["peak_memory"] == trial.peak_memory > 50e6  # more than Python and torch take
        assert measured["trainable_share"] == trial.metrics["trainable_share"]
        assert 0 < measured[names[-1]] < 60
        assert trial.metrics["projection_cpu_seconds"] > 0


@pytest.mark.long
def test_eight_ranks_on_two_islands(tmp_path):
    write(tmp_path)
    flags = ("--trials", "12", "--islands", "2", "--workers", "2", "--ranks", "2")
    done = atoll("search", *flags, "s.yaml", cwd=tmp_path)
    store, study, trials = check_complete(tmp_path, 12)
    assert {(t.state, t.reason) for t in trials} == {("complete", None)}
    assert {(t.island, t.worker) for t in trials} == {(0, 0), (0, 1), (1, 2), (1, 3)}
    assert {t.seed for t in trials} == set(range(12))
    assert store.migrations(study)
    assert {(h.world_rank, h.rank) for h in store.hosts(study)} == {(r, r % 2) for r in range(8)}
    assert {h.threads for h in store.hosts(study)} == {max(1, len(os.sched_getaffinity(0)) // 8)}
    processes = {h.process for h in store.hosts(study)}
    assert len(processes) == 8
    assert not any(psutil.pid_exists(process) for process in processes)  # none is left behind
    best = store.leaderboard(study)[0]
    assert best.wire_bytes == pytest.approx(sum(entry.wire_bytes for entry in store.ledger(best.id)))
    assert f"{best.objective:.4g}" in done.stdout
    assert "12 complete" in done.stdout


@pytest.mark.long
def test_eight_ranks_over_tcp(tmp_path):
    write(tmp_path)
    flags = ("--trials", "8", "--islands", "2", "--workers", "2", "--ranks", "2", "--ranks-per-node", "1")
    atoll("search", *flags, "s.yaml", cwd=tmp_path, env=ranks.TCP)
    _, _, trials = check_complete(tmp_path, 8)
    assert {(t.state, t.reason) for t in trials} == {("complete", None)}


def test_threads_and_processes_search_the_same(tmp_path):
    """One worker: the same proposals, and the same objectives to the last bit."""
    content = {"method": "local_sgd", "trials": 6, "epochs": 1, "objectives": ["validation_loss"], "space": STABLE}
    topology = {"ranks": 2, "ranks_per_node": 1, "threads": 1}
    histories = []
    for run, flags in ((atoll, ()), (called, ("--in-process",))):
        folder = tmp_path / run.__name__
        folder.mkdir()
        write(folder, **content, topology=topology, sampler={"name": "evolution", "population": 3})
        run("search", "s.yaml", *flags, cwd=folder)
        _, _, trials = check_complete(folder, 6)
        histories.append([(t.number, t.hyperparameters, t.state, t.objective, t.wire_bytes) for t in trials])
    assert any(t.proposal["parents"] for t in trials)  # what is known decides what is proposed
    assert histories[0] == histories[1]


@pytest.mark.long
@pytest.mark.alone
def test_an_exception_on_one_rank_interrupts_its_peer(tmp_path):
    atoll(*SLOW, "--trials", "4", cwd=tmp_path, env={"FAIL": "raise"})
    _, _, trials = check_complete(tmp_path, 4)
    (failed,) = [t for t in trials if t.state == "failed"]
    assert failed.reason.startswith("RuntimeError: broken on purpose (rank 1 on ")
    assert "in loss" in failed.traceback
    # The peer was interrupted while it waited for the rank that raised.
    assert failed.finished - failed.started < 1.0


@pytest.mark.long
def test_an_interrupt_stops_cleanly_and_a_resume_goes_on(tmp_path):
    flags = (*SLOW, "--trials", "8", "--islands", "2")
    search, folder = started(tmp_path, *flags)
    wait_until(lambda: len(journal_lines(folder, "trial_ended")) >= 2)
    search.send_signal(signal.SIGINT)
    assert end(search, timeout=30).returncode == 75
    store, study = read(tmp_path)
    before = {t.number: t.objective for t in store.trials(study) if t.state == "complete"}
    assert study.state == "stopped"
    atoll(*SLOW, "--trials", "8", "--workers", "2", "--resume", cwd=tmp_path)
    _, _, trials = check_complete(tmp_path, 8)
    complete = {t.number: t.objective for t in trials if t.state == "complete"}
    assert before.items() <= complete.items()


@pytest.mark.long
def test_a_budget_of_seconds(tmp_path):
    write(tmp_path, method="ddp", topology={"islands": 2}, seconds=6.0)
    atoll("search", "s.yaml", cwd=tmp_path)
    store, study = read(tmp_path)
    assert study.state == "complete"
    trials = store.trials(study)
    first = min(t.started for t in trials)
    assert len(trials) > 1
    # A worker asks for the time just before it draws a configuration, so it starts at most one trial late.
    late = Counter(t.worker for t in trials if t.started > first + 6.0)
    assert all(count == 1 for count in late.values())


@pytest.mark.parametrize("mpi", BOTH, indirect=True)
@pytest.mark.cpu_limit(40, reason="the ranks start twice")
def test_a_killed_rank_is_started_again_and_ranks_end_with_their_launcher(tmp_path, mpi):
    search, folder = started(tmp_path, *SLOW, "--trials", "6", progress=3)
    os.kill(journal_lines(folder, "host")[1]["process"], signal.SIGKILL)
    wait_until(lambda: any(line["number"] == 1 for line in journal_lines(folder, "progress")))
    assert len(journal_lines(folder, "restarted")) == 1
    check_ends_with_its_launcher(tmp_path, search, folder, signal.SIGKILL)
    called(*SLOW, "--trials", "6", "--resume", "--in-process", cwd=tmp_path)  # to start ranks once more takes seconds
    _, _, trials = check_complete(tmp_path, 6)
    reasons = {(t.number, t.attempt): t.reason for t in trials if t.state == "lost"}
    assert set(reasons) == {(0, 0), (1, 0)}
    assert "the MPI job ended with exit code" in reasons[0, 0]
    check_mpi_is_named([t for t in trials if t.state == "lost"], mpi)  # the others were trained on threads
    hyperparameters = {(t.number, t.attempt): t.hyperparameters for t in trials}
    for number, _ in reasons:
        assert hyperparameters[number, 1] == hyperparameters[number, 0]


@pytest.mark.parametrize("mpi", BOTH, indirect=True)
@pytest.mark.long
def test_a_stopped_rank_is_noticed_by_its_heartbeat(tmp_path, mpi):
    write(tmp_path, workload=FAILING, method="ddp", trials=2, epochs=4, heartbeat_timeout=12.0, topology={"ranks": 2})
    search, folder = started(tmp_path, "search", "s.yaml", "--outside", progress=2)
    process = journal_lines(folder, "host")[1]["process"]
    os.kill(process, signal.SIGSTOP)
    done = end(search)
    assert done.returncode == 0, done.stdout
    assert not psutil.pid_exists(process)
    _, _, trials = check_complete(tmp_path, 2)
    (lost,) = [t for t in trials if t.state == "lost"]
    # Its peer waits for it, and shows that it is alive.
    assert lost.reason.startswith("rank 1 made no progress for 12 s (heartbeat_timeout)")


@pytest.mark.parametrize("mpi", BOTH, indirect=True)
@pytest.mark.long
def test_a_configuration_that_kills_its_worker_twice_is_failed(tmp_path, mpi):
    flags = ("search", "--method", "ddp", "--workload", FAILING, "--name", "s", "--epochs", "4")
    atoll(*flags, "--trials", "4", "--islands", "2", cwd=tmp_path, env={"FAIL": "kill"})
    _, _, trials = check_complete(tmp_path, 4)
    states = {(t.number, t.attempt): t.state for t in trials}
    assert (states[2, 0], states[2, 1]) == ("lost", "failed")
    failed = next(t for t in trials if t.state == "failed")
    why = "its worker died during this trial twice; the second time: the MPI job ended with exit code"
    assert failed.reason.startswith(why)
    # Those that went down with it are not to blame.
    assert all(state in ("complete", "lost") for (number, _), state in states.items() if number != 2)


def test_a_second_launcher_is_refused_and_a_signal_stops_the_first(tmp_path):
    search, folder = started(tmp_path, *SLOW, "--trials", "10")
    refused = called(*SLOW, "--trials", "10", "--resume", cwd=tmp_path, code=1)
    assert f"is running as process {search.pid} on " in refused.stderr
    search.send_signal(signal.SIGUSR2)  # as TERM and the others, which test_stop_signals has
    assert end(search, timeout=30).returncode == 75
    assert read(tmp_path)[1].state == "stopped"
    wait_until(lambda: not any(psutil.pid_exists(line["process"]) for line in journal_lines(folder, "host")), 10)


def check_ends_with_its_launcher(tmp_path, search, folder, number):
    search.send_signal(number)
    search.communicate()
    processes = [line["process"] for line in journal_lines(folder, "host")]
    wait_until(lambda: not any(psutil.pid_exists(process) for process in processes), 10)
    (study,) = called_json("studies", cwd=tmp_path)
    assert study["state"] == "interrupted"


@pytest.mark.long
def test_ranks_of_a_training_end_with_their_launcher(tmp_path):
    content = {"method": "ddp", "workload": "digits_mlp", "epochs": 100_000, "ranks": 2, "hyperparameters": {}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    training = start("train", "c.yaml", cwd=tmp_path)
    ranks_of_it = []

    def has_ranks():
        with contextlib.suppress(psutil.Error):  # of a child that ended meanwhile
            children = psutil.Process(training.pid).children(recursive=True)
            ranks_of_it[:] = [child for child in children if "atoll.platform.ranks.main" in " ".join(child.cmdline())]
        return len(ranks_of_it) >= 2

    wait_until(has_ranks, 60)
    time.sleep(3)  # also ranks that have not begun must end, but these train
    training.kill()
    training.communicate()
    wait_until(lambda: not any(rank.is_running() for rank in ranks_of_it), 10)


@pytest.mark.parametrize("mpi", BOTH, indirect=True)
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),  # mpiexec ends the ranks
        pytest.param(signal.SIGUSR1, marks=pytest.mark.long),  # it forwards it
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),  # it dies of it
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),  # as SIGTERM
    ],
)
def test_a_signal_to_mpiexec_stops_the_search(tmp_path, number, mpi):
    search, folder = started(tmp_path, *SLOW, "--trials", "10")
    (mpiexec,) = [p for p in psutil.Process(search.pid).children() if p.name() in ("mpiexec", "prterun")]
    mpiexec.send_signal(number)
    assert end(search, timeout=20).returncode == 75
    assert read(tmp_path)[1].state == "stopped"
    wait_until(lambda: not any(psutil.pid_exists(line["process"]) for line in journal_lines(folder, "host")), 10)


@pytest.mark.long
def test_a_database_locked_for_ten_seconds_stops_nothing_and_loses_nothing(tmp_path):
    search, folder = started(tmp_path, *SLOW, "--trials", "60", "--islands", "2")
    lock = sqlite3.connect(tmp_path / "atoll.db", isolation_level=None, timeout=30)
    lock.execute("BEGIN EXCLUSIVE")
    locked_at, before = time.monotonic(), len(journal_lines(folder, "progress"))
    wait_until(lambda: time.monotonic() - locked_at > 10)
    while_locked = len(journal_lines(folder, "progress")) - before
    stored = lock.execute("SELECT count(*) FROM progress").fetchone()[0]
    lock.execute("COMMIT")
    lock.close()
    assert while_locked > 5  # training went on; on cores of its own, there are more than 20 reports
    assert stored < before + while_locked
    called("stop", "s", cwd=tmp_path)
    assert end(search).returncode == 75
    store, study = read(tmp_path)
    assert len(store.progress([t.id for t in store.trials(study)])) == len(journal_lines(folder, "progress"))
    assert len(store.trials(study)) == len(journal_lines(folder, "trial_started"))


@pytest.mark.parametrize("mpi", BOTH, indirect=True)
def test_inside_someones_own_mpirun(tmp_path, mpi):
    arguments = ("-m", "atoll.platform.cli", *FLAGS, "--trials", "3", "--islands", "2", "--ranks", "1")
    done = ranks.mpiexec(2, *arguments, env={"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3/3 trials, best accuracy" in done.stdout  # by rank 0, which has no terminal
    _, _, trials = check_complete(tmp_path, 3)
    check_mpi_is_named(trials, mpi)


@pytest.mark.long
def test_inside_someones_own_mpirun_with_workers_of_two_ranks(tmp_path):
    arguments = ("-m", "atoll.platform.cli", *FLAGS, "--trials", "4", "--islands", "2", "--ranks", "2")
    done = ranks.mpiexec(4, *arguments, env={"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_complete(tmp_path, 4)
    finished = ranks.mpiexec(
        4, *arguments, "--continue", env={"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("s is complete: it has used its budget of 4 trials") == 1


@pytest.mark.long
def test_inside_a_world_of_another_size(tmp_path):
    done = ranks.mpiexec(2, "-m", "atoll.platform.cli", *FLAGS, "--islands", "2", "--ranks", "2", cwd=tmp_path)
    assert done.returncode != 0
    assert "the search needs 4 ranks (2 islands x 1 worker x 2 ranks) but MPI started 2" in done.stderr
    assert not (tmp_path / "atoll-studies").exists()


@pytest.mark.long
@pytest.mark.may_skip
def test_a_full_disk_stops_the_search_with_a_clear_error(tmp_path):
    with disks.small(tmp_path / "small", "2m") as disk:
        write(tmp_path, method="ddp", trials=2000, folder=str(disk / "s"))
        search = start("search", "s.yaml", cwd=tmp_path)
        wait_until(lambda: journal_lines(disk / "s", "trial_started"))
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 80 * 1024))  # somebody else's
        done = end(search)
        assert done.returncode == 1
        assert "a journal cannot be written (" in done.stdout
        assert "free some disk space, then continue with --resume" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
        # What was recorded stays readable, and is in the store.
        called("record", disk / "s", cwd=tmp_path)
        store, row = read(tmp_path)
        lines = {line["number"] for line in journal_lines(disk / "s", "trial_ended")}
        assert len(lines) > 5
        assert {t.number for t in store.trials(row) if t.state in ("complete", "failed")} == lines
