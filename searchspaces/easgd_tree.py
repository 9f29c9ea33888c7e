"""The search space of the EASGD tree (Zhang 2016, section 6.1.2)."""

from atoll.searchspaces.easgd_family import SCHEDULE, learning_rate
from atoll.searchspaces.parameter import choice, integer
from atoll.searchspaces.space import SearchSpace

SECTION = "Zhang 2016, section 6.1.2"

SPACE = SearchSpace(
    (
        choice("scheme", ["multi_scale", "fast_up"], "multi_scale", source="Zhang 2016, section 6.1.1"),
        integer(
            "degree",
            2,
            16,
            16,
            log=True,
            symbol="d",
            unit="children",
            source=f"{SECTION} (16), down to what few ranks need",
        ),
        integer("tau_slow", 10, 100, 10, log=True, symbol="τ2, τd", unit="steps", source=f"{SECTION} (10, 80, 100)"),
        integer(
            "tau_fast",
            1,
            10,
            1,
            log=True,
            symbol="τ1, τu",
            unit="steps",
            source=f"{SECTION} (1, 8, 10)",
            at_most="tau_slow",
        ),
        learning_rate(5e-4, 5e-2, 5e-2),
        choice("momentum", [0.0, 0.9, 0.99], 0.0, symbol="δ", source=SECTION),
        *SCHEDULE,
    )
)
