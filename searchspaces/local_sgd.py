"""The search space of local SGD."""

from optuna.distributions import IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="H",
            distribution=IntDistribution(1, 64, log=True),
            default=8,
            symbol="H",
            unit="steps",
            source="003 section 4.2 (its tau of 1, 4, 16, 64)",
        ),
        Parameter(
            name="warmup_steps",
            distribution=IntDistribution(0, 256),
            default=0,
            unit="steps",
            source="post-local SGD (Lin et al., 2020)",
        ),
    )
)
