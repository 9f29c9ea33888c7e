"""DASO's search space: table 3.1 of source 001 for B and S, section 3.2 for the rest."""

from optuna.distributions import CategoricalDistribution, IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="B",
            distribution=IntDistribution(1, 32, log=True),
            default=4,
            symbol="B",
            unit="batches",
            source="001 table 3.1",
        ),
        Parameter(
            name="S",
            distribution=IntDistribution(0, 32),
            default=1,
            symbol="S",
            unit="batches",
            source="001 table 3.1",
            at_most="B",
        ),
        Parameter(
            name="warmup_epochs", distribution=IntDistribution(0, 4), default=4, unit="epochs", source="001 section 3.2"
        ),
        Parameter(
            name="cooldown_epochs",
            distribution=IntDistribution(0, 4),
            default=4,
            unit="epochs",
            source="001 section 3.2",
        ),
        Parameter(
            name="wire",
            distribution=CategoricalDistribution(["float32", "float16", "bfloat16"]),
            default="bfloat16",
            source="001 sections 3.2 and 3.3.2",
        ),
        Parameter(
            name="adaptive", distribution=CategoricalDistribution([True, False]), default=True, source="001 section 3.2"
        ),
    )
)
