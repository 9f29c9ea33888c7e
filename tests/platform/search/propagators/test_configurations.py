"""Which configurations are taken: equal ones are one, whatever their genes, and the last ones are found."""

import random

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.platform.search.propagators.configurations import LARGEST_ENUMERATED, Configurations
from atoll.platform.search.propagators.random_search import uniform_genes
from atoll.searchspaces.encoding import identity
from atoll.searchspaces.space import Parameter, SearchSpace

REGULAR = SearchSpace(
    (
        Parameter(name="depth", distribution=IntDistribution(1, 5), default=2),
        Parameter(name="width", distribution=IntDistribution(8, 32, step=8), default=8),
        Parameter(name="rate", distribution=FloatDistribution(0.1, 0.3, step=0.1), default=0.1),
        Parameter(name="loss", distribution=CategoricalDistribution(["a", "b"]), default="a"),
    )
)
LOGARITHMIC = SearchSpace((Parameter(name="batch", distribution=IntDistribution(1, 32, log=True), default=8),))
CONDITIONAL = SearchSpace(
    (
        Parameter(name="optimizer", distribution=CategoricalDistribution(["sgd", "adam"]), default="sgd"),
        Parameter(name="momentum", distribution=IntDistribution(0, 3), default=0, only_if=("optimizer", ("sgd",))),
    )
)


def test_a_configuration_is_free_until_it_has_its_trials_however_its_genes_are() -> None:
    rng = random.Random(1)
    for space in (REGULAR, LOGARITHMIC, CONDITIONAL):
        configurations, trials = Configurations(space, repeats=2), {}
        for number in range(300):
            genes = uniform_genes(space.limits(), rng)
            known = trials.setdefault(identity(space.decode(genes)), [])
            assert configurations.is_free(configurations.array(genes)) == (len(known) < 2)
            configurations.take(number, genes)
            configurations.take(number, genes)  # a later attempt
            known.append(number)


def test_the_last_free_configurations_are_the_feasible_ones_that_no_trial_has() -> None:
    configurations = Configurations(CONDITIONAL, 1, lambda values: "odd" if values.get("momentum") == 3 else None)
    left = [identity(CONDITIONAL.decode(configurations.named(genes))) for genes in configurations.left()]
    expected = [{"optimizer": "sgd", "momentum": momentum} for momentum in range(3)] + [{"optimizer": "adam"}]
    assert sorted(left) == sorted(map(identity, expected))
    configurations.take(0, CONDITIONAL.encode(expected[1]))
    left = [identity(CONDITIONAL.decode(configurations.named(genes))) for genes in configurations.left()]
    assert sorted(left) == sorted(identity(values) for values in expected if values != expected[1])


def test_a_continuous_space_has_endless_configurations_and_a_large_one_lists_none() -> None:
    continuous = SearchSpace((Parameter(name="rate", distribution=FloatDistribution(0.0, 1.0), default=0.5),))
    configurations = Configurations(continuous, 1)
    assert configurations.are_endless
    configurations.take(0, {"rate": 0.5})
    assert configurations.is_free(configurations.array({"rate": 0.5}))
    large = SearchSpace((Parameter(name="number", distribution=IntDistribution(0, LARGEST_ENUMERATED), default=0),))
    assert Configurations(large, 1).left() == []
