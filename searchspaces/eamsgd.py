"""The search space of EAMSGD (003 tables 4.1 to 4.3)."""

from optuna.distributions import CategoricalDistribution

from atoll.searchspaces.easgd_family import BETA, MOMENTUM, SCHEDULE, TAU, learning_rate
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        TAU,
        BETA,
        Parameter(
            name="momentum_form",
            distribution=CategoricalDistribution(["nesterov", "heavy_ball"]),
            default="nesterov",
            source="003 section 2.3",
        ),
        learning_rate(0.001, 0.01, 0.005),
        MOMENTUM,
        *SCHEDULE,
    )
)
