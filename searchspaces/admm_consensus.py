"""The search space of consensus ADMM."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from atoll.searchspaces.easgd_family import SCHEDULE, learning_rate
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="form",
            distribution=CategoricalDistribution(["synchronous", "round_robin"]),
            default="synchronous",
            source="003 section 3.3",
        ),
        Parameter(
            name="rho",
            distribution=FloatDistribution(1e-2, 10.0, log=True),
            default=1.0,
            symbol="ρ",
            source="003 figure 3.2 (0 to 10)",
        ),
        learning_rate(0.005, 0.1, 0.05),
        *SCHEDULE,
    ),
    without=("momentum",),
)
