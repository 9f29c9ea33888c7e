"""Spaces that a study changes."""

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from atoll.platform.study import registry

DASO = registry.whole_space("daso")


def test_an_override_fixes_values_replaces_ranges_and_rejects_unknown_names():
    space = DASO.override({"momentum": 0.5, "B": IntDistribution(8, 16), "wire": "float16"})
    decoded = space.decode(dict.fromkeys(space.limits(), 0) | {"B": 0.0})
    assert (decoded["momentum"], decoded["wire"], decoded["B"]) == (0.5, "float16", 8)
    assert space.default()["B"] == 8  # the default of 4 moves into the range
    with pytest.raises(ValueError, match="no parameter 'momentun'; valid are"):
        DASO.override({"momentun": 0.5})


def test_a_fixed_value_above_its_ceiling_is_an_error():
    with pytest.raises(ValueError, match=r"S must be at most B: with S at 4 or more, B must start at 4 or more"):
        DASO.override({"S": 4})
    assert dict(DASO.override({"S": 4, "B": 8}).fixed) == {"B": 8, "S": 4, "optimizer": "sgd"}
    assert DASO.override({"B": 8}).decode(dict.fromkeys(DASO.limits(), 1))["S"] == 8


def test_numbers_that_a_space_made_choices_take_a_range_in_a_study_and_names_do_not():
    space = registry.whole_space("eamsgd").override({"momentum": FloatDistribution(0.5, 0.99)})
    (momentum,) = [p for p in space.parameters if p.name == "momentum"]
    assert momentum.distribution == FloatDistribution(0.5, 0.99)
    assert 0.5 <= space.default()["momentum"] <= 0.99
    with pytest.raises(ValueError, match="takes choices"):
        registry.whole_space("easgd").override({"schedule": IntDistribution(0, 1)})
