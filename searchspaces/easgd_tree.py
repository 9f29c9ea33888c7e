"""The search space of the EASGD tree (003 section 6.1.2)."""

from optuna.distributions import CategoricalDistribution, IntDistribution

from atoll.searchspaces.easgd_family import SCHEDULE, learning_rate
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="scheme",
            distribution=CategoricalDistribution(["multi_scale", "fast_up"]),
            default="multi_scale",
            source="003 section 6.1.1",
        ),
        Parameter(
            name="degree",
            distribution=IntDistribution(2, 16, log=True),
            default=16,
            symbol="d",
            unit="children",
            source="003 section 6.1.2 (16), down to what few ranks need",
        ),
        Parameter(
            name="tau_slow",
            distribution=IntDistribution(10, 100, log=True),
            default=10,
            symbol="τ2, τd",
            unit="steps",
            source="003 section 6.1.2 (10, 80, 100)",
        ),
        Parameter(
            name="tau_fast",
            distribution=IntDistribution(1, 10, log=True),
            default=1,
            symbol="τ1, τu",
            unit="steps",
            source="003 section 6.1.2 (1, 8, 10)",
            at_most="tau_slow",
        ),
        learning_rate(5e-4, 5e-2, 5e-2),
        Parameter(
            name="momentum",
            distribution=CategoricalDistribution([0.0, 0.9, 0.99]),
            default=0.0,
            symbol="δ",
            source="003 section 6.1.2",
        ),
        *SCHEDULE,
    )
)
