"""Objectives: what a trial reports, directions, and targets."""

import math
import re
from types import SimpleNamespace
from typing import ClassVar

import pytest

from atoll.methods.sequential.sgd import Sgd
from atoll.platform.study import objectives, registry
from atoll.platform.study.objectives import NotReported, Objective, TargetClock
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study

DIGITS = registry.workload("digits_mlp")
ETT = registry.workload("ett_autoformer")
STUDY = {"name": "s", "workload": "digits_mlp", "method": "ddp"}


def of(*names):
    return [Objective(name=name) for name in names]


def test_the_workloads_metric_unless_some_are_given():
    assert objectives.resolve(None, DIGITS) == (Objective(name="accuracy", direction="maximize"),)


def test_directions_follow_from_the_names():
    found = objectives.resolve(of("accuracy", "validation_error", "bytes_sent"), DIGITS)
    assert [o.direction for o in found] == ["maximize", "minimize", "minimize"]
    assert objectives.resolve(of("mae"), ETT)[0].direction == "minimize"
    (share, compression) = objectives.resolve(of("trainable_share", "compression"), DIGITS, registry.method("oialr"))
    assert (share.direction, compression.direction) == ("minimize", "maximize")


def test_a_direction_that_does_not_follow_from_the_name_must_be_given():
    ab = registry.method("ab")
    with pytest.raises(ValueError, match=r"group_share needs a direction, .*: {group_share: minimize}"):
        objectives.resolve(of("group_share"), DIGITS, ab)
    given = Study.model_validate(STUDY | {"objectives": [{"group_share": "minimize"}, {"name": "seconds"}]})
    assert given.objectives == [Objective(name="group_share", direction="minimize"), Objective(name="seconds")]
    assert objectives.resolve(given.objectives, DIGITS, ab)[0].direction == "minimize"
    with pytest.raises(ValueError, match="'minimize' or 'maximize'"):
        Study.model_validate(STUDY | {"objectives": [{"group_share": "smaller"}]})


class Mine(Sgd):
    metric_directions: ClassVar = {"share": "minimize", "speed": "maximize", "phase": None}


class OwnWorkload(type(DIGITS)):
    """Reports a further metric, and another one of all samples."""

    further_metrics: ClassVar = {"top_2": lambda outputs, targets: None}
    metric_directions: ClassVar = {"top_2": "maximize", "macro_f1": "maximize"}


def test_metrics_of_ones_own_method_and_workload():
    given = [*of("share", "speed", "top_2", "macro_f1"), Objective(name="phase", direction="maximize")]
    found = objectives.resolve(given, OwnWorkload(), Mine)
    assert [one.direction for one in found] == ["minimize", "maximize", "maximize", "maximize", "maximize"]
    with pytest.raises(ValueError, match="the direction of share must be minimize; got maximize"):
        objectives.resolve([Objective(name="share", direction="maximize")], DIGITS, Mine)


def test_what_ones_own_class_does_not_declare_says_how_to():
    message = "must be one of .*phase.*; got 'size'. If OwnWorkload or Mine reports it, declare that in the class: "
    with pytest.raises(ValueError, match=message + re.escape('metric_directions = {"size": "minimize"}')):
        objectives.resolve(of("size"), OwnWorkload(), Mine)
    with pytest.raises(ValueError, match=r"got 'size'$"):
        objectives.resolve(of("size"), DIGITS, registry.method("oialr"))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (["share"], "metric_directions of the method must be a dict of names and directions; got list"),
        ({"share": "smaller"}, "of the method must be minimize, maximize or None; got 'smaller' for share"),
        ({"share/layer": "minimize"}, "of the method must name metrics of its own, without a slash.*'share/layer'"),
        ({"accuracy": "maximize"}, "of the method must name metrics of its own, .*got 'accuracy'"),
        ({"loss": None}, "of the method must name metrics of its own, .*got 'loss'"),
        ({"peak_memory": None}, "of the method must name metrics of its own, .*got 'peak_memory'"),
        ({"top_2": "maximize"}, "method and workload must not both report top_2: rename one"),
    ],
)
def test_what_cannot_be_declared(declared, message):
    class Wrong(Sgd):
        metric_directions: ClassVar = declared

    with pytest.raises(ValueError, match=message):
        objectives.resolve(None, OwnWorkload(), Wrong)  # even if no objective names them


@pytest.mark.parametrize(
    ("name", "settings"),
    [("checkpoint_bytes", {"checkpoint": {"every": "1 epoch"}}), ("scaled_traffic", {"observe": 1})],
)
def test_what_is_reported_only_with_a_setting(name, settings):
    study = STUDY | {"objectives": [name]}
    with pytest.raises(ValueError, match=f"{name} is reported only with `{next(iter(settings))}`"):
        Plan.of(Study.model_validate(study))
    assert Plan.of(Study.model_validate(study | settings)).aim == (name, "minimize")


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
    assert objectives.values(of("peak_memory", "train_loss"), DIGITS, outcome, clock) == [7.0, 0.5]
    with pytest.raises(NotReported, match="ended without the objective compression; it reported train_loss, accuracy"):
        objectives.values(of("accuracy", "compression"), DIGITS, outcome, clock)


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
        clock.see(metric, seconds=step / 2, step=step, passes=32.0 * step)
    assert (clock.seconds, clock.steps, clock.passes) == (1.0, 2.0, 64.0)
    outcome = SimpleNamespace(objective=0.99, metrics={}, seconds=3.0, wire_bytes=100.0, peak_memory=7.0)
    assert objectives.values(of("passes_to_target"), DIGITS, outcome, clock) == [64.0]
    lower = TargetClock(SimpleNamespace(target=0.4, direction="minimize"))
    lower.see(0.5, 1.0, 10)
    lower.see(0.4, 2.0, 20)
    assert lower.steps == 20
    with pytest.raises(NotReported, match="without the objective passes_to_target"):  # the trial did not tell
        objectives.values(of("passes_to_target"), DIGITS, outcome, lower)
