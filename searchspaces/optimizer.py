"""The optimizer space that all methods share, so that a comparison of methods searches the same settings.

`COSINE` shapes the cosine: methods whose source searches it have it in their spaces, and a study may add any of it
to another method's.
"""

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

COSINE = (
    Parameter(
        name="lr_warmup",
        distribution=FloatDistribution(0.0, 0.5),
        default=0.0,
        unit="share of the steps",
        source="001 tables A.3 (1 to 20 epochs of 200) and A.5 (2 to 10 of 20)",
    ),
    Parameter(
        name="warmup_lr",
        distribution=FloatDistribution(5e-6, 2e-4, log=True),
        default=1e-5,
        source="001 tables A.3 and A.5",
    ),
    Parameter(
        name="min_lr",
        distribution=FloatDistribution(5e-6, 1e-3, log=True),
        default=1e-5,
        source="001 tables A.3 and A.5",
    ),
    Parameter(
        name="lr_k_decay",
        distribution=FloatDistribution(1e-3, 2.0),
        default=1.0,
        symbol="k",
        source="001 tables A.3 (0.1 to 2) and A.5",
    ),
)
