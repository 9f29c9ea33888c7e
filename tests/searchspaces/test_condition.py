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


REAL = FloatDistribution(0.0, 1.0)


def _three() -> SearchSpace:
    """In an order in which each depends on a later one, once it has its condition."""
    names = {
        "c": (REAL, 0.5),
        "b": (CategoricalDistribution([1, 2]), 1),
        "a": (CategoricalDistribution(["x", "y"]), "x"),
    }
    return SearchSpace(tuple(Parameter(name=n, distribution=d, default=first) for n, (d, first) in names.items()))


def test_conditions_of_a_study_may_follow_one_another():
    space = _three().conditional({"c": ("b", (2,)), "b": ("a", ("y",))})
    assert [p.name for p in space.parameters] == ["a", "b", "c"]
    assert space.decode({"a": 0, "b": 1, "c": 0.5}) == {"a": "x"}  # of an inactive one nothing is active
    assert space.decode({"a": 1, "b": 0, "c": 0.5}) == {"a": "y", "b": 1}
    assert space.decode({"a": 1, "b": 1, "c": 0.5}) == {"a": "y", "b": 2, "c": 0.5}


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"d": ("a", ("x",))}, "only_if needs a searched hyperparameter; d is not searched"),
        ({"c": ("d", (1,))}, "only_if of c must name another hyperparameter of the space, a, b; got d"),
        ({"c": ("c", (1,))}, "only_if of c must name another hyperparameter of the space, a, b; got c"),
        ({"c": ("a", ("z",))}, r"only_if of c: a must be \{x, y\}; got 'z'"),
        ({"b": ("c", (0.5,)), "c": ("b", (1,))}, "only_if must not form a cycle; got (b -> c -> b|c -> b -> c)"),
    ],
)
def test_conditions_that_cannot_be_are_refused(conditions, message):
    with pytest.raises(ValueError, match=message):
        _three().conditional(conditions)


def test_the_extremes_reach_what_depends_on_a_dependent_one():
    space = _three().conditional({"c": ("b", (2,)), "b": ("a", ("y",))})
    assert {"a": "y", "b": 2, "c": 0.0} in space.extremes()
    assert {"a": "y", "b": 2, "c": 1.0} in space.extremes()


def test_what_depends_on_a_fixed_value_is_searched_always_or_not_at_all():
    fixed = _three().override({"a": "x"})
    assert [p.name for p in fixed.conditional({"c": ("a", ("y",))}).parameters] == ["b"]
    assert fixed.conditional({"c": ("a", ("x", "y"))}).decode({"b": 0, "c": 0.5}) == {"b": 1, "c": 0.5, "a": "x"}


def test_a_study_may_only_narrow_the_condition_of_a_method():
    mac = registry.whole_space("mac")
    with pytest.raises(ValueError, match=r"mu acts if variant is two_term or coupled.*; got one_term"):
        mac.conditional({"mu": ("variant", ("one_term",))})


def test_what_limits_others_or_has_a_condition_takes_no_further_one():
    daso = registry.whole_space("daso")
    with pytest.raises(ValueError, match="B limits S, so it needs a value, and cannot have only_if"):
        daso.conditional({"B": ("wire", ("float16",))})
    with pytest.raises(ValueError, match="rate already depends on kind, and can depend on one hyperparameter only"):
        (_conditional() + SearchSpace(_three().parameters)).conditional({"rate": ("a", ("x",))})


def test_mu_is_searched_only_where_it_is_active():
    space = registry.whole_space("mac")
    genes = space.encode(space.default())
    variants = space.parameters[0].distribution.choices
    searched = {v: "mu" in space.decode(genes | {"variant": k}) for k, v in enumerate(variants)}
    assert searched == {"two_term": True, "one_term": False}


def test_the_number_of_macs_groups_is_searched_where_the_grouping_leaves_it_open():
    space = registry.whole_space("mac")
    assert space.default()["num_groups"] == 2
    for grouping, is_open in (("even", True), ("balanced", True), ("1,5", False)):
        fixed = space.override({"grouping": grouping})
        assert ("num_groups" in fixed.default()) == is_open
