"""Importance finds what moves the objective, whatever the hyperparameters hold."""

import math

import numpy as np
import pytest

from atoll.analysis import importance
from atoll.analysis.importance import MAX_TRIALS

RNG = np.random.default_rng(0)
ROWS = [
    {
        "learning_rate": float(10 ** RNG.uniform(-5, 0)),
        "idle": float(RNG.uniform()),
        "layers": int(RNG.integers(1, 5)),
        "wire": str(RNG.choice(["float32", "float16"])),
        "flag": bool(RNG.integers(2)),
        "fixed": 3,
        "betas": [[0.9, 0.99], [0.8, 0.9]][int(RNG.integers(2))],
    }
    for _ in range(300)
]
OBJECTIVES = [(math.log10(row["learning_rate"]) + 2) ** 2 for row in ROWS]


@pytest.mark.parametrize("method", ["PED-ANOVA", "fANOVA"])
def test_what_moves_the_objective_comes_first(method):
    found = importance.importance(ROWS, OBJECTIVES, "minimize", method)
    assert max(found, key=found.get) == "learning_rate"
    assert found["learning_rate"] > 0.6
    assert sum(found.values()) == pytest.approx(1.0)  # shares
    assert "fixed" not in found
    assert {"wire", "flag", "betas"} <= found.keys()


@pytest.mark.parametrize(
    ("rows", "objectives"),
    [([], []), (ROWS[:1], [1.0]), (ROWS[:9], [1.0] * 9), ([{"a": 1}] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])],
)
def test_nothing_varies(rows, objectives):
    assert importance.importance(rows, objectives, "minimize", "PED-ANOVA") == {}


def test_what_is_not_finite_is_left_out():
    objectives = [math.nan if n % 3 else value for n, value in enumerate(OBJECTIVES)]
    found = importance.importance(ROWS, objectives, "minimize", "PED-ANOVA")
    assert max(found, key=found.get) == "learning_rate"


def test_conditional_hyperparameters_are_left_out():
    rows = [row if n % 2 else {k: v for k, v in row.items() if k != "idle"} for n, row in enumerate(ROWS)]
    assert "idle" not in importance.importance(rows, OBJECTIVES, "minimize", "PED-ANOVA")


def test_of_many_trials_a_sample_is_enough():
    assert importance.sample(5).tolist() == [0, 1, 2, 3, 4]
    chosen = importance.sample(3 * MAX_TRIALS)
    assert len(set(chosen.tolist())) == MAX_TRIALS
    # Of the mean of so many uniform numbers, four standard deviations.
    assert abs(chosen.mean() / (3 * MAX_TRIALS) - 0.5) < 4 * (12 * MAX_TRIALS) ** -0.5


@pytest.mark.parametrize(
    ("values", "log"),
    [
        (10 ** np.linspace(-4, 0, 50), True),
        (np.linspace(0.001, 1, 50), False),
        (np.linspace(1, 50, 50), False),
        (np.array([-1.0, 100.0]), False),
        (np.array([]), False),
    ],
)
def test_logarithmic_scales_are_seen(values, log):
    assert importance.is_log(values) == log
