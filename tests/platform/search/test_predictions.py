"""Predictions at a trial's end: their arithmetic, missed targets, reasons, and that others are served meanwhile."""

import math
import time
from types import SimpleNamespace

import pytest
from recorded_steps import WHERE, exposed, schedule

from atoll.platform.search.predictions import CannotPredict, made_in_background, predicted_values
from atoll.platform.search.scoring import Scoring
from atoll.platform.study import registry
from atoll.platform.study.objectives import Objective, TargetClock
from atoll.platform.study.predicted import Projection
from atoll.platform.trial.outcome import Outcome

DIGITS = registry.workload("digits_mlp")
COMPUTE, NODES = 0.010, 4
EXPOSED = exposed(NODES)


def objective(name, **changes):
    projection = Projection(cluster=WHERE, nodes=NODES, **changes)
    return Objective(name=projection.label(name), direction="minimize", projection=projection)


def clock(reaches=True, num_steps=100, num_epochs=5):
    found = TargetClock(SimpleNamespace(target=0.9, direction="maximize"))
    found.see(0.95 if reaches else 0.5, seconds=1.0, step=80)
    found.advance(num_steps, num_epochs)
    return found


def one(name, traces=None, at=None, **changes):
    (value,) = predicted_values(
        [Objective(name="accuracy", direction="maximize"), objective(name, **changes)],
        [schedule(COMPUTE)] if traces is None else traces,
        at or clock(),
        {"batch_size": 32},
    ).values()
    return value


@pytest.mark.parametrize(("name", "steps"), [("projected_seconds_to_target", 80), ("projected_seconds", 100)])
def test_times_are_a_steps_time_there_times_its_steps(name, steps):
    # traces keep times to 0.1 us
    assert one(name) == pytest.approx((COMPUTE + EXPOSED) * steps * 2 / 8, rel=1e-5)
    assert one(name, scaling="strong") == pytest.approx((COMPUTE * 2 / 8 + EXPOSED) * steps, rel=1e-5)
    assert one(name, speed=4) == pytest.approx((COMPUTE / 4 + EXPOSED) * steps * 2 / 8, rel=1e-5)
    assert one(name) == one(name)


def test_the_time_of_a_step():
    assert one("projected_seconds_per_step") == pytest.approx(COMPUTE + EXPOSED, rel=1e-5)
    assert one("projected_seconds_per_step", at=clock(reaches=False)) == one("projected_seconds_per_step")


def test_a_missed_target_is_infinite():
    assert one("projected_seconds_to_target", at=clock(reaches=False)) == math.inf
    assert one("projected_seconds", at=clock(reaches=False)) == one("projected_seconds")


def test_the_reason_is_told_if_there_is_no_prediction():
    with pytest.raises(CannotPredict, match=r"projected_seconds \(predicted: c, 4 nodes\) cannot be .* NCCL; set"):
        one("projected_seconds", traces=[])
    with pytest.raises(CannotPredict, match="cannot be predicted: no steps were recorded"):
        one("projected_seconds", traces=[schedule(COMPUTE, num_steps=0)])


def test_others_are_served_while_it_is_made():
    served = []

    def serve(condition):
        while not condition():
            served.append(time.monotonic())
            time.sleep(0.001)

    value, spent = made_in_background(lambda: time.sleep(0.1) or 7, serve)
    assert value == 7
    assert spent < 0.05  # CPU seconds, and it has slept
    assert len(served) >= 5
    with pytest.raises(CannotPredict, match="no"):
        made_in_background(lambda: (_ for _ in ()).throw(CannotPredict("no")), serve)


def judged(traces, at=None):
    content = {"state": "complete", "objective": 0.95, "metrics": {"train_loss": 0.5}, "seconds": 2.0}
    content |= {"wire_bytes": 80.0, "ledger": [], "peak_memory": 0.0, "traces": traces}
    resolved = (Objective(name="accuracy", direction="maximize"), objective("projected_seconds_to_target"))
    return Scoring(resolved, DIGITS).judge(Outcome(**content), at or clock(), {"batch_size": 32})


def test_a_trial_has_its_prediction_and_tells_its_cost():
    outcome, values = judged([schedule(COMPUTE)])
    assert values == [0.95, one("projected_seconds_to_target")]
    assert outcome.metrics["projection_cpu_seconds"] > 0
    assert judged([], clock(reaches=False))[1] == [0.95, math.inf]


def test_a_trial_without_recorded_steps_fails_with_the_reason():
    outcome, values = judged([])
    assert (outcome.state, outcome.objective, values) == ("failed", None, [])
    assert outcome.reason.startswith(
        "ValueError: projected_seconds_to_target (predicted: c, 4 nodes) cannot be predicted"
    )
