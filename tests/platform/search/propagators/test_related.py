"""Suggestions of related problems: as far as they rank the study's trials, for every sampler."""

import math
import random

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter

from atoll.platform.search import propagators
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.propagators.ensemble import Model, improvement
from atoll.platform.search.propagators.random_search import RandomPropagator
from atoll.platform.search.propagators.related import LAST, MOST, RelatedPropagator
from atoll.platform.search.ranking import scores
from atoll.platform.study.related import Related
from atoll.platform.study.samplers import Sampler
from atoll.searchspaces.space import Parameter, SearchSpace

PLANE = SearchSpace(
    tuple(Parameter(name=name, distribution=FloatDistribution(0, 1), default=0.5) for name in ("x", "y"))
)


def bowl(values, sign=1.0):
    return sign * ((values["x"] - 0.8) ** 2 + (values["y"] - 0.2) ** 2)


def source(loss=bowl, count=30, names=("x", "y"), title="other", **also):
    rng = random.Random(4)
    trials = [{name: rng.random() for name in ("x", "y")} for _ in range(count)]
    return Related(title, names, tuple(({n: v[n] for n in names}, loss(v, **also)) for v in trials))


def made(*sources, space=PLANE, seed=1, **options):
    return RelatedPropagator(RandomPropagator(space.limits(), seed), sources, space, seed, **options)


def told(propagator, count, loss=bowl, space=PLANE):
    """Tell results at random places."""
    rng = random.Random(9)
    for number in range(count):
        genes = {name: rng.random() for name in space.limits()}
        propagator.arrived(Individual(number, tuple(genes.values()), (loss(genes),), 0, 0))
    return propagator


def test_before_there_are_results_three_in_four_are_suggested_where_the_source_is_best():
    propagator = made(source())
    found = {number: propagator.propose(number) for number in range(24)}
    suggested = [p for p in found.values() if p.operator == "related"]
    assert propagator.evidence().share == MOST
    assert 12 <= len(suggested) < 24
    assert all(math.hypot(p.genes["x"] - 0.8, p.genes["y"] - 0.2) < 0.1 for p in suggested)
    assert suggested[0].attributes == {"related:weights": {"other": 1.0}}


def test_a_source_equal_to_the_study_has_nearly_all_weight_and_a_reversed_one_none():
    equal = told(made(source(), source(sign=-1.0, title="reversed")), 12).evidence()
    assert equal.of_sources[0] > 0.85
    assert equal.of_sources[1] == 0
    assert told(made(source(sign=-1.0)), 6).evidence().share == 0


def test_the_weight_falls_as_the_study_knows_more():
    """The source is right about most, and the study's own model about all in the end."""
    weights = [
        told(made(source(lambda v: bowl(v) + 0.05 * math.sin(9 * v["x"]))), count).evidence().of_sources[0]
        for count in (3, 16, 64)
    ]
    assert weights[0] == 1
    assert weights[1] > 0.1
    assert weights[2] < 0.05
    assert weights == sorted(weights, reverse=True)


def test_after_many_trials_no_source_is_asked():
    propagator = told(made(source()), LAST)
    assert {propagator.propose(number).operator for number in range(LAST, LAST + 9)} == {"random"}


def test_it_is_the_same_whatever_the_order_of_news_and_earlier_proposals():
    first, second = (told(made(source()), 3) for _ in range(2))
    second.propose(3)
    rng = random.Random(9)
    individuals = [Individual(n, (rng.random(), rng.random()), (float(n),), 0, 0) for n in range(10, 16)]
    for one in individuals:
        first.arrived(one)
    for one in reversed(individuals):
        second.arrived(one)
    first.evidence()
    assert [first.propose(n).genes for n in (20, 21, 22)] == [second.propose(n).genes for n in (20, 21, 22)]


def test_trials_that_run_or_emigrated_change_what_is_suggested():
    number = next(n for n in range(20) if made(source()).propose(n).operator == "related")
    alone, beside = made(source()), made(source())
    genes = alone.propose(number).genes
    beside.started(99, genes, {})
    other = beside.propose(number).genes
    assert math.hypot(*(genes[name] - other[name] for name in genes)) > 1e-3
    beside.dropped(99)
    assert beside.propose(number).genes == genes
    gone = told(made(source()), 1)
    gone.left(0)
    assert gone.propose(number).genes == genes


def test_pruned_trials_and_infinite_losses_are_no_evidence():
    propagator = made(source())
    for number in range(6):
        propagator.arrived(Individual(number, (0.1, 0.1), (math.inf,), 0, 0))
        propagator.arrived(Individual(10 + number, (0.1, number / 9), (-float(number),), 0, 0, is_complete=False))
    assert propagator.evidence().share == MOST


