"""Priors in a search: drawn from early, less with evidence, and hardly at all against it."""

import math
import random
import statistics

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter

import atoll
from atoll.platform.launch.checks import check
from atoll.platform.search import propagators
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.propagators.priors import PriorPropagator
from atoll.platform.search.propagators.random_search import RandomPropagator
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import Sampler
from atoll.platform.study.study import Study
from atoll.searchspaces.prior import Prior
from atoll.searchspaces.space import Parameter, SearchSpace


def plane(mode=0.3, sigma=0.25):
    return SearchSpace(
        tuple(
            Parameter(name=name, distribution=FloatDistribution(0, 1), default=0.5, prior=Prior(mode, sigma))
            for name in ("x", "y")
        )
    )


def sampler(space, individuals=(), size=64):
    population = Population(size)
    for one in individuals:
        population.admit(one)
    return PriorPropagator(RandomPropagator(space.limits(), 1), space, population, 1)


def around(place, count, spread=0.05):
    """Individuals around a place, the better the nearer to it; the best one is there."""
    rng = random.Random(2)
    offsets = sorted((rng.uniform(-spread, spread), rng.uniform(-spread, spread)) for _ in range(count))
    return [Individual(0, (place, place), (0.0,), 0, 0)] + [
        Individual(n, (place + dx, place + dy), (float(n),), 0, 0) for n, (dx, dy) in enumerate(offsets[1:], 1)
    ]


def test_three_in_four_trials_are_drawn_from_the_priors_before_there_are_results():
    found = [sampler(plane()).propose(number) for number in range(400)]
    share = statistics.mean(p.operator == "prior" for p in found)
    assert share == pytest.approx(0.75, abs=4 * (0.25 / 400) ** 0.5)
    drawn = [gene for p in found if p.operator == "prior" for gene in p.genes.values()]
    assert abs(statistics.median(drawn) - 0.3) < 0.1


def test_the_share_is_halved_after_ten_results_that_do_not_contradict():
    """The prior is the distribution around the incumbent, so both explain the best as well: the ratio is one half."""
    assert sampler(plane(0.3, 0.25), around(0.3, 10)).share() == pytest.approx(0.75 / 2)
    assert sampler(plane(0.3, 0.25), around(0.3, 30)).share() == pytest.approx(0.75 / 4)


def test_the_share_is_that_of_the_likelihoods():
    """Two individuals behind the incumbent, with weights 2 and 1."""
    known = [Individual(n, (x, x), (float(n),), 0, 0) for n, x in enumerate((0.6, 0.5, 0.7))]
    unit = FloatDistribution(0, 1)
    space = SearchSpace((*plane(0.4, 0.2).parameters[:1], Parameter(name="y", distribution=unit, default=0)))

    def explained(mode, sigma):
        return sum(w * math.exp(Prior(mode, sigma).log_density(unit, x)) for w, x in ((2, 0.5), (1, 0.7)))

    of_prior, of_incumbent = explained(0.4, 0.2), explained(0.6, 0.25)
    expected = 0.75 * min(1, 2 * of_prior / (of_prior + of_incumbent)) * 10 / 13
    assert sampler(space, known).share() == pytest.approx(expected, rel=1e-9)


def test_a_prior_that_is_wrong_is_soon_left():
    assert sampler(plane(0.05, 0.1), around(0.9, 6)).share() < 1e-3


def test_pruned_trials_are_no_evidence_for_a_place():
    pruned = [Individual(n, (0.9, 0.9), (0.0,), 0, 0, is_complete=False) for n in range(6)]
    assert sampler(plane(), pruned).share() == pytest.approx(0.75 * 10 / 16)


@pytest.mark.parametrize("name", ["evolution", "optuna-tpe", "optuna-cmaes", "optuna-qmc", "random", "mixed"])
def test_every_sampler_starts_where_the_best_is_expected(name):
    """Conditions and ceilings hold for draws from priors, too."""
    space = SearchSpace(
        (
            Parameter(name="B", distribution=IntDistribution(1, 64, log=True), default=8, prior=Prior(16, 0.1)),
            Parameter(name="S", distribution=IntDistribution(0, 64), default=1, at_most="B", prior=Prior(2, 0.1)),
            Parameter(
                name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a", prior=Prior("b", 0.2)
            ),
            Parameter(name="d", distribution=FloatDistribution(0, 1), default=0.5, only_if=("kind", ("b",))),
        )
    )
    settings = TypeAdapter(Sampler).validate_python({"name": name})
    made = propagators.make(settings, space, Population(8), seed=1)
    found = [space.decode(made.propose(number).genes) for number in range(60)]
    assert sum(values["kind"] == "b" for values in found) > 35
    assert sum(8 <= values["B"] <= 32 for values in found) > 30
    assert all(values["S"] <= values["B"] and ("d" in values) == (values["kind"] == "b") for values in found)
    again = propagators.make(settings, space, Population(8), seed=1)
    assert [space.decode(again.propose(number).genes) for number in range(60)] == found


def study(**content):
    return Study(**{"name": "s", "workload": "digits_mlp", "method": "daso"} | content)


def prior_of(name, **content):
    return next(p for p in Plan.of(study(**content)).space.parameters if p.name == name).prior


def test_a_study_gives_priors_to_its_own_ranges_and_to_known_ones():
    rate = {"low": 0.001, "high": 1.0, "log": True, "prior": {"mode": 0.05, "sigma": 0.1}}
    assert prior_of("learning_rate", space={"learning_rate": rate}) == Prior(0.05, 0.1)
    known = Plan.of(study()).space
    default = next(p.default for p in known.parameters if p.name == "momentum")
    assert prior_of("momentum", space={"momentum": {"prior": {}}}) == Prior(default, 0.25)
    kept = next(p for p in Plan.of(study(space={"momentum": {"prior": {}}})).space.parameters if p.name == "momentum")
    assert kept.distribution == next(p.distribution for p in known.parameters if p.name == "momentum")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"space": {"momentum": {"prior": {"mode": 3.0}}}},
            r"the prior's mode of momentum must be 0 to 0\.99; got 3\.0",
        ),
        ({"space": {"momentum": {"prior": {"mode": 0.5, "sigma": 0}}}}, "greater than 0"),
        ({"space": {"ema": {"prior": {}}}}, "space.ema must have low and high, or choices"),
        ({"sampler": {"name": "grid"}, "space": {"momentum": {"prior": {}}}}, "a grid evaluates its points, .*mom"),
    ],
)  # fmt: skip
def test_a_prior_that_cannot_be_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        check(study(**content))


@pytest.mark.process
def test_a_search_from_python_starts_where_the_best_is_expected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate = atoll.Float(1e-4, 1.0, log=True, prior={"mode": 0.01, "sigma": 0.05})
    results = atoll.search(
        lambda trial: abs(trial["rate"] - 0.02),
        space={"rate": rate, "kind": atoll.Categorical(["a", "b"], prior={"mode": "b"})},
        trials=16,
        in_process=True,
        sampler="random",
        name="mine",
    )
    trials = results.trials()
    near = (trials["hp.rate"] > 0.005) & (trials["hp.rate"] < 0.02)
    assert near.sum() >= 4  # of a uniform draw, 15 % would be
