"""The search space of stochastic gradient push."""

from atoll.searchspaces.parameter import choice, integer
from atoll.searchspaces.space import SearchSpace

SOURCE = "Assran, Loizou, Ballas and Rabbat 2019"

SPACE = SearchSpace(
    (
        choice(
            "graph", ["exponential", "ring"], "exponential", source=f"{SOURCE}: exponential; the ring is slower to mix"
        ),
        integer("staleness", 0, 2, 0, symbol="tau", unit="steps", source=f"{SOURCE}: 0, 1 (overlap SGP), 2"),
    ),
)
