"""Search spaces: encoding, limits, and any space that can be drawn."""

import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.platform.study import registry
from atoll.searchspaces.space import Parameter, SearchSpace

DASO, DDP = registry.whole_space("daso"), registry.whole_space("ddp")


def test_limits_are_python_floats_for_numbers_and_integers_for_categories():
    limits = DASO.limits()
    assert limits["learning_rate"] == (0.0, 1.0)
    assert all(type(end) is float for end in limits["B"])
    assert limits["wire"] == (0, 2)
    assert all(type(end) is int for end in limits["wire"])


def test_genes_are_held_if_they_are_complete_and_within_their_limits():
    genes = DASO.encode(DASO.default())
    assert DASO.holds(genes)
    assert not DASO.holds({})
    assert not DASO.holds(genes | {"more": 0.5})
    for wrong in ({"B": 1.5}, {"B": None}, {"B": True}, {"B": float("nan")}, {"wire": 3}, {"wire": 0.5}):
        assert not DASO.holds(genes | wrong)


def test_values_outside_are_not_encoded():
    with pytest.raises(ValueError, match=r"momentum must be 0 to 0.99; got 1.5"):
        DDP.encode(DDP.default() | {"momentum": 1.5})


def test_a_ceiling_must_come_first():
    late = Parameter(name="S", distribution=IntDistribution(0, 2), default=1, at_most="B")
    with pytest.raises(ValueError, match="S is limited by B, which must come before it"):
        SearchSpace((late,))


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
