"""The search space of DiLoCo."""

from optuna.distributions import FloatDistribution, IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="H",
            distribution=IntDistribution(4, 500, log=True),
            default=32,
            symbol="H",
            unit="steps",
            source="Douillard et al. 2023, section 3 (500), down to short trainings",
        ),
        Parameter(
            name="outer_learning_rate",
            distribution=FloatDistribution(0.1, 1.0),
            default=0.7,
            source="Douillard et al. 2023, table 5 (0.7)",
        ),
        Parameter(
            name="outer_momentum",
            distribution=FloatDistribution(0.0, 0.95),
            default=0.9,
            source="Douillard et al. 2023, table 5 (0.9)",
        ),
    )
)
