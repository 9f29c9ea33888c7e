"""Trials in processes of their own: the same results, and nothing that a trial does to its process reaches another."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest
from commands import wait_until
from ranks import SUPPORT

from atoll.communication.thread_world import run_in_threads
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial import trial_process
from atoll.platform.trial.fork_server import ForkServer, ServerEnded, ending
from atoll.platform.trial.outcome import Stopped, TrialTimeout
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker

pytestmark = pytest.mark.process

MISBEHAVING = f"{SUPPORT / 'misbehaving.py'}:Misbehaving"


@pytest.fixture
def servers():
    """Makes the fork servers of so many ranks; they end with the test, and leave nothing."""
    made = []

    def make(size):
        made.extend(ForkServer.start(trial_process.main) for _ in range(size))
        return made

    before = set(psutil.Process().children(recursive=True))
    yield make
    for server in made:
        server.close()
    assert not set(psutil.Process().children(recursive=True)) - before


def outcomes(configurations, servers=(), hooks=None, silence=60.0):
    """What becomes of each configuration, one after the other, on a worker whose ranks are threads."""
    done, (size,) = [], {configuration.ranks for configuration in configurations}

    def rank(world):
        places = arrange(Shape((1,), size), [HostFacts("host", {0})] * size, ranks_per_node=1, threads=1)
        server = servers[world.rank] if servers else None
        if server is not None:
            some = configurations[0]
            server.prepare(some.method, some.workload, None, 1, world.check)
        worker = Worker(world, places, spin=False, serve=world.check, server=server, silence=silence)
        if not worker.is_root:
            worker.obey()
            return
        for configuration in configurations:
            seen = []
            callbacks = hooks(seen) if hooks else Hooks(on_progress=seen.append)
            done.append((worker.evaluate(configuration, callbacks), seen))
        worker.dismiss()
        worker.close()

    run_in_threads(size, rank)
    return done


def configuration(method, ranks, *, workload="digits_mlp", seed=0, epochs=1, **hyperparameters):
    return Configuration(
        workload=workload,
        method=method,
        hyperparameters={"learning_rate": 0.05} | hyperparameters,
        ranks=ranks,
        epochs=epochs,
        seed=seed,
        device="cpu",
    )


def comparable(outcome, seen):
    """All but times and what is derived from them, which a curve and a trace have too."""
    of_time = ("seconds", "idle", "predicted", "measured")
    metrics = {name: value for name, value in outcome.metrics.items() if not name.startswith(of_time)}
    ledger = [{name: value for name, value in row.items() if name != "seconds_waited"} for row in outcome.ledger]
    # Which wait finds an operation complete depends on time.
    events = [[event for pattern in trace["patterns"] for event in pattern["events"]] for trace in outcome.traces]
    traces = [sorted({str(event) for event in some if event[0] == "post"}) for some in events]
    curve = [(p.step, p.epoch, p.train_loss, p.metric, p.wire_bytes, p.learning_rate, p.last) for p in seen]
    return outcome.state, outcome.objective, outcome.reason, outcome.notes, metrics, ledger, traces, curve


@pytest.mark.parametrize(
    ("method", "ranks", "hyperparameters"),
    [
        ("easgd", 1, {"tau": 1}),  # its center serves itself
        ("easgd", 2, {"form": "jacobi", "tau": 2}),
        ("daso", 2, {}),
        ("ef_signsgd", 2, {}),
        ("dni", 1, {}),
        pytest.param("oialr", 2, {}, marks=pytest.mark.long),
        pytest.param("mac", 2, {}, marks=pytest.mark.long),
        pytest.param("daso", 4, {}, marks=pytest.mark.long),
        pytest.param("powersgd", 3, {}, marks=pytest.mark.long),
    ],
)
def test_results_are_those_of_trials_in_the_ranks(servers, method, ranks, hyperparameters):
    some = [configuration(method, ranks, seed=seed, epochs=2, **hyperparameters) for seed in (0, 1)]
    apart, here = outcomes(some, servers(ranks)), outcomes(some)
    assert [comparable(*one) for one in apart] == [comparable(*one) for one in here]
    assert {outcome.state for outcome, _ in here} == {"complete"}


@pytest.mark.parametrize("method", ["easgd", pytest.param("dni", marks=pytest.mark.long)])
def test_asynchronous_ranks_send_as_much(servers, method):
    """Their results depend on who comes first."""
    some = [configuration(method, 2, epochs=2)]
    ((apart, _),), ((here, _),) = outcomes(some, servers(2)), outcomes(some)
    assert (apart.state, here.state) == ("complete", "complete")
    assert apart.wire_bytes == here.wire_bytes > 0
    assert [(r["operation"], r["count"]) for r in apart.ledger] == [(r["operation"], r["count"]) for r in here.ledger]


@pytest.fixture
def misbehave(tmp_path, monkeypatch):
    """Lets trials misbehave, by their numbers; call it before the servers start."""
    monkeypatch.setenv("MARKS", str(tmp_path))

    def set_kinds(*kinds):
        monkeypatch.setenv("MISBEHAVE", json.dumps({str(n): kind for n, kind in enumerate(kinds) if kind}))
        numbers = range(len(kinds))
        return [configuration("local_sgd", 2, workload=MISBEHAVING, seed=number) for number in numbers]

    return set_kinds


def test_no_crash_and_no_change_reaches_another_trial_or_the_rank(servers, misbehave, tmp_path):
    some = misbehave("segfault", None, "quit", "kill", "change", None, "babble")
    made = servers(2)
    before = Path.cwd(), len(os.listdir("/proc/self/fd"))
    done = [outcome for outcome, _ in outcomes(some, made)]
    reasons = [outcome.reason or "" for outcome in done]
    assert [outcome.state for outcome in done] == [
        "failed", "complete", "failed", "failed", "failed", "complete", "failed",
    ]  # fmt: skip
    assert "ProcessDied: the trial's process was ended by SIGSEGV (Segmentation fault) before" in reasons[0]
    assert "misbehaving.py" in done[0].traceback  # where it crashed
    assert "in segfault" in done[0].traceback
    assert "ProcessDied: the trial's process ended with exit code 0 before it had reported" in reasons[2]
    assert "was ended by SIGKILL (Killed: by the system if memory was short, or by a user)" in reasons[3]
    assert "TypeError" in reasons[4]
    assert any("left 1 process that" in note for note in done[4].notes)
    left = int((tmp_path / "left").read_text())
    assert not psutil.pid_exists(left)
    assert "JSONDecodeError" in reasons[6]
    assert (Path.cwd(), len(os.listdir("/proc/self/fd"))) == before
    # As without the others.
    ((alone, _),) = outcomes([configuration("local_sgd", 2, seed=5)])
    assert (done[5].objective, done[5].wire_bytes) == (alone.objective, alone.wire_bytes)


@pytest.mark.parametrize("peer", ["late", "never"])
def test_a_process_that_dies_in_a_split_leaves_no_peer_in_it(servers, monkeypatch, peer):
    """All ranks have to come to a split that has begun: its rank stays there, unless a peer gives up, too."""
    monkeypatch.setenv("SPLIT", peer)
    method = f"{SUPPORT / 'misbehaving.py'}:Splitting"
    (died, _), (next_one, _) = outcomes([configuration(method, 2, seed=seed) for seed in (0, 1)], servers(2))
    assert (died.state, next_one.state) == ("failed", "complete")
    assert "was ended by SIGKILL" in died.reason


def test_a_trial_that_never_polls_is_killed_at_its_timeout(servers, misbehave, monkeypatch):
    monkeypatch.setattr(trial_process, "GRACE", 0.3)
    some = misbehave("hang", None)
    started = []

    def hooks(seen):
        started.append(time.monotonic())
        limit = TrialTimeout("the trial was stopped after trial_timeout (1 s)")
        overdue = lambda: limit if len(started) == 1 and time.monotonic() > started[0] + 1 else None  # noqa: E731
        return Hooks(on_progress=seen.append, interrupt=overdue)

    (hung, _), (next_one, _) = outcomes(some, servers(2), hooks)
    assert (hung.state, next_one.state) == ("failed", "complete")
    assert hung.reason.startswith("TrialTimeout: the trial was stopped after trial_timeout (1 s) (rank 0")
    assert time.monotonic() - started[0] < 30


def test_a_process_that_closes_its_channel_and_goes_on_is_killed(servers, misbehave, monkeypatch):
    monkeypatch.setattr(trial_process, "GRACE", 0.3)
    (cut, _), (next_one, _) = outcomes(misbehave("close_files", None), servers(2))
    assert (cut.state, next_one.state) == ("failed", "complete")
    assert "ProcessDied: the trial's process closed its channel, went on, and was killed" in cut.reason


def test_a_process_that_makes_no_progress_is_killed(servers, misbehave):
    (hung, _), (next_one, _) = outcomes(misbehave("hang", None), servers(2), silence=2.0)
    assert (hung.state, next_one.state) == ("failed", "complete")
    assert (
        "ProcessSilent: the trial made no progress for 2 s (heartbeat_timeout); its process was killed" in hung.reason
    )


def test_a_stopped_trial_is_lost_and_a_pruned_one_keeps_its_curve(servers):
    some = [configuration("local_sgd", 2, seed=seed, epochs=3) for seed in range(2)]
    calls = []

    def hooks(seen):
        calls.append(seen)
        if len(calls) == 1:
            return Hooks(on_progress=seen.append, interrupt=lambda: Stopped("asked to stop") if seen else None)
        return Hooks(on_progress=seen.append, prunes=lambda progress: progress.epoch == 2)

    (stopped, _), (pruned, seen) = outcomes(some, servers(2), hooks)
    assert (stopped.state, stopped.reason.partition(" (rank")[0]) == ("lost", "Stopped: asked to stop")
    assert (pruned.state, pruned.reason, list(pruned.curve)) == ("pruned", "pruned after epoch 2", [1, 2])
    assert [progress.epoch for progress in seen] == [1, 2]


def test_a_server_that_dies_is_told(servers):
    (server,) = servers(1)
    os.kill(server.process, 9)
    with pytest.raises(ServerEnded, match="forked was ended by SIGKILL"):
        server.prepare("ddp", "digits_mlp", None, 1, lambda: None)
    with pytest.raises(ServerEnded, match="forked was ended by SIGKILL"):
        server.ended()  # the system tells its end once only
    assert ending(3) == "ended with exit code 3"
    assert ending(-40) == "was ended by signal 40"


def test_server_and_trial_end_with_their_rank(tmp_path):
    """The rank is a process that is killed with SIGKILL while its trial hangs, and has started another process."""
    rank = os.fork()
    if rank == 0:
        server = ForkServer.start(_hang)
        server.prepare("ddp", "digits_mlp", None, 1, lambda: None)
        server.start_trial()
        time.sleep(600)
    processes = []

    def are_there():
        processes[:] = psutil.Process(rank).children(recursive=True)
        return len(processes) == 3

    wait_until(are_there)
    os.kill(rank, 9)
    os.waitpid(rank, 0)
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert (len(gone), alive) == (3, [])


def _hang(_channel):
    import subprocess

    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    time.sleep(600)