def test_a_model_of_some_parameters_ignores_the_others():
    propagator = made(source(lambda v: abs(v["x"] - 0.8), names=("x",)))
    suggested = [p.genes for n in range(8) if (p := propagator.propose(n)).operator == "related"]
    assert suggested
    assert all(abs(genes["x"] - 0.8) < 0.1 for genes in suggested)


def test_leaving_out_is_that_of_the_process_without_the_trial():
    """Rasmussen and Williams 2006, equation 5.12, against the solution for the other trials."""
    rng = np.random.default_rng(2)
    points, losses = rng.random((7, 2)), rng.random(7)
    model = Model.of(points, losses, [0, 1], np.zeros(2, dtype=bool))
    covariance = model.process.kernel().numpy() + float(model.process.noise_var) * np.eye(7)
    scored = scores(losses)
    for place, predicted in enumerate(model.left_out(losses)):
        others = [n for n in range(7) if n != place]
        solved = np.linalg.solve(covariance[np.ix_(others, others)], scored[others])
        assert predicted == pytest.approx(covariance[place, others] @ solved, rel=1e-8, abs=1e-8)


def test_where_the_study_has_a_trial_nothing_is_expected():
    """The models take their own prediction there for known, so the improvement has no variance left."""
    propagator = made(source())
    seen = np.array([[0.8, 0.2], [0.3, 0.3]])
    expected = improvement(propagator.evidence().ensemble, seen, PLANE)
    at, away = expected.eval_acqf_no_grad(np.array([[0.8, 0.2], [0.84, 0.16]]))
    assert at < away - 1
    x = np.array([0.5, 0.6])
    _, gradient = expected.eval_acqf_with_grad(x)
    step = 1e-5
    numeric = [
        (expected.eval_acqf_no_grad(x + e)[()] - expected.eval_acqf_no_grad(x - e)[()]) / (2 * step)
        for e in np.eye(2) * step
    ]
    assert gradient == pytest.approx(numeric, rel=1e-4)


MIXED = SearchSpace(
    (
        Parameter(name="B", distribution=IntDistribution(1, 64, log=True), default=8),
        Parameter(name="S", distribution=IntDistribution(0, 64), default=1, at_most="B"),
        Parameter(name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a"),
        Parameter(name="d", distribution=FloatDistribution(1e-3, 1, log=True), default=0.1, only_if=("kind", ("b",))),
    ),
    constraints=("B <= 40",),
)


def mixed_source():
    rng, trials = random.Random(3), []
    for _ in range(30):
        values = {"B": rng.randint(1, 200), "kind": rng.choice("ab")}  # outside of the range, too
        values |= {"d": 10 ** rng.uniform(-4, 1)} if values["kind"] == "b" else {}
        loss = abs(math.log2(values["B"]) - 4) + (abs(math.log10(values["d"]) + 2) if "d" in values else 3)
        trials.append((values, loss))
    return Related("mixed", ("B", "kind", "d"), tuple(trials))


@pytest.mark.parametrize("name", ["evolution", "optuna-tpe", "optuna-cmaes", "optuna-qmc", "random", "mixed"])
def test_every_sampler_takes_suggestions_within_conditions_and_constraints(name):
    settings = TypeAdapter(Sampler).validate_python({"name": name})
    made = propagators.make(
        settings, MIXED, Population(8), seed=1, related=[mixed_source()], infeasibility=MIXED.violated
    )
    for number in range(10):
        proposal = made.propose(number)
        assert MIXED.holds(proposal.genes)
        values = MIXED.decode(proposal.genes)
        if proposal.operator == "related":
            assert MIXED.violated(values) is None
            assert values["kind"] == "b"
            assert 4 <= values["B"] <= 40
            assert ("d" in values) == (values["kind"] == "b")
        made.started(number, proposal.genes, proposal.attributes)
        made.arrived(Individual(number, tuple(proposal.genes.values()), (values["B"] / 9,), 0, 0))


def test_no_configuration_of_a_small_space_is_suggested_twice():
    space = SearchSpace((Parameter(name="x", distribution=CategoricalDistribution([0, 1, 2, 3]), default=0),))
    trials = tuple(({"x": place % 4}, float(place % 4)) for place in range(8))
    propagator = made(Related("other", ("x",), trials), space=space)
    found = []
    for number in range(12):
        proposal = propagator.propose(number)
        if proposal.operator == "related":
            found.append(proposal.genes["x"])
            propagator.started(number, proposal.genes, {})
    assert sorted(found) == [0, 1, 2, 3]
