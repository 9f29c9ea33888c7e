"""Which earlier trials fit a changed space, and with which values."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.platform.search import fitting
from atoll.platform.search.fitting import Outside
from atoll.platform.search.resume import PastTrial
from atoll.searchspaces.parameter import Parameter
from atoll.searchspaces.space import SearchSpace

KIND = Parameter(name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a")
RATE = Parameter(name="rate", distribution=FloatDistribution(0.0, 1.0), default=0.5)
ONLY_B = Parameter(name="decay", distribution=FloatDistribution(0.0, 1.0), default=0.25, only_if=("kind", ("b",)))
PERIOD = Parameter(name="B", distribution=IntDistribution(1, 8), default=4)
DELAY = Parameter(name="S", distribution=IntDistribution(0, 8), default=1, at_most="B")
SPACE = SearchSpace((KIND, RATE, ONLY_B, PERIOD, DELAY), fixed=(("wire", "float16"),), constraints=("rate * B <= 4",))
INSIDE = {"kind": "a", "rate": 0.5, "B": 4, "S": 1, "wire": "float16"}


@pytest.mark.parametrize(
    ("hyperparameters", "configured", "expected"),
    [
        ({"rate": 0.1}, {}, {"rate": 0.1, "wire": "float16", "kind": "a", "B": 4, "S": 1}),
        ({"kind": "b"}, {}, {"kind": "b", "wire": "float16", "rate": 0.5, "decay": 0.25, "B": 4, "S": 1}),
        (
            {},
            {"rate": 0.3, "wire": "float32", "B": None},
            {"wire": "float32", "kind": "a", "rate": 0.3, "B": 4, "S": 1},
        ),
    ],
)
def test_what_is_new_has_the_value_that_was_trained_with_or_its_default(hyperparameters, configured, expected):
    assert fitting.completed(hyperparameters, configured, SPACE) == expected


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rate": 1.5}, "rate outside 0 to 1"),
        ({"kind": "c"}, "kind outside {a, b}"),
        ({"B": 2, "S": 3}, "S above B"),
        ({"wire": "float32"}, "wire other than float16"),
        ({"rate": 1.0, "B": 5}, r"against rate \* B <= 4"),
        ({"kind": "b"}, "decay outside"),
        ({"kind": "b", "decay": 2.0}, "decay outside 0 to 1"),
        ({"B": True}, "B outside"),
    ],
)
def test_what_is_outside_says_where(changed, reason):
    fitting.check_inside(INSIDE, SPACE)
    with pytest.raises(Outside, match=reason):
        fitting.check_inside(INSIDE | changed, SPACE)


def test_what_is_inactive_may_have_any_value():
    fitting.check_inside(INSIDE | {"decay": 7.0}, SPACE)


def test_results_outside_are_counted_by_reason():
    def trial(number, state, **changed):
        return PastTrial(
            number=number, attempt=0, island=0, worker=0, hyperparameters=INSIDE | changed, proposal={}, state=state
        )

    trials = [
        trial(0, "complete"),
        trial(1, "complete", rate=2.0),
        trial(2, "pruned", rate=3.0),
        trial(3, "failed", rate=4.0),
        trial(4, "complete", kind="z"),
    ]
    assert fitting.outside(trials, SPACE) == {"rate outside 0 to 1": 2, "kind outside {a, b}": 1}
    assert [fitting.is_inside(one, SPACE) for one in trials] == [True, False, False, False, False]
