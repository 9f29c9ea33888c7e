"""From outcomes to what the search minimizes."""

import math

import pytest

from atoll.platform.search.scoring import Scoring
from atoll.platform.study import registry
from atoll.platform.study.objectives import Objective, resolve
from atoll.platform.trial.outcome import Outcome


def scoring(*names):
    workload = registry.workload("digits_mlp")
    return Scoring(resolve([Objective(name=name) for name in names], workload), workload)


def complete(accuracy=0.75, **changes):
    content = {"state": "complete", "objective": accuracy, "metrics": {"train_loss": 0.5, "validation_loss": 0.25}}
    content |= {"seconds": 2.0, "wire_bytes": 80.0, "ledger": [], "peak_memory": 0.0}
    return Outcome(**content | changes)


def judged(of, outcome):
    return of.judge(outcome, of.clock())


def test_the_workloads_metric_is_the_objective_by_default():
    of = scoring()
    outcome, values = judged(of, complete())
    assert (outcome.objective, values) == (0.75, [0.75])
    assert "accuracy" not in outcome.metrics
    assert of.losses("complete", values, None) == ((-0.75,), {})


def test_another_objective_takes_its_place_and_the_metric_stays_on_record():
    of = scoring("validation_loss", "bytes_sent")
    outcome, values = judged(of, complete())
    assert (outcome.objective, values) == (0.25, [0.25, 80.0])
    assert outcome.metrics == {"accuracy": 0.75, "train_loss": 0.5}
    assert of.losses("complete", values, None) == ((0.25, 80.0), {})


def test_an_objective_that_is_nan_fails_the_trial():
    outcome, values = judged(scoring("train_loss"), complete(metrics={"train_loss": math.nan}))
    assert (outcome.state, outcome.objective, outcome.reason, values) == ("failed", None, "train_loss is NaN", [])


def test_a_trial_without_the_value_of_an_objective_fails():
    workload, method = registry.workload("digits_mlp"), registry.method("oialr")
    of = Scoring(resolve([Objective(name="compression")], workload, method), workload)
    outcome, values = judged(of, complete())
    assert (outcome.state, outcome.objective, values) == ("failed", None, [])
    assert outcome.reason.startswith("ValueError: the trial has ended without the objective compression; it reported ")
    assert judged(of, complete(metrics={"compression": 3.0}))[1] == [3.0]


@pytest.mark.parametrize("state", ["failed", "lost"])
def test_what_was_not_trained_has_no_loss(state):
    of = scoring()
    outcome, values = judged(of, complete(state=state, objective=None))
    assert (outcome.state, values) == (state, [])
    assert of.losses(state, [], None) == (None, {})


def test_a_pruned_trial_has_the_last_value_of_its_curve():
    losses, curve = scoring().losses("pruned", [], {1: 0.5, 3: 0.625, 2: 0.75})
    assert losses == (-0.625,)
    assert curve == {1: -0.5, 2: -0.75, 3: -0.625}
    assert scoring().losses("pruned", [], {}) == (None, {})
