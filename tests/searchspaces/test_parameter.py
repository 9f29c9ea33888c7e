"""One parameter: its plain data, and those that only a study searches."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, json_to_distribution

from atoll.platform.study import registry
from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import Parameter


def test_distributions_serialize():
    for parameter in registry.whole_space("daso").parameters:
        assert json_to_distribution(parameter.as_dict()["distribution"]) == parameter.distribution


def test_a_study_searches_a_real_hyperparameter_over_reals_even_where_its_range_is_written_in_integers():
    for default in (0.5, None):
        made = Parameter.of_study("alpha", IntDistribution(0, 1), default)
        assert made.distribution == FloatDistribution(0, 1)
        assert made.default == 0.5
    assert Parameter.of_study("H", IntDistribution(1, 9), 8).distribution == IntDistribution(1, 9)
    assert Parameter.of_study("H", IntDistribution(1, 3), 8).default == 2


def test_one_line_makes_a_parameter():
    assert real("x", 0.1, 1.0, 0.5, log=True, unit="s") == Parameter(
        name="x", distribution=FloatDistribution(0.1, 1.0, log=True), default=0.5, unit="s"
    )
    assert integer("n", 1, 9, 3, at_most="m").distribution == IntDistribution(1, 9)
    assert choice("kind", ["a", "b"], "a").distribution == CategoricalDistribution(["a", "b"])
