"""Workers whose ranks raise: peers are interrupted in whatever they wait for, and the next trial is none the wiser."""

import json
import os

import aborting
import pruning_ranks
import pytest
import ranks

from atoll.communication.thread_world import run_in_threads
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker
from atoll.storage.text import REASON_LIMIT, TRACEBACK_LIMIT

WAITING = """
import os, resource, time, torch
from mpi4py import MPI
from atoll.communication.communicator import Ledger
from atoll.communication.mpi import MpiCommunicator, MpiFamily
torch.set_num_threads(1)
world, family = MPI.COMM_WORLD, MpiFamily()
c = MpiCommunicator(world.Dup(), [0] * world.size, ledger=Ledger(), poll=lambda: None, spin=False, family=family)
c.barrier()
if c.rank == 0:
    time.sleep(1.0)
    c.sum(torch.ones(10))
else:
    before = time.process_time()
    c.sum(torch.ones(10))
    print((time.process_time() - before) / c.ledger.seconds_waited(), flush=True)
family.close()
"""


def on_threads(size, function):
    """What a function of a world returns on rank 0."""
    returned = {}
    run_in_threads(size, lambda world: returned.update({world.rank: function(world)}))
    return returned[0]


def check_pruned(outcomes):
    assert len(outcomes) > 12
    for name, (state, reason, epochs, after, why) in outcomes.items():
        assert (state, reason, epochs) == ("pruned", "pruned after epoch 1", [1]), name
        assert after == "complete", (name, why)


@pytest.mark.slow
def test_every_method_can_be_pruned_with_what_it_has_under_way():
    check_pruned(on_threads(2, lambda world: pruning_ranks.prune_every_method(world, world.check)))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_rank_that_raises_interrupts_its_peers_in_every_operation(num_ranks):
    slowest = on_threads(
        num_ranks, lambda world: aborting.abort_trials(world, 4 * len(aborting.OPERATIONS), world.check)
    )
    assert set(slowest) == set(aborting.OPERATIONS)


