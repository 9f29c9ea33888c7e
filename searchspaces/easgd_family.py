"""Parameters that the search spaces of source 003's methods share, with the ranges of its tables 4.1 to 4.3.

Its learning rates replace the shared optimizer space's, and its schedules are a constant rate and lr/(1 + gamma t)^0.5.
"""

from __future__ import annotations

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.searchspaces.space import Parameter

SCHEDULE = (
    Parameter(
        name="schedule",
        distribution=CategoricalDistribution(["constant", "inverse_sqrt"]),
        default="constant",
        source="003 sections 4.1 and 4.3.3",
    ),
    Parameter(
        name="lr_decay",
        distribution=FloatDistribution(1e-5, 1e-2, log=True),
        default=1e-4,
        symbol="γ",
        source="003 figure 4.13",
    ),
)
# The source's choices; its chapter 6 adds 0.9.
MOMENTUM = Parameter(
    name="momentum",
    distribution=CategoricalDistribution([0.0, 0.9, 0.99]),
    default=0.99,
    symbol="δ",
    source="003 sections 4.2 and 6.1.2",
)
TAU = Parameter(
    name="tau",
    distribution=IntDistribution(1, 64, log=True),
    default=10,
    symbol="τ",
    unit="steps",
    source="003 section 4.2 (1, 4, 16, 64; 10 typical)",
)
PUSH_TAU = Parameter(
    name="tau",
    distribution=IntDistribution(1, 64, log=True),
    default=1,
    symbol="τ",
    unit="steps",
    source="003 section 4.2 (1, 4, 16, 64)",
)
BETA = Parameter(
    name="beta",
    distribution=FloatDistribution(0.1, 1.0),
    default=0.9,
    symbol="β",
    source="003 section 4.2 (0.9), 5.1.3 (below 1 the center varies less than the replicas' mean)",
)
MOVING_RATE = Parameter(
    name="moving_rate",
    distribution=FloatDistribution(1e-4, 1e-1, log=True),
    default=0.001,
    source="003 section 4.2 (0.001), widened",
)


def learning_rate(low: float, high: float, default: float) -> Parameter:
    """The learning rates of a method's rows in tables 4.1 to 4.3."""
    return Parameter(
        name="learning_rate",
        distribution=FloatDistribution(low, high, log=True),
        default=default,
        symbol="η",
        source="003 tables 4.1 to 4.3",
    )
