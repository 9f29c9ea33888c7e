"""The optimizer space that all methods share, so that a comparison of methods searches the same settings."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="learning_rate",
            distribution=FloatDistribution(1e-3, 1.0, log=True),
            default=0.1,
            symbol="η",
            source="001 tables 3.2 and A.6, widened",
        ),
        Parameter(name="momentum", distribution=FloatDistribution(0.0, 0.99), default=0.9, symbol="δ"),
        Parameter(name="weight_decay", distribution=FloatDistribution(1e-6, 1e-2, log=True), default=1e-4),
        Parameter(
            name="batch_size", distribution=IntDistribution(8, 128, log=True), default=32, unit="samples per rank"
        ),
        Parameter(
            name="schedule", distribution=CategoricalDistribution(["constant", "cosine", "linear"]), default="cosine"
        ),
    )
)
