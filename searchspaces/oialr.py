"""The search space of OIALR (Coquelin 2024, tables A.3 and A.5).

The tables count steps. Here they are shares of the training: table A.5's trainings have some 21,500 steps (ETTm2, 20
epochs of 34,369 windows in batches of 32); table A.3's batches of 1,024 make 49 steps an epoch of CIFAR-10, and 10,000
is the longest delay that it searches.
"""

from atoll.searchspaces.optimizer import COSINE
from atoll.searchspaces.parameter import choice, real
from atoll.searchspaces.space import SearchSpace

TABLES = "Coquelin 2024, tables A.3"

SPACE = SearchSpace(
    (
        real("learning_rate", 1e-5, 5e-3, 1e-3, log=True, symbol="η", source=f"{TABLES} (5e-5 to 1e-3) and A.5"),
        *COSINE,
        real(
            "delay",
            0.01,
            1.0,
            1 / 3,
            log=True,
            symbol="d",
            unit="share of the steps",
            source=f"{TABLES} (1,000 to 10,000 steps) and A.5 (250 to 2,500)",
        ),
        real(
            "update_period",
            0.0025,
            0.1,
            0.02,
            log=True,
            symbol="ν",
            unit="share of the steps",
            source=f"{TABLES} (200 to 1,000 steps) and A.5 (50 to 2,000)",
        ),
        real("beta", 0.01, 0.9, 0.1, symbol="β", source=f"{TABLES} and A.5, sigma cutoff fraction"),
        choice("full_rank_first", [False, True], False, source="Coquelin 2024, table A.5"),
        choice("full_rank_last", [False, True], True, source="Coquelin 2024, table A.5"),
    ),
    fixed=(("optimizer", "adamw"), ("schedule", "cosine")),
    exclude=("momentum",),
)
