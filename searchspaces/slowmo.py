"""The search space of SlowMo."""

from atoll.searchspaces.parameter import choice, integer, real
from atoll.searchspaces.space import SearchSpace

SOURCE = "Wang, Tantia, Ballas and Rabbat 2020"

SPACE = SearchSpace(
    (
        integer("H", 4, 200, 12, log=True, symbol="tau", unit="steps", source=f"around those of {SOURCE}"),
        real("slow_momentum", 0.0, 0.95, 0.6, symbol="beta", source=f"around those of {SOURCE}"),
        real("slow_rate", 0.5, 1.5, 1.0, symbol="alpha", source=f"around that of {SOURCE}: 1"),
        choice("buffers", ["maintain", "reset"], "maintain", source=SOURCE),
    ),
)