@pytest.mark.mpi
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("num_ranks", "num_trials", "spare"),
    [
        (3, 36, 16),  # each operation with each rank as the one that raises
        # Each operation's 15 trials would need more communicators than are left if one in two kept one.
        pytest.param(3, 180, 6, marks=pytest.mark.long),
        # With all of MPICH's 2,044; two a trial.
        pytest.param(3, 5000, None, marks=pytest.mark.soak),
        pytest.param(2, 5000, None, marks=pytest.mark.soak),
    ],
)
def test_aborted_trials_give_everything_back(num_ranks, num_trials, spare):
    arguments = [str(number) for number in (num_trials, spare) if number is not None]
    done = ranks.mpiexec(num_ranks, str(ranks.SUPPORT / "aborting.py"), *arguments, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    slowest = json.loads(done.stdout.splitlines()[-1])
    print(f"slowest of {num_trials} aborted trials: {max(slowest.values()):.3f} s ({max(slowest, key=slowest.get)})")
    # The promise is a second; a trial's set-up is within it here.
    assert all(seconds < 1.0 for seconds in slowest.values()), slowest


@pytest.mark.mpi
def test_a_waiting_rank_leaves_the_core_to_others():
    done = ranks.mpiexec(2, "-c", WAITING)
    assert done.returncode == 0, done.stderr
    # The promise is a fifth of a core.
    assert float(done.stdout) < 0.2


@pytest.mark.mpi
@pytest.mark.long
def test_every_method_can_be_pruned_over_mpi():
    done = ranks.mpiexec(2, str(ranks.SUPPORT / "pruning_ranks.py"), timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    check_pruned(json.loads(done.stdout.splitlines()[-1]))


def outcomes_of(world, *raised, method="local_sgd"):
    """The outcomes of trials that raise each of these, and of one that raises nothing, on one worker."""
    places = arrange(Shape((1,), world.size), [HostFacts("host", {0, 1})] * world.size, ranks_per_node=1)
    worker = Worker(world, places, spin=False, serve=world.check)
    if not worker.is_root:
        worker.obey()
        return None
    outcomes = {}
    for name in (*raised, "none"):
        os.environ["RAISED"] = name
        configuration = Configuration(
            workload=f"{ranks.SUPPORT / 'raising.py'}:Raising",
            method=method,
            hyperparameters={"batch_size": 2},
            ranks=world.size,
        )
        outcomes[name] = worker.evaluate(configuration, Hooks())
    worker.dismiss()
    worker.close()
    return outcomes


@pytest.fixture
def _raised(monkeypatch):
    monkeypatch.setenv("RAISED", "none")


@pytest.mark.usefixtures("_raised")
def test_whatever_user_code_raises_fails_its_trial_only():
    reasons = {
        "exit": "SystemExit: 2",
        "exit_zero": "SystemExit: 0",
        "interrupt": "KeyboardInterrupt: ",
        "generator": "GeneratorExit: ",
        "base": "OwnBaseError: b",
        "mute": "MuteError: its message cannot be shown, as its __str__ raises RuntimeError",
        "mute_exit": "MuteExit: its message cannot be shown, as its __str__ raises SystemExit",
        "named_stopped": "Stopped: s",
    }
    outcomes = on_threads(2, lambda world: outcomes_of(world, *reasons))
    assert outcomes.pop("none").state == "complete"
    for name, outcome in outcomes.items():
        assert outcome.state == "failed", name
        assert outcome.reason.startswith(f"{reasons[name]} (rank "), name
        assert "raise error" in outcome.traceback, name


@pytest.mark.usefixtures("_raised")
def test_reasons_and_tracebacks_are_storable_and_cut():
    outcomes = on_threads(1, lambda world: outcomes_of(world, "surrogate", "long"))
    assert outcomes["surrogate"].reason == "FileNotFoundError: no such image: caf\ufffd.png (rank 0 on host)"
    assert "caf\ufffd.png" in outcomes["surrogate"].traceback
    cut = outcomes["long"]
    assert len(cut.reason) < REASON_LIMIT + 100
    assert cut.reason.startswith("ValueError: aaa")
    assert "characters cut ...]" in cut.reason
    assert cut.reason.endswith("aaaend (rank 0 on host)")
    assert len(cut.traceback) < TRACEBACK_LIMIT + 100
    assert cut.traceback.startswith("Traceback (most recent call last)")


@pytest.mark.usefixtures("_raised")
def test_notes_and_metrics_of_other_types_are_told_as_text_and_numbers():
    (outcome,) = on_threads(1, lambda world: outcomes_of(world, method=f"{ranks.SUPPORT / 'raising.py'}:Odd")).values()
    event = outcome.as_event(0, 0)
    assert event.notes[:2] == ["7", "caf\ufffd"]
    assert (event.metrics["one"], event.metrics["two"]) == (1.0, 2.0)


@pytest.mark.usefixtures("_raised")
def test_what_a_trial_changes_is_put_back_and_noted_once_for_all_ranks():
    outcomes = on_threads(2, lambda world: outcomes_of(world, "changes"))
    assert outcomes["changes"].notes.count("the trial changed numpy's handling of errors (over); put back") == 1
    assert outcomes["changes"].state == "complete"
    assert not any("changed" in note for note in outcomes["none"].notes)


def test_empty_validation_data_are_told_and_not_called_diverged():
    def outcome(world):
        places = arrange(Shape((1,), 1), [HostFacts("host", {0})], ranks_per_node=1)
        worker = Worker(world, places, spin=False)
        workload = f"{ranks.SUPPORT / 'raising.py'}:NothingToValidate"
        return worker.evaluate(
            Configuration(workload=workload, method="local_sgd", hyperparameters={"batch_size": 2}), Hooks()
        )

    found = on_threads(1, outcome)
    assert found.reason.startswith("ValueError: the validation data of NothingToValidate must have at least one sample")
