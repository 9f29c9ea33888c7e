"""How a trial ended, from its ranks' reports: a test for each state."""

import pytest

from atoll.communication.communicator import PeerAborted
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.failure import reason_of
from atoll.platform.trial.outcome import Outcome, Report, Stopped, TrialTimeout, outcome_of
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.trial import Diverged


def progress(epoch, metric, **metrics):
    return Progress(
        step=10 * epoch,
        epoch=epoch,
        seconds=0.5 * epoch,
        train_loss=1.0 / epoch,
        validation_loss=2.0 / epoch,
        metric=metric,
        learning_rate=0.1,
        wire_bytes=40.0 * epoch,
        metrics=metrics,
        last=epoch == 2,
    )


CONFIGURATION = Configuration(workload="digits_mlp", method="ddp")
SEEN = [progress(1, 0.5), progress(2, 0.75, stability=0.2, **{"stability/0": 0.1})]


def reports(*errors, **fields):
    """One report for each rank: with an exception, or None."""
    return [
        Report(
            rank,
            "host",
            error="" if error is None else type(error).__name__,
            reason="" if error is None else f"{type(error).__name__}: {error}",
            traceback="" if error is None else "Traceback",
            peak_memory=100 * (rank + 1),
            seconds={"compute": 1.0 + rank},
            **fields,
        )
        for rank, error in enumerate(errors)
    ]


def test_complete():
    outcome = outcome_of(reports(None, None), SEEN, CONFIGURATION)
    assert (outcome.state, outcome.objective, outcome.reason) == ("complete", 0.75, None)
    assert (outcome.seconds, outcome.peak_memory) == (1.0, 200.0)
    assert outcome.metrics == {
        "train_loss": 0.5,
        "validation_loss": 1.0,
        "stability": 0.2,  # a single layer's value stays in the curve
        "seconds_compute": 1.5,  # the mean of the ranks
    }


@pytest.mark.parametrize(("kind", "objective"), [("last", 0.7), ("best", 0.75)])
def test_the_objective_is_the_last_or_the_best_of_the_curve(kind, objective):
    configuration = Configuration(workload="digits_mlp", method="ddp", objective_from=kind)
    seen = [progress(1, 0.5), progress(2, 0.75), progress(3, None), progress(4, 0.7)]
    assert outcome_of(reports(None), seen, configuration).objective == objective


def test_pruned():
    outcome = outcome_of(reports(None, is_pruned=True), SEEN[:1], CONFIGURATION)
    assert (outcome.state, outcome.objective, outcome.reason) == ("pruned", None, "pruned after epoch 1")
    assert outcome.curve == {1: 0.5}


def test_failed_by_the_rank_that_raised_first_and_not_by_those_that_heard_of_it():
    outcome = outcome_of(reports(PeerAborted(1), RuntimeError("broken"), PeerAborted(1)), SEEN[:1], CONFIGURATION)
    assert (outcome.state, outcome.objective) == ("failed", None)
    assert outcome.reason == "RuntimeError: broken (rank 1 on host)"
    assert outcome.traceback == "Traceback"
    assert outcome.metrics == {}


@pytest.mark.parametrize("error", [Diverged("diverged at step 3"), TrialTimeout("stopped after trial_timeout")])
def test_failed_as_expected_needs_no_traceback(error):
    outcome = outcome_of(reports(error), [], CONFIGURATION)
    assert (outcome.state, outcome.traceback, outcome.seconds) == ("failed", None, 0.0)


def test_lost_if_it_was_asked_to_stop():
    outcome = outcome_of(reports(Stopped("the search was asked to stop"), PeerAborted(0)), SEEN[:1], CONFIGURATION)
    assert (outcome.state, outcome.objective, outcome.traceback) == ("lost", None, None)


def test_traffic_is_summed_over_ranks():
    row = {"operation": "sum", "scope": "node", "payload_bytes": 8, "overlapped": False, "count": 2}
    both = reports(None, None, ledger=[row | {"wire_bytes": 16.0, "seconds_waited": 0.25}])
    outcome = outcome_of(both, SEEN, CONFIGURATION)
    assert outcome.wire_bytes == 32.0
    assert outcome.ledger[0]["count"] == 4


def test_the_journals_line_has_all_objectives_if_there_are_several():
    outcome = Outcome("complete", 0.5, {}, 1.0, 0.0, [], 0.0)
    assert outcome.as_event(3, 1, worker_seconds=2.0).objectives is None
    event = outcome.as_event(3, 1, objectives=(0.5, 7.0), worker_seconds=2.0)
    assert (event.number, event.attempt, event.objectives, event.worker_seconds) == (3, 1, [0.5, 7.0], 2.0)


def test_a_message_that_begins_with_blank_lines_is_shown():
    assert reason_of(RuntimeError("\n\n  the reason\n")) == "RuntimeError: the reason"
