"""Search spaces: encoding, ranges, and agreement with the methods' hyperparameters."""

import json
import warnings
from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, json_to_distribution

from atoll.methods import METHODS
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.platform.study import registry
from atoll.platform.study.configuration import split_hyperparameters
from atoll.searchspaces import SEARCH_SPACES
from atoll.searchspaces.optimizer import SPACE as OPTIMIZER_SPACE
from atoll.searchspaces.space import Parameter, SearchSpace

WHOLE = {name: registry.whole_space(name) for name in METHODS}


def test_every_method_has_a_space_and_every_space_a_method():
    assert set(SEARCH_SPACES) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_the_methods_hyperparameters_with_their_defaults(name):
    method = registry.method(name)
    defaults = {field.name: field.default for field in (*fields(OptimizerSettings), *fields(method.Hyperparameters))}
    defaults |= method.optimizer_defaults
    for parameter in registry.search_space(name).parameters:
        assert parameter.default == defaults[parameter.name], parameter.name
        assert parameter.contains(parameter.default)


def test_optimizer_space_matches_the_optimizer_settings():
    defaults = {field.name: field.default for field in fields(OptimizerSettings)}
    for parameter in OPTIMIZER_SPACE.parameters:
        assert parameter.default == defaults[parameter.name]


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
def test_every_gene_decodes_to_valid_hyperparameters_and_back(name, data):
    space = WHOLE[name]
    genes = {
        key: data.draw(st.floats(0, 1) if isinstance(limits[0], float) else st.integers(*limits))
        for key, limits in space.limits().items()
    }
    hyperparameters = space.decode(genes)
    split_hyperparameters(name, "digits_mlp", hyperparameters, max(1, registry.method(name).min_ranks))
    again = space.decode(space.encode(hyperparameters))
    for key, value in hyperparameters.items():
        # log and exp of a float64 lose a few units in the last place
        assert again[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def test_limits_are_python_floats_for_numbers_and_integers_for_categories():
    limits = WHOLE["daso"].limits()
    assert limits["learning_rate"] == (0.0, 1.0)
    assert all(type(end) is float for end in limits["B"])
    assert limits["wire"] == (0, 2)
    assert all(type(end) is int for end in limits["wire"])


def test_the_easgd_family_has_the_ranges_of_tables_4_1_to_4_3():
    rates = {
        "easgd": (0.005, 0.1),
        "eamsgd": (0.001, 0.01),
        "downpour": (0.0005, 0.02),
        "adownpour": (0.0005, 0.005),
        "mvadownpour": (0.0005, 0.005),
        "mdownpour": (0.000005, 0.00005),
        "sgd": (0.005, 0.05),
        "asgd": (0.005, 0.05),
        "mvasgd": (0.005, 0.05),
        "msgd": (0.0001, 0.001),
    }
    for name, (low, high) in rates.items():
        rate = next(p for p in WHOLE[name].parameters if p.name == "learning_rate")
        assert (rate.distribution.low, rate.distribution.high) == (low, high), name
    for name in ("easgd", "eamsgd", "downpour"):
        tau = next(p for p in WHOLE[name].parameters if p.name == "tau")
        assert (tau.distribution.low, tau.distribution.high) == (1, 64)


def test_a_methods_space_replaces_and_drops_shared_settings():
    assert "momentum" not in WHOLE["easgd"].names()
    assert [p.source for p in WHOLE["eamsgd"].parameters if p.name == "momentum"] == ["003 sections 4.2 and 6.1.2"]
    assert WHOLE["easgd"].names().count("learning_rate") == 1
    assert {"weight_decay", "batch_size"} <= set(WHOLE["easgd"].names())


def test_daso_has_table_3_1s_ranges():
    daso = {p.name: p for p in registry.search_space("daso").parameters}
    assert (daso["B"].distribution.low, daso["B"].distribution.high) == (1, 32)
    assert (daso["S"].distribution.low, daso["S"].distribution.high, daso["S"].at_most) == (0, 32, "B")


def test_integers_get_equal_shares_and_a_ceiling_rescales_them():
    parameter = Parameter(name="S", distribution=IntDistribution(0, 32), default=1, at_most="B")
    counts = Counter(parameter.decode(i / 1000, high=4) for i in range(1000))
    assert counts == dict.fromkeys(range(5), 200)


def test_log_scale():
    parameter = Parameter(name="x", distribution=FloatDistribution(1e-4, 1e-2, log=True), default=1e-3)
    assert parameter.decode(0.5) == pytest.approx(1e-3, rel=1e-12)
    assert parameter.decode(0.0) >= 1e-4
    assert parameter.decode(1.0) <= 1e-2


def test_narrowing_fixes_values_replaces_ranges_and_refuses_unknown_names():
    space = WHOLE["daso"].override({"momentum": 0.5, "B": IntDistribution(8, 16), "wire": "float16"})
    decoded = space.decode(dict.fromkeys(space.limits(), 0) | {"B": 0.0})
    assert (decoded["momentum"], decoded["wire"], decoded["B"]) == (0.5, "float16", 8)
    assert space.default()["B"] == 8  # the default of 4 moves into the range
    with pytest.raises(ValueError, match="no parameter 'momentun'; valid are"):
        WHOLE["daso"].override({"momentun": 0.5})


def test_a_fixed_value_above_its_ceiling_is_refused():
    with pytest.raises(ValueError, match=r"S must be at most B: with S at 4 or more, B must start at 4 or more"):
        WHOLE["daso"].override({"S": 4})
    assert dict(WHOLE["daso"].override({"S": 4, "B": 8}).fixed) == {"B": 8, "S": 4}
    assert WHOLE["daso"].override({"B": 8}).decode(dict.fromkeys(WHOLE["daso"].limits(), 1))["S"] == 8


def test_values_outside_are_not_encoded():
    with pytest.raises(ValueError, match=r"momentum must be 0 to 0.99; got 1.5"):
        WHOLE["ddp"].encode(WHOLE["ddp"].default() | {"momentum": 1.5})


def test_a_ceiling_must_come_first():
    late = Parameter(name="S", distribution=IntDistribution(0, 2), default=1, at_most="B")
    with pytest.raises(ValueError, match="S is limited by B, which must come before it"):
        SearchSpace((late,))


def test_distributions_serialise():
    for parameter in WHOLE["daso"].parameters:
        assert json_to_distribution(parameter.as_dict()["distribution"]) == parameter.distribution


def test_true_is_no_number():
    assert not Parameter(name="x", distribution=IntDistribution(0, 2), default=1).contains(True)
    assert Parameter(name="x", distribution=CategoricalDistribution([True, False]), default=True).contains(True)


def test_a_study_searches_a_real_hyperparameter_over_reals_even_where_its_range_is_written_in_integers():
    for default in (0.5, None):
        made = Parameter.of_study("alpha", IntDistribution(0, 1), default)
        assert made.distribution == FloatDistribution(0, 1)
        assert made.default == 0.5
    assert Parameter.of_study("H", IntDistribution(1, 9), 8).distribution == IntDistribution(1, 9)
    assert Parameter.of_study("H", IntDistribution(1, 3), 8).default == 2


def test_numbers_that_a_space_made_choices_take_a_range_in_a_study_and_names_do_not():
    space = registry.whole_space("eamsgd").override({"momentum": FloatDistribution(0.5, 0.99)})
    (momentum,) = [p for p in space.parameters if p.name == "momentum"]
    assert momentum.distribution == FloatDistribution(0.5, 0.99)
    assert 0.5 <= space.default()["momentum"] <= 0.99
    with pytest.raises(ValueError, match="takes choices"):
        registry.whole_space("easgd").override({"schedule": IntDistribution(0, 1)})


def _conditional() -> SearchSpace:
    kind = Parameter(name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a")
    rate = Parameter(name="rate", distribution=FloatDistribution(0.0, 1.0), default=0.25, only_if=("kind", ("b",)))
    return SearchSpace((kind, rate))


def test_a_parameter_that_means_nothing_is_left_out():
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


def test_mu_is_searched_only_where_it_acts():
    space = registry.whole_space("mac")
    genes = space.encode(space.default())
    variants = space.parameters[0].distribution.choices
    searched = {v: "mu" in space.decode(genes | {"variant": k}) for k, v in enumerate(variants)}
    assert searched == {"two_term": True, "one_term": False}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def distributions(draw):
    kind = draw(st.sampled_from(["float", "float log", "float step", "int", "int log", "int step", "choices"]))
    low = draw(st.integers(1, 20) if "log" in kind else st.integers(-20, 20))
    width = draw(st.integers(0, 50))
    if kind == "choices":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Optuna's, of choices that its databases cannot hold
            return CategoricalDistribution(draw(st.lists(JSON, min_size=1, max_size=6, unique_by=json.dumps)))
    if kind.startswith("float"):
        step = draw(st.sampled_from([0.25, 0.5])) if "step" in kind else None
        return FloatDistribution(low / 4, low / 4 + width, log="log" in kind, step=step)
    step = draw(st.integers(1, 7)) if "step" in kind else 1
    return IntDistribution(low, low + width, log="log" in kind, step=step)


@st.composite
def spaces(draw):
    """Up to five parameters, some of which depend on a value of an earlier one, or have it as their upper limit."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        distribution = draw(distributions())
        middle = Parameter(name="", distribution=distribution, default=0).decode(
            0.5 if hasattr(distribution, "low") else 0
        )
        above = [p.name for p in made if hasattr(p.distribution, "low") and p.only_if is None and p.at_most is None]
        choices = [p for p in made if not hasattr(p.distribution, "low")]
        at_most, only_if = None, None
        if above and hasattr(distribution, "low") and draw(st.booleans()):
            ceiling = next(p.distribution for p in made if p.name == above[0])
            if distribution.low <= ceiling.low:
                at_most = above[0]
        elif choices and draw(st.booleans()):
            other = draw(st.sampled_from(choices))
            only_if = (other.name, (draw(st.sampled_from(other.distribution.choices)),))
        made.append(
            Parameter(name=f"p{number}", distribution=distribution, default=middle, at_most=at_most, only_if=only_if)
        )
    return SearchSpace(tuple(made), fixed=(("fixed", 3),))


# The first text that it draws loads Unicode's tables, which takes a second.
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@patient
@given(data=st.data())
def test_no_gene_leaves_any_space_and_encoding_finds_it_again(data):
    space = data.draw(spaces())
    genes = {
        name: data.draw(st.floats(0, 1) if isinstance(limits[0], float) else st.integers(*limits))
        for name, limits in space.limits().items()
    }
    values = space.decode(genes)
    for p in (p for p in space.parameters if p.name in values):
        assert p.contains(values[p.name]), (p, values)
        if p.at_most is not None:
            assert values[p.name] <= values[p.at_most]
    found = space.encode(values)
    for name, (low, high) in space.limits().items():
        assert low <= found[name] <= high
    again = space.decode(found)
    assert again.keys() == values.keys()
    for name, value in values.items():
        assert again[name] == (pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value)


@patient
@given(spaces())
def test_every_space_survives_json(space):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        again = SearchSpace.from_dict(json.loads(json.dumps(space.as_dict())))
    assert again == space
    assert again.default() == space.default()


def test_a_constraint_refuses_what_violates_it_and_says_nothing_of_what_is_left_out():
    space = WHOLE["daso"].constrained(["batch_size * B <= 256", "wire in ('float16', 'bfloat16') or B > 1"])
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
        ("B <= batchsize", "speaks of batchsize, which the space does not have; it has B, S, "),
    ],
)
def test_constraints_that_are_none(constraint, message):
    with pytest.raises(ValueError, match=message):
        WHOLE["daso"].constrained([constraint])


def test_what_a_constraint_cannot_be_computed_with_violates_it():
    space = WHOLE["daso"].constrained(["batch_size / (B - 4) >= 0"])
    assert "cannot be computed with" in space.violated(space.default())
    assert space.violated(space.default() | {"B": 8}) is None
