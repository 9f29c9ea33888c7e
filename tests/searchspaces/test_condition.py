"""Parameters that are active with some values of another one only."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from atoll.platform.study import registry
from atoll.searchspaces.space import Parameter, SearchSpace


def _conditional() -> SearchSpace:
    kind = Parameter(name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a")
    rate = Parameter(name="rate", distribution=FloatDistribution(0.0, 1.0), default=0.25, only_if=("kind", ("b",)))
    return SearchSpace((kind, rate))


def test_an_inactive_parameter_is_left_out():
    space = _conditional()
    assert space.default() == {"kind": "a"}
    assert space.decode({"kind": 0, "rate": 0.5}) == {"kind": "a"}
    assert space.decode({"kind": 1, "rate": 0.5}) == {"kind": "b", "rate": 0.5}
    # its gene waits at the default, for offspring to which it means something
    assert space.encode({"kind": "a"}) == {"kind": 0, "rate": 0.25}
    assert space.encode({"kind": "b", "rate": 0.5}) == {"kind": 1, "rate": 0.5}
    with pytest.raises(ValueError, match="rate must be 0 to 1, if kind is b; got None"):
        space.encode({"kind": "b"})
    assert [v for v in space.extremes() if v["kind"] == "b"] == [{"kind": "b", "rate": r} for r in (0.25, 0.0, 1.0)]


def test_a_condition_holds_of_fixed_values_too():
    space = _conditional()
    assert space.override({"kind": "a"}).default() == {"kind": "a"}
    assert space.override({"kind": "b"}).default() == {"kind": "b", "rate": 0.25}
    with pytest.raises(ValueError, match="rate depends on kind, which must come before it"):
        SearchSpace(tuple(reversed(space.parameters)))


def test_mu_is_searched_only_where_it_is_active():
    space = registry.whole_space("mac")
    genes = space.encode(space.default())
    variants = space.parameters[0].distribution.choices
    searched = {v: "mu" in space.decode(genes | {"variant": k}) for k, v in enumerate(variants)}
    assert searched == {"two_term": True, "one_term": False}
