"""The search space of OIALR (001 tables A.3 and A.5).

The tables count steps. Here they are shares of the training: table A.5's trainings have some 21,500 steps (ETTm2, 20
epochs of 34,369 windows in batches of 32); table A.3's batches of 1,024 make 49 steps an epoch of CIFAR-10, and 10,000
is the longest delay that it searches.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from atoll.searchspaces.optimizer import COSINE
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="learning_rate",
            distribution=FloatDistribution(1e-5, 5e-3, log=True),
            default=1e-3,
            symbol="η",
            source="001 tables A.3 (5e-5 to 1e-3) and A.5",
        ),
        *COSINE,
        Parameter(
            name="delay",
            distribution=FloatDistribution(0.01, 1.0, log=True),
            default=1 / 3,
            symbol="d",
            unit="share of the steps",
            source="001 tables A.3 (1,000 to 10,000 steps) and A.5 (250 to 2,500)",
        ),
        Parameter(
            name="update_period",
            distribution=FloatDistribution(0.0025, 0.1, log=True),
            default=0.02,
            symbol="ν",
            unit="share of the steps",
            source="001 tables A.3 (200 to 1,000 steps) and A.5 (50 to 2,000)",
        ),
        Parameter(
            name="beta",
            distribution=FloatDistribution(0.01, 0.9),
            default=0.1,
            symbol="β",
            source="001 tables A.3 and A.5, sigma cutoff fraction",
        ),
        Parameter(
            name="full_rank_first",
            distribution=CategoricalDistribution([False, True]),
            default=False,
            source="001 table A.5",
        ),
        Parameter(
            name="full_rank_last",
            distribution=CategoricalDistribution([False, True]),
            default=True,
            source="001 table A.5",
        ),
    ),
    fixed=(("optimizer", "adamw"), ("schedule", "cosine")),
    without=("momentum",),
)
