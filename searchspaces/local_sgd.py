"""The search space of local SGD."""

from atoll.searchspaces.parameter import integer, real
from atoll.searchspaces.space import SearchSpace

SPACE = SearchSpace(
    (
        integer(
            "H",
            1,
            64,
            8,
            log=True,
            symbol="H",
            unit="steps",
            source="Zhang 2016, section 4.2 (its tau of 1, 4, 16, 64)",
        ),
        real("warmup", 0.0, 0.5, 0.0, unit="share of the steps", source="post-local SGD (Lin et al. 2020: 0.5)"),
    )
)
