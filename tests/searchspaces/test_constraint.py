"""Constraints between hyperparameters."""

import pytest

from atoll.platform.study import registry
from atoll.searchspaces.space import SearchSpace

DASO = registry.whole_space("daso")


def test_candidates_that_violate_a_constraint_are_infeasible_and_absent_parameters_violate_none():
    space = DASO.constrained(["batch_size * B <= 256", "wire in ('float16', 'bfloat16') or B > 1"])
    assert space.violated(space.default()) is None
    assert space.violated(space.default() | {"B": 32, "batch_size": 64}) == "batch_size * B <= 256"
    assert space.violated({"B": 32}) is None
    assert SearchSpace.from_dict(space.as_dict()).constraints == space.constraints


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("B <", "a constraint compares hyperparameters"),
        ("__import__('os')", "a constraint compares hyperparameters"),
        ("1 < 2", "a constraint compares hyperparameters"),
        ("B.real < 2", "a constraint compares hyperparameters"),
        ("S - B", "a constraint compares hyperparameters"),
        ("B <= batchsize", "refers to batchsize, which the space does not have; it has B, S, "),
    ],
)
def test_malformed_constraints_say_the_rule(constraint, message):
    with pytest.raises(ValueError, match=message):
        DASO.constrained([constraint])


def test_a_constraint_that_cannot_be_computed_is_violated():
    space = DASO.constrained(["batch_size / (B - 4) >= 0"])
    assert "cannot be computed with" in space.violated(space.default())
    assert space.violated(space.default() | {"B": 8}) is None
