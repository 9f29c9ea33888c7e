"""The search space of AB training: section 5.3.3's ratios and what tables A.7 to A.9 used, both covered (001)."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.optimizer import COSINE
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(
            name="learning_rate",
            distribution=FloatDistribution(1e-4, 1e-2, log=True),
            default=1e-3,
            symbol="η",
            source="001 table A.9 and A.2 (0.003, 0.0035), widened",
        ),
        *COSINE,
        Parameter(
            name="warmup",
            distribution=FloatDistribution(0.1, 0.6),
            default=0.2,
            unit="share of the steps",
            source="001 section 5.3.3 (0.2), tables A.7 to A.9 (0.21 to 0.59)",
        ),
        Parameter(
            name="group_steps",
            distribution=FloatDistribution(0.02, 0.12, log=True),
            default=1 / 30,
            unit="share of the steps",
            source="001 section 5.3.3 (1/30), tables A.7 to A.9 (0.047 to 0.1)",
        ),
        Parameter(
            name="rebound",
            distribution=FloatDistribution(0.05, 0.5),
            default=0.25,
            unit="share of group_steps",
            source="001 section 5.3.3 (0.25), tables A.7 to A.9 (0.08 to 0.14)",
        ),
        Parameter(
            name="lr_rebound",
            distribution=FloatDistribution(0.1, 0.7),
            default=0.5,
            unit="share of group_steps",
            source="001 section 5.3.3 (0.5), tables A.7 to A.9 (0.22 to 0.35)",
        ),
        Parameter(
            name="cutoff",
            distribution=FloatDistribution(0.02, 0.5),
            default=0.15,
            source="001 table A.6 (0.15), widened",
        ),
        Parameter(
            name="group_size",
            distribution=IntDistribution(1, 8, log=True),
            default=4,
            unit="ranks",
            source="001 table A.6 (4)",
        ),
        Parameter(
            name="merge",
            distribution=CategoricalDistribution(["with_stale", "only_learned", "only_b", "full"]),
            default="with_stale",
            source="001 equation 5.8 and its comparators, section 5.3",
        ),
    ),
    fixed=(("optimizer", "adamw"), ("schedule", "cosine")),
    without=("momentum",),
)
