"""The search space of PowerSGD."""

from optuna.distributions import IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="rank",
            distribution=IntDistribution(1, 32, log=True),
            default=4,
            symbol="r",
            source="Vogels et al. 2019, tables 3 and 7 (1, 2, 4; 4 to 32 for language)",
        ),
        Parameter(
            name="warmup_steps",
            distribution=IntDistribution(0, 1000),
            default=0,
            unit="steps",
            source="torch's hook (start_powerSGD_iter, 1000)",
        ),
    )
)
