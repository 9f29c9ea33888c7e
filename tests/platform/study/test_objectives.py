"""Objectives: what a trial reports, directions, and targets."""

import math
from types import SimpleNamespace

import pytest

from atoll.platform.study import objectives, registry
from atoll.platform.study.objectives import Objective, TargetClock

DIGITS = registry.workload("digits_mlp")
ETT = registry.workload("ett_autoformer")


def of(*names):
    return [Objective(name=name) for name in names]


def test_the_workloads_metric_unless_some_are_given():
    assert objectives.resolve(None, DIGITS) == (Objective(name="accuracy", direction="maximize"),)


def test_directions_follow_from_the_names():
    found = objectives.resolve(of("accuracy", "validation_error", "bytes_sent"), DIGITS)
    assert [o.direction for o in found] == ["maximize", "minimize", "minimize"]
    further = next(iter(ETT.further_metrics))
    with pytest.raises(ValueError, match=f"the objective {further} needs a direction, minimize or maximize"):
        objectives.resolve(of(further), ETT)
    given = objectives.resolve([Objective(name=further, direction="minimize")], ETT)
    assert given[0].direction == "minimize"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (of("f1"), "an objective must be one of accuracy, validation_error, validation_loss, .*; got 'f1'"),
        (of("seconds", "seconds"), "objectives must differ; got seconds, seconds"),
        ([Objective(name="seconds", direction="maximize")], "the direction of seconds must be minimize; got maximize"),
    ],
)
def test_objectives_that_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        objectives.resolve(given, DIGITS)


def test_a_target_is_needed_where_one_is_asked_for():
    speech = registry.workload("speech_transformer")
    assert speech.target is None
    with pytest.raises(ValueError, match="seconds_to_target needs a target, but the workload has none"):
        objectives.resolve(of("seconds_to_target"), speech)


def test_values_and_losses():
    outcome = SimpleNamespace(
        objective=0.75, metrics={"train_loss": 0.5}, seconds=3.0, wire_bytes=100.0, peak_memory=7.0
    )
    resolved = objectives.resolve(of("accuracy", "validation_error", "steps_to_target", "bytes_sent"), DIGITS)
    clock = TargetClock(DIGITS)
    found = objectives.values(resolved, DIGITS, outcome, clock)
    assert found == [0.75, 0.25, math.inf, 100.0]
    assert objectives.losses(resolved, found) == (-0.75, 0.25, math.inf, 100.0)
    assert objectives.losses(resolved[2:3], [None]) == (math.inf,)  # as JSON gives it back


def test_a_pruned_trials_curve_is_minimized_like_its_objective():
    curve = {2: 0.75, 1: 0.25}
    (metric,) = objectives.resolve(of("accuracy"), DIGITS)
    (error,) = objectives.resolve(of("validation_error"), DIGITS)
    assert objectives.curve_losses(metric, DIGITS, curve) == {1: -0.25, 2: -0.75}
    assert objectives.curve_losses(error, DIGITS, curve) == {1: 0.75, 2: 0.25}
    (mse,) = objectives.resolve(None, ETT)
    assert objectives.curve_losses(mse, ETT, {1: 0.5}) == {1: 0.5}
    # A metric that is NaN counts the same before a search is stopped and, from the journal, once it is resumed.
    for missing in (math.nan, None):
        assert objectives.curve_losses(metric, DIGITS, {1: missing}) == {1: math.inf}
        assert objectives.curve_losses(error, DIGITS, {1: missing}) == {1: math.inf}


def test_the_clock_stops_at_the_first_report_that_meets_the_target():
    clock = TargetClock(DIGITS)
    for step, metric in enumerate((0.9, 0.97, 0.99), 1):
        clock.see(metric, seconds=step / 2, step=step)
    assert (clock.seconds, clock.steps) == (1.0, 2.0)
    lower = TargetClock(SimpleNamespace(target=0.4, direction="minimize"))
    lower.see(0.5, 1.0, 10)
    lower.see(0.4, 2.0, 20)
    assert lower.steps == 20
